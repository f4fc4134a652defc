#define _GNU_SOURCE
#include "CHardware.h"

#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>

void chw_name_thread(const char *name) { (void)prctl(PR_SET_NAME, name); }

int chw_get_processors(int thread, void *bits, size_t byte_count) {
    return sched_getaffinity(thread, byte_count, bits) == 0 ? 0 : errno;
}

int chw_set_processors(int thread, const void *bits, size_t byte_count) {
    return sched_setaffinity(thread, byte_count, bits) == 0 ? 0 : errno;
}
