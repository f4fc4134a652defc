#define _GNU_SOURCE
#include "CHardware.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

uint64_t chw_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    if (syscall(SYS_capget, &header, data) != 0) return 0;
    return (uint64_t)data[1].effective << 32 | data[0].effective;
}

int chw_set_capabilities(uint64_t effective, uint64_t permitted) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, 0},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), 0},
    };
    return syscall(SYS_capset, &header, data) == 0 ? 0 : errno;
}

int chw_forbid_privileges(uint64_t kept) {
    // A program that is run later gets no more, not even a setuid one.
    for (int capability = 0; capability < 64; capability++) {
        if (!(kept >> capability & 1)) (void)prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno;
}

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#endif

#ifdef NATIVE

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define ANSWER(code) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (code))
/// The call with this number.
#define CALL(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), ALLOW
/// The call with this number, if its argument, of which `mask` counts, is `value`; the low halves of arguments tell.
#define CALL_IF(name, argument, mask, value)                                                                                   \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 5), LOAD(args[argument]),                                              \
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (mask)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, 1), ALLOW, ANSWER(EPERM)
#define CALL_ANSWER(name, code) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), ANSWER(code)

int chw_filter_system_calls(void) {
    // What the daemon of a simulated card does from the time on when its mount answers, with what the C library and Swift do for
    // that; the calls of the data path first.
    static struct sock_filter program[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 1, 0),
        ANSWER(EPERM),
        LOAD(nr),
        CALL(read),
        CALL(writev),
        CALL(futex),
        CALL(write),
        CALL(sched_yield),
        CALL(clock_gettime),
        CALL(clock_nanosleep),
#ifdef __NR_poll
        CALL(poll),
#endif
        CALL(ppoll),
        CALL(readv),
        CALL(pread64),
        CALL(pwrite64),
        CALL(close),
        CALL(fcntl),
        CALL(dup),
        CALL(dup3),
#ifdef __NR_dup2
        CALL(dup2),
#endif
        CALL(eventfd2),
        // Memory, never to be run; and memory that is lent to programs.
        CALL(munmap),
        CALL(mremap),
        CALL(madvise),
        CALL(brk),
        CALL(mlock),
        CALL(munlock),
        CALL(memfd_create),
        CALL(ftruncate),
        CALL(fchmod),
        CALL_IF(mmap, 2, 4, 0),
        CALL_IF(mprotect, 2, 4, 0),
        // Threads, never processes. (The C library asks for clone3 first, whose arguments cannot be looked at.)
        CALL_ANSWER(clone3, ENOSYS),
        CALL_IF(clone, 0, 0x10000, 0x10000),
        CALL(set_robust_list),
        CALL(rseq),
        CALL(gettid),
        CALL(getpid),
        CALL(tgkill),
        CALL(exit),
        CALL(exit_group),
        CALL(rt_sigprocmask),
        CALL(rt_sigaction),
        CALL(rt_sigreturn),
        CALL(rt_sigtimedwait),
        CALL(sigaltstack),
        CALL(restart_syscall),
        CALL(nanosleep),
        CALL(gettimeofday),
        CALL(membarrier),
        CALL(sched_getaffinity),
        CALL_IF(prctl, 0, 0xffffffff, PR_SET_NAME),
        // What the kernel says in /proc, and the system log.
        CALL_IF(openat, 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY),
        CALL(fstat),
        CALL(newfstatat),
#ifdef __NR_readlink
        CALL(readlink),
#endif
        CALL(readlinkat),
        CALL(getdents64),
        CALL(lseek),
        CALL(getuid),
        CALL(geteuid),
        CALL(getgid),
        CALL(getegid),
        CALL(uname),
        CALL(sysinfo),
        CALL(getrandom),
        CALL(prlimit64),
#ifdef __NR_getrlimit
        CALL(getrlimit),
#endif
        CALL_IF(socket, 0, 0xffffffff, AF_UNIX),
        CALL(connect),
        CALL(sendto),
        CALL(sendmsg),
        // The end of the mount.
        CALL(umount2),
        ANSWER(EPERM),
    };
    const struct sock_fprog filter = {sizeof program / sizeof *program, program};
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
    return result == 0 ? 0 : result > 0 ? ESRCH : errno;
}

#else

int chw_filter_system_calls(void) { return EOPNOTSUPP; }

#endif
