/* The receive ring of a card, mapped: a program on the same machine and of the same user as the mount looks at what the card
 * has written where the card has written it, without a copy. Nothing here is needed but libc.
 *
 *     struct cardfs_ring_reader reader;
 *     if (cardfs_ring_open(&reader, "/mnt/card") != 0) ...
 *     while (cardfs_ring_next(&reader, 1 << 20) == 0)
 *         for (unsigned k = 0; k < reader.ring.count; k++)
 *             use(cardfs_ring_piece(&reader, k), reader.ring.pieces[k].length);
 *     cardfs_ring_close(&reader);
 *
 * What one call got stays the program's until the next call gives it back; the card writes on beside it. Whoever dies gives
 * everything back. The card uses its ring in order: behind a piece that is held it goes on until it comes round to it, then
 * waits, and with it every other reader. Hold pieces no longer than it takes: while others wait, a file holds at most half of the
 * ring, and what is in their way for longer than 10 s (-o loan_timeout=) is taken back.
 *
 * Errors, with the sentence in last_error: EINTR a signal; EAGAIN nothing there and the file is O_NONBLOCK (poll(2) works on
 * reader.file); ETIMEDOUT as for a read; ENOMEM everything is held, or half while others wait: give back and ask again (the
 * call does not wait, because those behind it would wait for a program that has to give back first); ECANCELED what was held
 * was taken back and may have been overwritten: ask again, and if that is ECANCELED too, the card was stopped or reset: close,
 * and open both files again; ENODEV it was removed; EOPNOTSUPP dma/engine is system, or the driver has no ring; EACCES from
 * open: another user. */
#ifndef CARDFS_RING_H
#define CARDFS_RING_H

#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CARDFS_RING_PIECES 64
/* Gives back all that is held. */
#define CARDFS_RING_ALL 0xffffffffu

/* How the last packet of a result ended. In stream framing there is no end. */
enum { CARDFS_END_NONE, CARDFS_END_EOP, CARDFS_END_EEP, CARDFS_END_MORE };

struct cardfs_ring {
    __u32 release; /* in: how many of the oldest results to give back first */
    __u32 count;   /* out: pieces */
    __u64 bytes;   /* in: bytes wanted, as of a read; 0 only gives back. out: bytes in the pieces */
    __u32 end;     /* out: CARDFS_END_ */
    __u32 reserved;
    struct {
        __u32 offset; /* from the first byte of the mapping */
        __u32 length; /* bytes */
    } pieces[CARDFS_RING_PIECES]; /* out */
};

/* ioctl(2) on dma/rx. Waits as a read of as many bytes does: until they are there, or 10 ms (-o gather=) after the last came. */
#define CARDFS_RING_NEXT _IOWR('C', 5, struct cardfs_ring)

struct cardfs_ring_reader {
    int file;                  /* dma/rx */
    const unsigned char *base; /* dma/buffer, mapped */
    size_t size;
    struct cardfs_ring ring; /* the last result */
};

/* Opens dma/rx of a mount and maps dma/buffer. 0, or -1 with errno. */
static inline int cardfs_ring_open(struct cardfs_ring_reader *reader, const char *mount) {
    char path[4096];
    struct stat status;
    memset(reader, 0, sizeof *reader);
    snprintf(path, sizeof path, "%s/dma/rx", mount);
    reader->file = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->file < 0) return -1;
    /* The first call ties the file to the ring as it is now; a ring that is made anew afterwards is noticed. */
    int memory = -1;
    if (ioctl(reader->file, CARDFS_RING_NEXT, &reader->ring) == 0) {
        snprintf(path, sizeof path, "%s/dma/buffer", mount);
        memory = open(path, O_RDONLY | O_CLOEXEC);
    }
    void *base = MAP_FAILED;
    if (memory >= 0 && fstat(memory, &status) == 0)
        base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, memory, 0);
    int failure = errno;
    if (memory >= 0) close(memory);
    if (base == MAP_FAILED) {
        close(reader->file);
        errno = failure;
        return -1;
    }
    reader->base = base;
    reader->size = (size_t)status.st_size;
    return 0;
}

/* Gives the last result back and waits for up to `wanted` bytes. 0, or -1 with errno; nothing is held then. */
static inline int cardfs_ring_next(struct cardfs_ring_reader *reader, size_t wanted) {
    reader->ring.release = CARDFS_RING_ALL;
    reader->ring.bytes = wanted;
    reader->ring.count = 0;
    return ioctl(reader->file, CARDFS_RING_NEXT, &reader->ring);
}

/* The bytes of a piece of the last result. */
static inline const void *cardfs_ring_piece(const struct cardfs_ring_reader *reader, unsigned index) {
    return reader->base + reader->ring.pieces[index].offset;
}

/* Gives everything back. */
static inline void cardfs_ring_close(struct cardfs_ring_reader *reader) {
    munmap((void *)reader->base, reader->size);
    close(reader->file);
}

#endif
