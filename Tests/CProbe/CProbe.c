#define _GNU_SOURCE
#include "CProbe.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

static __thread cprobe_counts counts __attribute__((tls_model("initial-exec")));
static __thread int counting __attribute__((tls_model("initial-exec")));

void cprobe_start(void) {
    counts = (cprobe_counts){0};
    counting = 1;
}

cprobe_counts cprobe_stop(void) {
    counting = 0;
    return counts;
}

#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static void *(*next_retain)(void *);
static void (*next_release)(void *);

__attribute__((constructor)) static void resolve(void) {
    next_retain = (void *(*)(void *))dlsym(RTLD_NEXT, "swift_retain");
    next_release = (void (*)(void *))dlsym(RTLD_NEXT, "swift_release");
}

static void count_allocation(void *caller) {
    if (!counting) return;
    counting = 0;
    Dl_info where;
    if (dladdr(caller, &where) != 0 && where.dli_fname != NULL && strstr(where.dli_fname, "libfuse3") != NULL)
        counts.fuse_allocations++;
    else
        counts.allocations++;
    counting = 1;
}

void *malloc(size_t size) { count_allocation(__builtin_return_address(0)); return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { count_allocation(__builtin_return_address(0)); return __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { count_allocation(__builtin_return_address(0)); return __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { count_allocation(__builtin_return_address(0)); return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { count_allocation(__builtin_return_address(0)); return __libc_memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
    count_allocation(__builtin_return_address(0));
    void *memory = __libc_memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *out = memory;
    return 0;
}
void free(void *memory) { counts.frees += (uint64_t)counting; __libc_free(memory); }

void *swift_retain(void *object) {
    if (next_retain == NULL) resolve();
    counts.retains += (uint64_t)counting;
    return next_retain(object);
}
void swift_release(void *object) {
    if (next_release == NULL) resolve();
    counts.releases += (uint64_t)counting;
    next_release(object);
}
int cprobe_available(void) { return 1; }

#else
int cprobe_available(void) { return 0; }
#endif
