/* Maps of files. A map cannot always be refused, and touching one ends in SIGBUS, which is caught here and nowhere else. */
#define _GNU_SOURCE
#include "operations.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

static sigjmp_buf after_the_fault;

static void on_fault(int number) {
    (void)number;
    siglongjmp(after_the_fault, 1);
}

void map_a_file(int fd) {
    static const size_t sizes[] = {1, 4096, 65536, 1 << 20};
    int rights = one_in(3) ? PROT_READ | PROT_WRITE : PROT_READ;
    size_t size = sizes[below(4)];
    size_t touched = below(size);
    unsigned char *place = mmap(NULL, size, rights, one_in(3) ? MAP_SHARED : MAP_PRIVATE, fd, (off_t)(below(4) * 4096));
    if (place == MAP_FAILED) return;
    struct sigaction action = {.sa_handler = on_fault}, before;
    sigaction(SIGBUS, &action, &before);
    if (sigsetjmp(after_the_fault, 1) == 0) {
        volatile unsigned char *at = place + touched;
        unsigned char seen = *at;
        if (rights & PROT_WRITE) *at = (unsigned char)(seen + 1);
    }
    sigaction(SIGBUS, &before, NULL);
    munmap(place, size);
}
