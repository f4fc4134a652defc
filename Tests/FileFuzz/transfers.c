/* Operations on open files: transfers of all kinds, waiting, and what is asked of a file besides. */
#define _GNU_SOURCE
#include "operations.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

void open_at_random(struct file *file) {
    const char *path = a_path();
    int flags = (int[]){O_RDONLY, O_WRONLY, O_RDWR}[below(3)];
    if (!strcmp(path, "dma/tx") && !one_in(8)) flags = O_WRONLY;
    if (!strcmp(path, "dma/rx") && !one_in(8)) flags = O_RDONLY;
    if (one_in(2)) flags |= O_NONBLOCK;
    if (one_in(6)) flags |= O_DIRECT;
    if (one_in(8)) flags |= O_SYNC;
    if (one_in(8)) flags |= O_DSYNC;
    if (one_in(8)) flags |= O_TRUNC;
    if (one_in(12)) flags |= O_APPEND;
    if (one_in(24)) flags |= O_CREAT;
    if (one_in(24)) flags |= O_PATH;
    say("open", path);
    *file = (struct file){open(path, flags | O_CLOEXEC, 0600), flags, path};
}

static void write_a_word(const struct file *file) {
    char text[200];
    size_t size = a_word(file->path, text, sizeof text);
    (void)!write(file->fd, text, size);
}

static void vectors(int fd, int is_write) {
    static const int choices[] = {0, 0, RWF_NOWAIT, RWF_DSYNC, RWF_SYNC, RWF_HIPRI, RWF_APPEND};
    struct iovec parts[4];
    int count = 1 + (int)below(4);
    for (int k = 0; k < count; k++) {
        size_t size = a_size() / (size_t)count;
        parts[k] = (struct iovec){some_memory(size), size};
    }
    int how = choices[below(sizeof choices / sizeof *choices)];
    off_t offset = one_in(2) ? -1 : an_offset();
    if (one_in(4))
        (void)!(is_write ? writev(fd, parts, count) : readv(fd, parts, count));
    else
        (void)!(is_write ? pwritev2(fd, parts, count, offset, how) : preadv2(fd, parts, count, offset, how));
}

static void wait_with_poll(int fd) {
    struct pollfd look = {fd, (short)(one_in(4) ? 0 : draw() & 0x1fff), 0};
    (void)poll(&look, 1, (int)below(4));
}

static void wait_with_epoll(int fd) {
    static int waiting = -1;
    if (waiting < 0) waiting = epoll_create1(EPOLL_CLOEXEC);
    uint32_t events = EPOLLIN | EPOLLOUT | (one_in(2) ? EPOLLET : 0) | (one_in(4) ? EPOLLONESHOT : 0);
    struct epoll_event event = {events, {.fd = fd}};
    int other = one_in(2) ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    if (epoll_ctl(waiting, EPOLL_CTL_ADD, fd, &event) < 0) (void)epoll_ctl(waiting, other, fd, &event);
    (void)epoll_wait(waiting, &event, 1, (int)below(3));
}

/* Those of the files of a card (type 'C'), two of terminals, and some that nobody has. */
static void control(int fd) {
    static const unsigned long numbers[] = {
        0x40044300, 0x40044301, 0x80044302, 0x80044303, 0x80084304, 0xc2184305, 0x5401, 0x541b, 0x40044399, 0xffffffff,
    };
    static unsigned char argument[16384];
    for (int k = 0; k < 24; k++) argument[k] = one_in(2) ? 0 : (unsigned char)draw();
    argument[3] = one_in(4) ? 0xff : 0;
    (void)ioctl(fd, numbers[below(sizeof numbers / sizeof *numbers)], argument);
}

static void change_flags(int fd) {
    int flags = fcntl(fd, F_GETFL);
    (void)fcntl(fd, F_SETFL, flags ^ (one_in(2) ? O_NONBLOCK : O_DIRECT));
}

static void change_size(int fd, size_t size) {
    if (one_in(2))
        (void)fallocate(fd, (int)below(4), an_offset(), (off_t)size);
    else
        (void)!ftruncate(fd, (off_t)below(9));
}

static void look(int fd) {
    struct stat status;
    (void)fstat(fd, &status);
    if (one_in(2)) (void)flock(fd, LOCK_SH | LOCK_NB);
}

static void duplicate(int fd) {
    int copy = dup(fd);
    if (copy < 0) return;
    if (one_in(2)) (void)!write(copy, some_memory(8), below(9));
    close(copy);
}

static void move_inside_the_kernel(int fd) {
    struct file *other = another_file();
    int ends[2];
    if (other && one_in(2)) {
        if (one_in(4))
            (void)!copy_file_range(fd, NULL, other->fd, NULL, below(100000), 0);
        else
            (void)!sendfile(other->fd, fd, NULL, below(100000));
    }
    if (pipe2(ends, O_CLOEXEC) < 0) return;
    (void)!splice(fd, NULL, ends[1], NULL, below(65536), SPLICE_F_NONBLOCK);
    (void)!splice(ends[0], NULL, fd, NULL, below(65536), SPLICE_F_NONBLOCK);
    close(ends[0]);
    close(ends[1]);
}

/* A child that has the files too, and does one thing with them or nothing; some children die of it. */
static void inherit(int fd) {
    pid_t child = fork();
    if (child < 0) return;
    if (child == 0) {
        struct itimerval often = {{0, 2000}, {0, 2000}};
        setitimer(ITIMER_REAL, &often, NULL);
        if (one_in(3)) (void)!write(fd, some_memory(5000), below(5000));
        if (one_in(3)) (void)!read(fd, some_memory(5000), below(5000));
        if (one_in(4)) raise(SIGKILL);
        _exit(0);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
}

void use_a_file(struct file *file) {
    int fd = file->fd;
    int choice = (int)below(30);
    size_t size = a_size();
    /* The kernel lets the writers of one O_APPEND open in one after the other, and no signal reaches those that wait: what one
     * open of this kind has several writers for is left out. */
    if (file->flags & O_APPEND && choice >= 27) choice = (int)below(27);
    static const char *const names[] = {
        [0 ... 4] = "read", [5 ... 8] = "write", [9 ... 11] = "a word into", [12] = "pread", [13] = "pwrite", [14] = "preadv2",
        [15] = "pwritev2", [16] = "poll", [17] = "epoll", [18] = "mmap", [19] = "ioctl", [20] = "fsync", [21] = "fcntl",
        [22] = "lseek", [23] = "fallocate", [24] = "fstat", [25] = "dup", [26] = "sendfile and splice", [27] = "a child with",
        [28] = "libaio", [29] = "io_uring",
    };
    say(names[choice], file->path);
    switch (choice) {
    case 0 ... 4: (void)!read(fd, some_memory(size), size); break;
    case 5 ... 8: (void)!write(fd, some_memory(size), size); break;
    case 9 ... 11: write_a_word(file); break;
    case 12: (void)!pread(fd, some_memory(size), size, an_offset()); break;
    case 13: (void)!pwrite(fd, some_memory(size), one_in(2) && size >= 4 ? 4 : size, an_offset()); break;
    case 14: vectors(fd, 0); break;
    case 15: vectors(fd, 1); break;
    case 16: wait_with_poll(fd); break;
    case 17: wait_with_epoll(fd); break;
    case 18: map_a_file(fd); break;
    case 19: control(fd); break;
    case 20: (void)!(one_in(2) ? fsync(fd) : fdatasync(fd)); break;
    case 21: change_flags(fd); break;
    case 22: (void)lseek(fd, an_offset(), (int)below(5)); break;
    case 23: change_size(fd, size); break;
    case 24: look(fd); break;
    case 25: duplicate(fd); break;
    case 26: move_inside_the_kernel(fd); break;
    case 27: inherit(fd); break;
    case 28: asynchronous_io(fd, one_in(2)); break;
    default: ring_io(fd, one_in(2));
    }
}
