/* An event loop with EPOLLET, as libraries for events have it: eventloop MOUNT COUNT
 *
 * Sends COUNT packets of 16 bytes through dma/tx and takes them from dma/rx, each file drained to EAGAIN at each edge, and
 * reads interrupts/log and state beside. Says "removable" when all packets have come, and ends with status 0 when the card
 * has been removed and every file has said so. Any edge that is missing ends it by SIGALRM. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { TX, RX, LOG, STATE, FILES };
static const char *const names[] = {"dma/tx", "dma/rx", "interrupts/log", "state"};
static const uint32_t events[] = {EPOLLOUT, EPOLLIN, EPOLLIN, EPOLLIN | EPOLLPRI};

static int files[FILES], has_ended[FILES];
static uint64_t count, sent, received, next_line, lines, states;
/* What is left of a packet between two writes or reads. */
static uint8_t outgoing[64 * 16], incoming[4096 + 16], text[4096];
static size_t unsent, begun;
static uint32_t seed = 1;

static uint32_t draw(uint32_t limit) {
    seed = seed * 1103515245 + 12345;
    return (seed >> 16) % limit;
}

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "eventloop: %s: sent %lu, received %lu, lines %lu, errno %d\n", what, sent, received, lines, errno);
    exit(1);
}

/* False when the file would have to wait; at its end it is not asked any more. */
static int may_go_on(int index, ssize_t result) {
    if (result > 0) return 1;
    check(result < 0 && (errno == EAGAIN || errno == ENODEV), names[index]);
    if (errno == ENODEV) has_ended[index] = 1;
    return 0;
}

static void send_packets(void) {
    while (sent < count || unsent > 0) {
        if (unsent == 0) {
            uint64_t packets = 1 + draw(64);
            if (packets > count - sent) packets = count - sent;
            for (uint64_t packet = 0; packet < packets; packet++, sent++) {
                uint64_t words[] = {sent, ~sent};
                memcpy(outgoing + 16 * packet, words, 16);
            }
            unsent = 16 * packets;
        }
        ssize_t done = write(files[TX], outgoing, unsent);
        if (!may_go_on(TX, done)) return;
        memmove(outgoing, outgoing + done, unsent -= (size_t)done);
    }
}

static void take_packets(void) {
    for (;;) {
        ssize_t done = read(files[RX], incoming + begun, 1 + draw(4096));
        if (!may_go_on(RX, done)) return;
        begun += (size_t)done;
        size_t at = 0;
        for (; begun - at >= 16; at += 16, received++) {
            uint64_t words[2];
            memcpy(words, incoming + at, 16);
            check(words[0] == received && words[1] == ~received, "a packet is missing, or came twice");
        }
        memmove(incoming, incoming + at, begun -= at);
        if (received == count && begun == 0) {
            puts("removable");
            fflush(stdout);
        }
    }
}

static void take_lines(void) {
    static char line[256];
    static size_t length;
    for (;;) {
        ssize_t done = read(files[LOG], text, 1 + draw(sizeof text));
        if (!may_go_on(LOG, done)) return;
        for (ssize_t at = 0; at < done; at++) {
            if (text[at] != '\n') {
                check(length < sizeof line - 1, "a long line");
                line[length++] = (char)text[at];
                continue;
            }
            line[length] = 0;
            length = 0;
            if (strncmp(line, "lost ", 5) == 0) {
                next_line += strtoul(line + 5, NULL, 10);
                continue;
            }
            uint64_t number = strtoul(line, NULL, 10);
            check(lines == 0 || number == next_line, "an interrupt is missing, or came twice");
            next_line = number + 1;
            lines++;
        }
    }
}

static void take_state(void) {
    ssize_t done = pread(files[STATE], text, sizeof text - 1, 0);
    check(done > 0, "state");
    text[done] = 0;
    states++;
    if (strstr((char *)text, "Removed") != NULL) has_ended[STATE] = 1;
}

int main(int argc, char **argv) {
    check(argc == 3, "eventloop MOUNT COUNT");
    alarm(60);
    count = strtoul(argv[2], NULL, 10);
    int loop = epoll_create1(EPOLL_CLOEXEC);
    for (int index = 0; index < FILES; index++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], names[index]);
        files[index] = open(path, (index == TX ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
        check(files[index] >= 0, path);
        /* After the open, as most libraries do it. */
        check(fcntl(files[index], F_SETFL, fcntl(files[index], F_GETFL) | O_NONBLOCK) == 0, "fcntl");
        struct epoll_event event = {.events = events[index] | EPOLLET, .data.u32 = (uint32_t)index};
        check(epoll_ctl(loop, EPOLL_CTL_ADD, files[index], &event) == 0, "epoll_ctl");
    }
    void (*const handlers[])(void) = {send_packets, take_packets, take_lines, take_state};
    while (!(has_ended[TX] && has_ended[RX] && has_ended[LOG] && has_ended[STATE])) {
        struct epoll_event found[FILES];
        int ready = epoll_wait(loop, found, FILES, -1);
        check(ready > 0 || errno == EINTR, "epoll_wait");
        for (int at = 0; at < ready; at++) {
            int index = (int)found[at].data.u32;
            if (found[at].events & (EPOLLERR | EPOLLHUP)) {
                check(received == count, "removed too early");
                if (index == TX) has_ended[TX] = 1;
            }
            if (!has_ended[index]) handlers[index]();
        }
    }
    check(received == count && lines > 0 && states >= 2, "at the end");
    return 0;
}
