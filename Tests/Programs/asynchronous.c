/* One asynchronous direct transfer after the other, without a library: what databases and fio do to a file.
 *
 *   asynchronous pattern COUNT                       writes COUNT bytes whose place can be told from their value
 *   asynchronous libaio|io_uring probe               says by its status whether there is this way
 *   asynchronous libaio|io_uring write FILE COUNT OFFSET    sends them to FILE by one transfer, from memory OFFSET bytes past a page
 *   asynchronous libaio|io_uring read FILE COUNT OFFSET     reads COUNT bytes from FILE, and writes them to standard output
 *
 * Exit status 77 where the kernel does not offer the way. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(errno == ENOSYS || (errno == EPERM && strcmp(what, "io_uring_setup") == 0) ? 77 : 1);
}

static void fill(uint8_t *bytes, size_t count) {
    for (size_t at = 0; at < count; at++) bytes[at] = (uint8_t)((at / 4 * 2654435761u) >> (8 * (at % 4)));
}

static void put(const uint8_t *bytes, size_t count) {
    while (count > 0) {
        ssize_t done = write(1, bytes, count);
        if (done < 0) fail("write");
        bytes += done;
        count -= (size_t)done;
    }
}

/* Both do nothing more than get ready when there is nothing to move. */
static ssize_t by_libaio(int file, int writes, uint8_t *bytes, size_t count) {
    static aio_context_t context;
    if (context == 0 && syscall(SYS_io_setup, 8, &context) != 0) fail("io_setup");
    if (count == 0) return 0;
    struct iocb control = {
        .aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)file,
        .aio_buf = (uint64_t)(uintptr_t)bytes,
        .aio_nbytes = count,
    };
    struct iocb *list[] = {&control};
    if (syscall(SYS_io_submit, context, 1, list) != 1) fail("io_submit");
    struct io_event event;
    if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1) fail("io_getevents");
    return (ssize_t)event.res;
}

static ssize_t by_io_uring(int file, int writes, uint8_t *bytes, size_t count) {
    static struct io_uring_params parameters;
    static int ring = -1;
    static uint8_t *submissions, *completions;
    static struct io_uring_sqe *entries;
    if (ring < 0) {
        ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
        if (ring < 0) fail("io_uring_setup");
        submissions = mmap(NULL, parameters.sq_off.array + parameters.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                           IORING_OFF_SQ_RING);
        completions = mmap(NULL, parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe),
                           PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
        entries = mmap(NULL, parameters.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
        if (submissions == MAP_FAILED || completions == MAP_FAILED || entries == MAP_FAILED) fail("mmap");
    }
    if (count == 0) return 0;
    uint32_t *tail = (uint32_t *)(submissions + parameters.sq_off.tail);
    uint32_t mask = *(uint32_t *)(submissions + parameters.sq_off.ring_mask);
    uint32_t *array = (uint32_t *)(submissions + parameters.sq_off.array);
    uint32_t index = *tail & mask;
    entries[index] = (struct io_uring_sqe){
        .opcode = writes ? IORING_OP_WRITE : IORING_OP_READ,
        .fd = file,
        .addr = (uint64_t)(uintptr_t)bytes,
        .len = (uint32_t)count,
    };
    array[index] = index;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) fail("io_uring_enter");
    uint32_t *head = (uint32_t *)(completions + parameters.cq_off.head);
    while (__atomic_load_n((uint32_t *)(completions + parameters.cq_off.tail), __ATOMIC_ACQUIRE) == *head) {
        if (syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) fail("io_uring_enter");
    }
    struct io_uring_cqe *list = (struct io_uring_cqe *)(completions + parameters.cq_off.cqes);
    ssize_t result = list[*head & *(uint32_t *)(completions + parameters.cq_off.ring_mask)].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

int main(int argc, char **argv) {
    alarm(60);
    if (argc == 3 && strcmp(argv[1], "pattern") == 0) {
        size_t count = strtoul(argv[2], NULL, 0);
        uint8_t *bytes = malloc(count);
        fill(bytes, count);
        put(bytes, count);
        return 0;
    }
    ssize_t (*const move)(int, int, uint8_t *, size_t) = argc > 1 && strcmp(argv[1], "libaio") == 0 ? by_libaio : by_io_uring;
    if (argc == 3 && strcmp(argv[2], "probe") == 0) return (int)move(-1, 0, NULL, 0);
    if (argc != 6) return 64;
    int writes = strcmp(argv[2], "write") == 0;
    int file = open(argv[3], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    if (file < 0) fail(argv[3]);
    size_t count = strtoul(argv[4], NULL, 0), offset = strtoul(argv[5], NULL, 0);
    uint8_t *bytes = (uint8_t *)aligned_alloc(4096, (count + offset + 8191) / 4096 * 4096) + offset;
    if (writes) fill(bytes, count);
    for (size_t done = 0; done < count;) {
        ssize_t result = move(file, writes, bytes + done, count - done);
        if (result <= 0) {
            errno = (int)-result;
            fail(writes ? "asynchronous write" : "asynchronous read");
        }
        done += (size_t)result;
    }
    if (!writes) put(bytes, count);
    return close(file) == 0 ? 0 : 1;
}
