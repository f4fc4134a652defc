#define _GNU_SOURCE
#include "CHardware.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int chw_type_now(const char *path, uint32_t *mode) {
    struct statx attributes;
    if (statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &attributes) != 0) return errno;
    *mode = attributes.stx_mode;
    return 0;
}
