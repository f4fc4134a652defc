/* Random choices of one process, all from one seed, and memory for what is transferred. */
#define _GNU_SOURCE
#include "operations.h"

#define MEMORY (4 << 20)

static uint64_t state;
static unsigned char memory[MEMORY];

/* xorshift64*: small, and the same on every machine. */
uint64_t draw(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

void begin_choices(uint64_t seed) {
    state = seed | 1;
    for (int k = 0; k < 8; k++) draw();
    for (size_t k = 0; k < MEMORY; k++) memory[k] = (unsigned char)(draw() >> 32);
}

uint64_t below(uint64_t limit) { return (draw() >> 16) % limit; }

int one_in(unsigned n) { return below(n) == 0; }

size_t a_size(void) {
    switch (below(8)) {
    case 0: return below(9);
    case 1: return 4096 + below(3) - 1;
    case 2: return (1 << 20) + below(3) - 1;
    case 3: return below(2 << 20);
    default: return below(20000);
    }
}

unsigned char *some_memory(size_t size) {
    size_t place = below(MEMORY - size);
    return memory + (one_in(3) ? place & ~(size_t)4095 : place);
}

off_t an_offset(void) {
    static const off_t borders[] = {
        -1, 0, 1, 2, 4, 8, 0xfff, 0x1000, 0x20000, 0x21ffc, 0x22000, 0xfffff, 0x100000, 0x7fffffffffffffff,
    };
    if (one_in(3)) return borders[below(sizeof borders / sizeof *borders)];
    return (off_t)(below(0x24000) & ~(uint64_t)(one_in(4) ? 0 : 3));
}
