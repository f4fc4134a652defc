#!/bin/sh
# Registers: the ways to read and write them, on a simulated card of its own or on a card that is mounted already.
#
#   Examples/registers.sh [MOUNTPOINT]
#
# CARDFS names the executable; by default it is looked for in the build and in PATH. On a card that is mounted already
# the words at 0x20000…0x2001f are overwritten.
set -eu

. "$(dirname "$0")/common.sh"
mount_card "${1:-}"

# Compares what a command writes with what it should write.
shows() {
    printf '%-48s ' "$1"
    got=$(eval "$1")
    echo "$got"
    [ "$got" = "$2" ] || {
        echo "registers.sh: expected $2" >&2
        exit 1
    }
}
does() {
    printf '%s\n' "$1"
    eval "$1"
}
cd "$M"

echo "# bar0 is the 32-bit register at the selected offset of the window, which begins at 0x20000."
does 'echo 0x10 > offset'
does 'echo 0x12345678 > bar0'
shows 'cat offset' 0x00000010
shows 'cat bar0' 0x12345678

echo "# Numbers are decimal, 0x, 0b or 0o. 010 is refused: is it eight or ten?"
does 'echo 305419897 > bar0'
shows 'cat bar0' 0x12345679

echo "# data:mask changes only the bits of the mask: one load, one store."
does 'echo 0xff00:0xff00 > bar0'
shows 'cat bar0' 0x1234ff79

echo "# regs/OFFSET is any word of BAR0, with no state shared between shells; .b .w .l .q are its widths."
shows 'cat regs/0x20010' 0x1234ff79
shows 'cat regs/0x20010.b' 0x79
shows 'cat regs/0x20012.w' 0x1234
does 'echo 0x8877665544332211 > regs/0x20008.q'
shows 'cat regs/0x20008.l' 0x44332211

echo "# Named registers are beside them."
shows 'ls regs | tr "\n" " "' "$(ls regs | tr '\n' ' ')"
shows 'cat regs/scratch' "$(cat regs/scratch)"

echo "# resourceN is a BAR in binary, as in sysfs. One read or write of 1, 2, 4 or 8 bytes is exactly one bus access."
does "printf '\\001\\002\\003\\004' | dd of=resource0 bs=4 seek=$((0x20000 / 4)) conv=notrunc status=none"
shows 'cat regs/0x20000' 0x04030201
shows "dd if=resource0 bs=4 skip=$((0x20000 / 4)) count=1 status=none | od -A n -t x4" ' 04030201'

echo "# What cannot be done fails in write(2) itself, and last_error says why."
echo 'echo 0x100000000 > bar0'
if (echo 0x100000000 > bar0) 2> /dev/null; then exit 1; fi
echo 'cat regs/0x20011'
if cat regs/0x20011 2> /dev/null; then exit 1; fi
tail -n 2 last_error
