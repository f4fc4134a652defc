/* Random file operations of one process at a mount, for Tests/fuzz-files.py.
 *
 *     operations MOUNT SEED SECONDS STATUS SLOT
 *
 * The same seed does the same operations in the same order, as far as time and the other processes let it. What is being done
 * stands in slot SLOT of the file STATUS (a slot is 128 bytes: a running number, then words), so that a process that hangs can be
 * asked for its last act. A timer interrupts what waits. Ends by itself after SECONDS; it may be killed at any moment before. */
#define _GNU_SOURCE
#include "operations.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FILES 24
#define SLOTS 64

static struct file files[FILES];
static struct slot *slot;

void say(const char *what, const char *on) {
    slot->count++;
    snprintf(slot->text, sizeof slot->text, "%s %s", what, on);
}

struct file *another_file(void) {
    struct file *file = &files[below(FILES)];
    return file->fd < 0 ? NULL : file;
}

static void one_operation(void) {
    struct file *file = &files[below(FILES)];
    if (one_in(16)) {
        use_a_name();
    } else if (file->fd < 0) {
        open_at_random(file);
    } else if (one_in(10)) {
        say("close", file->path);
        close(file->fd);
        file->fd = -1;
    } else {
        use_a_file(file);
    }
}

static void on_alarm(int number) { (void)number; }

int main(int count, char **arguments) {
    if (count != 6 || chdir(arguments[1]) < 0) {
        fprintf(stderr, "usage: operations MOUNT SEED SECONDS STATUS SLOT\n");
        return 64;
    }
    int status = open(arguments[4], O_RDWR | O_CLOEXEC);
    struct slot *slots = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, status, 0);
    if (slots == MAP_FAILED) return 70;
    slot = slots + strtoul(arguments[5], NULL, 0) % SLOTS;
    begin_choices(strtoull(arguments[2], NULL, 0));
    for (int k = 0; k < FILES; k++) files[k].fd = -1;
    find_paths();

    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 7000}, {0, 7000}};
    setitimer(ITIMER_REAL, &often, NULL);

    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    time_t end = now.tv_sec + strtol(arguments[3], NULL, 0);
    while (now.tv_sec < end) {
        one_operation();
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    say("exit", "");
    return 0;
}
