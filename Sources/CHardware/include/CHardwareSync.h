/// Locks, clock and wake-ups of the C library, declared so that the data path may call them.
///
/// `Synchronization.Mutex` is not used: ThreadSanitizer cannot see through it on Linux.
#pragma once

CHW_INLINE void chw_mutex_lock(pthread_mutex_t *_Nonnull mutex) { (void)pthread_mutex_lock(mutex); }
CHW_INLINE void chw_mutex_unlock(pthread_mutex_t *_Nonnull mutex) { (void)pthread_mutex_unlock(mutex); }
CHW_INLINE void chw_condition_signal(pthread_cond_t *_Nonnull condition) { (void)pthread_cond_signal(condition); }
CHW_INLINE void chw_condition_broadcast(pthread_cond_t *_Nonnull condition) { (void)pthread_cond_broadcast(condition); }

/// Nanoseconds of a clock of `clock_gettime`.
CHW_INLINE uint64_t chw_clock_nanoseconds(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// Copies bytes that do not overlap.
CHW_INLINE void chw_copy(void *_Nonnull to, const void *_Nonnull from, size_t byte_count) { memcpy(to, from, byte_count); }

/// Brings a word that will be read soon into the processor's cache.
CHW_INLINE void chw_prefetch(const void *_Nonnull address) { __builtin_prefetch(address); }

/// Adds 1 to an eventfd. The counter cannot overflow in practice, so the result says nothing.
CHW_INLINE void chw_eventfd_signal(int descriptor) {
    const uint64_t one = 1;
    ssize_t done = write(descriptor, &one, sizeof one);
    (void)done;
}

/// Tells the processor that this is a spin-wait loop.
CHW_INLINE void chw_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/// Names the calling thread, as top and gdb show it; the kernel keeps 15 bytes. (pthread_setname_np is hidden from Swift.)
void chw_name_thread(const char *_Nonnull name);

/// The processors a thread may run on, a bit for each, as sched_getaffinity(2) and sched_setaffinity(2) tell and take them;
/// thread 0 is the calling one. 0 or an errno. (Both are hidden from Swift.)
int chw_get_processors(int thread, void *_Nonnull bits, size_t byte_count);
int chw_set_processors(int thread, const void *_Nonnull bits, size_t byte_count);

/// stat(2) that asks whoever serves the file rather than the kernel's memory of it: st_mode, or an errno. (statx is hidden
/// from Swift.)
int chw_type_now(const char *_Nonnull path, uint32_t *_Nonnull mode);

/// Zeroed memory in a file of its own that other processes can map, but not write, shrink or grow (memfd_create(2), sealed).
/// Where the kernel has huge pages for such files, memory of 2 MiB and more lies in them. Answers the file's descriptor, or a
/// negative errno. (memfd_create and its seals are hidden from Swift.)
int chw_shared_memory(const char *_Nonnull name, size_t byte_count, void *_Nullable *_Nonnull base);

/// Has all threads use one heap: glibc reserves 64 MiB of address space for each otherwise. (M_ARENA_MAX is hidden from Swift.)
void chw_share_heap(void);

/// The capabilities in force for the calling thread, a bit for each; what is in force and what may come in force again, set; 0 or
/// an errno. (capget and capset have no function in the C library.)
uint64_t chw_capabilities(void);
int chw_set_capabilities(uint64_t effective, uint64_t permitted);

/// Has no program that this thread or a later one of its children runs get a capability beside those kept, nor any right by the
/// owner of its file (PR_SET_NO_NEW_PRIVS). 0 or an errno.
int chw_forbid_privileges(uint64_t kept);

/// Lets all threads make the system calls that the daemon of a simulated card needs, and no other: EPERM (seccomp). 0 or an errno,
/// ESRCH when a thread could not be included.
int chw_filter_system_calls(void);

/// free(3), under a name that the allocation probe of the tests does not have to see through.
CHW_INLINE void chw_free(void *_Nullable memory) { free(memory); }

/// Gives the memory that nobody uses any more back to the machine.
CHW_INLINE void chw_trim(void) { malloc_trim(0); }
