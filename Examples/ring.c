/* Reads what a card sends out of its mapped ring: ring MOUNT MEGABYTES [verify|write]
 * Looks at every cache line; with verify, checks every byte against the pattern of a simulated card whose sim/wire is source,
 * from wherever whole words were read before; with write, writes the bytes to standard output. */
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "cardfs_ring.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const uint64_t step = 0x9E3779B97F4A7C15u;

/* Where in the source's stream a word is: multiplied by the inverse of the step, of which each round doubles the right bits. */
static uint64_t place(const unsigned char *bytes) {
    uint64_t word, inverse = step;
    memcpy(&word, bytes, 8);
    for (int k = 0; k < 5; k++) inverse *= 2 - step * inverse;
    return word * inverse * 8;
}

/* Word k of the source is k times the golden ratio's fraction of 2^64. `*wrong` counts bytes that are not as they should be. */
static void check(const unsigned char *bytes, size_t count, uint64_t position, uint64_t *wrong) {
    size_t k = 0;
    if (position % 8 == 0) {
        uint64_t word = position / 8 * step, differences = 0;
        for (; k + 8 <= count; k += 8, word += step) {
            uint64_t found;
            memcpy(&found, bytes + k, 8);
            differences |= found ^ word;
        }
        if (differences != 0) ++*wrong;
    }
    for (; k < count; k++)
        if (bytes[k] != (unsigned char)((position + k) / 8 * step >> (position + k) % 8 * 8)) ++*wrong;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: ring MOUNT MEGABYTES [verify|write]\n");
        return 2;
    }
    uint64_t total = strtoull(argv[2], NULL, 0) << 20, done = 0, first = 0, wrong = 0, sum = 0;
    int verifies = argc > 3 && strcmp(argv[3], "verify") == 0, writes = argc > 3 && strcmp(argv[3], "write") == 0;
    struct cardfs_ring_reader reader;
    if (cardfs_ring_open(&reader, argv[1]) != 0) {
        perror("ring: open");
        return 1;
    }
    double start = now();
    while (done < total) {
        size_t wanted = total - done < 1 << 20 ? (size_t)(total - done) : 1 << 20;
        if (cardfs_ring_next(&reader, wanted) != 0) {
            if (errno == EINTR) continue;
            perror("ring: next");
            return 1;
        }
        for (unsigned k = 0; k < reader.ring.count; k++) {
            const unsigned char *bytes = cardfs_ring_piece(&reader, k);
            size_t length = reader.ring.pieces[k].length;
            if (verifies) {
                if (done == 0 && length >= 8) first = place(bytes);
                check(bytes, length, first + done, &wrong);
            } else if (writes) {
                if (fwrite(bytes, 1, length, stdout) != length) {
                    perror("ring: write");
                    return 1;
                }
            } else {
                for (size_t at = 0; at < length; at += 64) sum += bytes[at];
            }
            done += length;
        }
    }
    double seconds = now() - start;
    cardfs_ring_close(&reader);
    if (writes) return fflush(stdout) == 0 ? 0 : 1;
    printf("%llu bytes, %.3f s, %.0f MB/s%s\n", (unsigned long long)done, seconds, (double)done / seconds / 1e6,
           verifies ? wrong == 0 ? ", all right" : ", WRONG" : sum == 1 ? " " : "");
    return wrong == 0 ? 0 : 1;
}
