#define _GNU_SOURCE
#include "CHardware.h"

#include <malloc.h>
#include <sys/stat.h>

static const size_t huge_page = (size_t)2 << 20;

/// Maps the file where huge pages can be, and asks for them: a kernel that has none, or no room left for them, gives ordinary
/// pages.
static void *map_densely(int file, size_t byte_count) {
    size_t slack = byte_count < huge_page ? 0 : huge_page;
    char *room = mmap(NULL, byte_count + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return MAP_FAILED;
    size_t before = slack == 0 ? 0 : -(uintptr_t)room & (huge_page - 1);
    char *base = mmap(room + before, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    if (base == MAP_FAILED) {
        int code = errno;
        munmap(room, byte_count + slack);
        errno = code;
        return MAP_FAILED;
    }
    if (before > 0) munmap(room, before);
    if (slack > before) munmap(base + byte_count, slack - before);
    if (slack > 0) (void)madvise(base, byte_count, MADV_HUGEPAGE);
    return base;
}

int chw_shared_memory(const char *name, size_t byte_count, void **base) {
    int file = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0) return -errno;
    int failure = 0;
    void *mapping = MAP_FAILED;
    if (ftruncate(file, (off_t)byte_count) != 0 || fchmod(file, 0400) != 0) {
        failure = errno;
    } else {
        mapping = map_densely(file, byte_count);
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

void chw_share_heap(void) { (void)mallopt(M_ARENA_MAX, 1); }
