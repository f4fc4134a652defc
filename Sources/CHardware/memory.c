#define _GNU_SOURCE
#include "CHardware.h"

#include <sys/stat.h>

int chw_shared_memory(const char *name, size_t byte_count, void **base) {
    int file = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0) return -errno;
    int failure = 0;
    void *mapping = MAP_FAILED;
    if (ftruncate(file, (off_t)byte_count) != 0 || fchmod(file, 0400) != 0) {
        failure = errno;
    } else {
        mapping = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapping == MAP_FAILED) {
            failure = errno;
        } else if (fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
            failure = errno;
        }
    }
    if (failure == 0) {
        *base = mapping;
        return file;
    }
    if (mapping != MAP_FAILED) munmap(mapping, byte_count);
    close(file);
    return -failure;
}
