/* How long one read of a small file takes, for any filesystem: the median and the 99th percentile, in microseconds.
 *
 *   cc -O2 -o latency Examples/latency.c
 *   ./latency pread FILE COUNT [CPU]      the file stays open (O_DIRECT where the filesystem takes it)
 *   ./latency open FILE COUNT [CPU]       open, read and close each time, as cat does
 *
 * With CPU, this program stays on that processor; where the daemon runs is set from outside (taskset -a -p). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char buffer[4096] __attribute__((aligned(4096)));

static int open_file(const char *path) {
    int file = open(path, O_RDONLY | O_DIRECT);
    if (file < 0 && errno == EINVAL) file = open(path, O_RDONLY);
    if (file < 0) {
        perror(path);
        exit(1);
    }
    return file;
}

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    if (count < 4 || (strcmp(words[1], "pread") != 0 && strcmp(words[1], "open") != 0)) {
        fprintf(stderr, "usage: %s pread|open FILE COUNT [CPU]\n", words[0]);
        return 2;
    }
    const int opens = strcmp(words[1], "open") == 0;
    const char *path = words[2];
    const long samples = atol(words[3]);
    if (samples < 100) {
        fprintf(stderr, "%s: COUNT is at least 100\n", words[0]);
        return 2;
    }
    if (count > 4) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(words[4]), &set);
        if (sched_setaffinity(0, sizeof set, &set) != 0) {
            perror("sched_setaffinity");
            return 1;
        }
    }
    double *times = malloc((size_t)samples * sizeof *times);
    if (times == NULL) return 1;
    int file = opens ? -1 : open_file(path);
    /* A tenth as many go before, unmeasured. */
    for (long index = -samples / 10; index < samples; index++) {
        double start = microseconds();
        if (opens) file = open_file(path);
        if (pread(file, buffer, sizeof buffer, 0) <= 0) {
            perror("pread");
            return 1;
        }
        if (opens) close(file);
        double end = microseconds();
        if (index >= 0) times[index] = end - start;
    }
    qsort(times, (size_t)samples, sizeof *times, compare);
    printf("%.2f %.2f\n", times[samples / 2], times[samples * 99 / 100]);
    return 0;
}
