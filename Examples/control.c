/* Reads or writes a word of a card's window through ioctl(2).
 *
 *     cc -o control Examples/control.c
 *     ./control /tmp/card/bar0                  where BAR0 lies
 *     ./control /tmp/card/bar0 0x10             reads the word at 0x10
 *     ./control /tmp/card/bar0 0x10 0xdeadbeef  writes it
 */
#include "cardfs_ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

int main(int count, char **words) {
    if (count < 2 || count > 4) {
        fprintf(stderr, "usage: %s BAR0 [OFFSET [VALUE]]\n", words[0]);
        return 2;
    }
    int card = open(words[1], count == 4 ? O_RDWR : O_RDONLY);
    if (card < 0) return fail(words[1]);
    if (count == 2) {
        __u64 address;
        if (ioctl(card, CARDFS_BAR0_ADDRESS64, &address) != 0) return fail("the address of BAR0");
        printf("0x%016llx\n", (unsigned long long)address);
        return 0;
    }
    __u32 offset = strtoul(words[2], NULL, 0), value;
    if (ioctl(card, CARDFS_SET_OFFSET, &offset) != 0) return fail(words[2]);
    if (count == 4) {
        value = strtoul(words[3], NULL, 0);
        if (ioctl(card, CARDFS_WRITE_REGISTER, &value) != 0) return fail("write");
    } else {
        if (ioctl(card, CARDFS_READ_REGISTER, &value) != 0) return fail("read");
        printf("0x%08x\n", value);
    }
    return close(card) != 0 ? fail("close") : 0;
}
