#define _GNU_SOURCE
#include "CVFIO.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 64

/// A mapping of device memory. `base` is written last and cleared first: a handler that sees it sees the rest.
static struct {
    _Atomic(uintptr_t) base;
    _Atomic(size_t) byte_count;
    _Atomic(_Atomic(bool) *) lost;
} slots[SLOTS];

static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction before;
static size_t page_bytes;

/// A fault that is none of ours goes to whoever was there before; by default the process ends with the signal.
static void pass_on(int number, siginfo_t *info, void *context) {
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else {
        signal(number, SIG_DFL);  // The access is made again, and ends the process as it would have.
    }
}

/// Runs on the thread that accessed the device. mmap and memset are system call and plain stores: safe here.
static void handle(int number, siginfo_t *info, void *context) {
    const int saved = errno;
    const uintptr_t address = (uintptr_t)info->si_addr;
    for (int index = 0; index < SLOTS; index++) {
        const uintptr_t base = atomic_load(&slots[index].base);
        if (base == 0 || address < base || address - base >= atomic_load(&slots[index].byte_count)) continue;
        _Atomic(bool) *lost = atomic_load(&slots[index].lost);
        if (lost != NULL) atomic_store(lost, true);
        void *page = (void *)(address & ~(uintptr_t)(page_bytes - 1));
        // Filled before it takes the place, so that another thread cannot see zeroes in between.
        void *ones = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (ones == MAP_FAILED) break;
        memset(ones, 0xff, page_bytes);
        if (mremap(ones, page_bytes, page_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) {
            munmap(ones, page_bytes);
            break;
        }
        errno = saved;
        return;
    }
    errno = saved;
    pass_on(number, info, context);
}

static void install(void) {
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

int cvfio_guard_add(void *base, size_t byte_count, bool *lost) {
    pthread_once(&once, install);
    int found = -1;
    pthread_mutex_lock(&table);
    for (int index = 0; index < SLOTS && found < 0; index++) {
        if (atomic_load(&slots[index].base) != 0) continue;
        atomic_store(&slots[index].lost, (_Atomic(bool) *)lost);
        atomic_store(&slots[index].byte_count, byte_count);
        atomic_store(&slots[index].base, (uintptr_t)base);
        found = index;
    }
    pthread_mutex_unlock(&table);
    return found;
}

void cvfio_guard_remove(int slot) {
    pthread_mutex_lock(&table);
    if (slot >= 0 && slot < SLOTS) atomic_store(&slots[slot].base, 0);
    pthread_mutex_unlock(&table);
}

bool cvfio_guard_take_lost(bool *lost) { return atomic_exchange((_Atomic(bool) *)lost, false); }
