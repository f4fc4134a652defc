/// libfuse 3 as Swift can use it: macros made functions, and the calls of the data path declared so that `@_noLocks` admits them.
#pragma once

#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

/* Redeclared only to carry the attribute: none of these allocates Swift memory or retains. */
#define CFUSE_HOT __attribute__((swift_attr("@_noLocks")))
CFUSE_HOT int fuse_reply_err(fuse_req_t req, int err);
CFUSE_HOT void fuse_reply_none(fuse_req_t req);
CFUSE_HOT int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size);
CFUSE_HOT int fuse_reply_iov(fuse_req_t req, const struct iovec *iov, int count);
CFUSE_HOT int fuse_reply_write(fuse_req_t req, size_t count);
CFUSE_HOT int fuse_reply_poll(fuse_req_t req, unsigned revents);
CFUSE_HOT void *fuse_req_userdata(fuse_req_t req);
CFUSE_HOT const struct fuse_ctx *fuse_req_ctx(fuse_req_t req);
CFUSE_HOT void fuse_req_interrupt_func(fuse_req_t req, fuse_interrupt_func_t func, void *data);
CFUSE_HOT int fuse_req_interrupted(fuse_req_t req);

/* libfuse 3.17 makes a macro of fuse_session_new; a function of our own stays a function. */
static inline struct fuse_session *cfuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, void *userdata) {
    return fuse_session_new(args, ops, sizeof *ops, userdata);
}

/* Tests play the kernel over a socket pair. */
static inline ssize_t cfuse_io_writev(int fd, struct iovec *iov, int count, void *userdata) {
    (void)userdata;
    return writev(fd, iov, count);
}
static inline ssize_t cfuse_io_read(int fd, void *buf, size_t length, void *userdata) {
    (void)userdata;
    return read(fd, buf, length);
}
static inline int cfuse_session_use_socket(struct fuse_session *session, int fd) {
    const struct fuse_custom_io io = {.writev = cfuse_io_writev, .read = cfuse_io_read};
    return fuse_session_custom_io(session, &io, fd);
}

/* O_DIRECT needs _GNU_SOURCE, which Swift's importer does not set. */
static const int CHW_O_DIRECT = 040000;

/* fuse_reply_buf for memory of any type. */
CFUSE_HOT static inline int cfuse_reply_bytes(fuse_req_t req, const void *bytes, size_t size) {
    return fuse_reply_buf(req, (const char *)bytes, size);
}

/* fuse_reply_ioctl with a result of 0. */
CFUSE_HOT static inline int cfuse_reply_control(fuse_req_t req, const void *bytes, size_t size) {
    return fuse_reply_ioctl(req, 0, bytes, size);
}

/* fuse_req_interrupt_func with a function pointer Swift can name. */
typedef void (*cfuse_interrupted)(fuse_req_t _Nullable req, void *_Nullable data);
CFUSE_HOT static inline void cfuse_on_interrupt(fuse_req_t _Nonnull req, cfuse_interrupted _Nonnull function, void *_Nullable data) {
    fuse_req_interrupt_func(req, function, data);
}
