/* Asynchronous transfers by the kernel's own interfaces, without a library: some are left behind, for the process's end to cancel. */
#define _GNU_SOURCE
#include "operations.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void asynchronous_io(int fd, int is_write) {
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, 4, &context) < 0) return;
    struct iocb blocks[3], *list[3];
    int count = 1 + (int)below(3);
    for (int k = 0; k < count; k++) {
        size_t size = a_size();
        memset(&blocks[k], 0, sizeof blocks[k]);
        blocks[k].aio_lio_opcode = one_in(8) ? IOCB_CMD_POLL : is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        blocks[k].aio_fildes = (uint32_t)fd;
        blocks[k].aio_buf = blocks[k].aio_lio_opcode == IOCB_CMD_POLL ? POLLIN : (uint64_t)(uintptr_t)some_memory(size);
        blocks[k].aio_nbytes = blocks[k].aio_lio_opcode == IOCB_CMD_POLL ? 0 : size;
        list[k] = &blocks[k];
    }
    long accepted = syscall(SYS_io_submit, context, count, list);
    struct io_event events[3];
    struct timespec soon = {0, 2000000};
    if (accepted > 0 && !one_in(3)) (void)syscall(SYS_io_getevents, context, 1, accepted, events, &soon);
    if (accepted > 0 && one_in(3)) (void)syscall(SYS_io_cancel, context, list[0], events);
    /* Waits for what is under way: a poll that nobody ends would keep it, so it is cancelled. */
    for (long k = 0; k < accepted; k++)
        if (blocks[k].aio_lio_opcode == IOCB_CMD_POLL) (void)syscall(SYS_io_cancel, context, list[k], events);
    (void)syscall(SYS_io_destroy, context);
}

void ring_io(int fd, int is_write) {
    struct io_uring_params set;
    memset(&set, 0, sizeof set);
    int ring = (int)syscall(SYS_io_uring_setup, 8, &set);
    if (ring < 0) return;
    size_t queue_bytes = set.sq_off.array + set.sq_entries * sizeof(uint32_t);
    unsigned char *queue = mmap(NULL, queue_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries =
        mmap(NULL, set.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
    if (queue != MAP_FAILED && entries != MAP_FAILED) {
        uint32_t *tail = (uint32_t *)(queue + set.sq_off.tail);
        uint32_t mask = *(uint32_t *)(queue + set.sq_off.ring_mask);
        uint32_t *array = (uint32_t *)(queue + set.sq_off.array);
        uint32_t count = 1 + (uint32_t)below(4);
        for (uint32_t k = 0; k < count; k++) {
            struct io_uring_sqe *entry = &entries[k];
            size_t size = a_size();
            memset(entry, 0, sizeof *entry);
            entry->fd = fd;
            entry->user_data = k + 1;
            switch (below(6)) {
            case 0:
                entry->opcode = IORING_OP_POLL_ADD;
                entry->poll32_events = POLLIN | POLLOUT;
                break;
            case 1:
                entry->opcode = IORING_OP_FSYNC;
                break;
            case 2:
                entry->opcode = IORING_OP_ASYNC_CANCEL;
                entry->addr = 1;
                break;
            default:
                entry->opcode = is_write ? IORING_OP_WRITE : IORING_OP_READ;
                entry->addr = (uint64_t)(uintptr_t)some_memory(size);
                entry->len = (uint32_t)size;
                entry->off = (uint64_t)-1;
            }
            if (one_in(4)) entry->flags = IOSQE_ASYNC;
            array[k & mask] = k;
        }
        __atomic_store_n(tail, *tail + count, __ATOMIC_RELEASE);
        (void)syscall(SYS_io_uring_enter, ring, count, one_in(2) ? 1 : 0, IORING_ENTER_GETEVENTS, NULL, 0);
    }
    if (queue != MAP_FAILED) munmap(queue, queue_bytes);
    if (entries != MAP_FAILED) munmap(entries, set.sq_entries * sizeof *entries);
    /* Closing the ring cancels what is still under way. */
    close(ring);
}
