# files.sh MOUNT NAME: the files every card has, checked with the same lines on each of them.
. /rig/check.sh

M=$1
N=$2
fits() { echo "$2" | grep -qxE "$1"; }

# Identity, as in sysfs.
is "$N: vendor is that of config" "0x$(dd if=$M/config bs=2 count=1 2> /dev/null | od -An -tx2 | tr -d ' ')" "$(cat $M/vendor)"
works "$N: devices/ leads back to the card" test "$(ls $M/devices/*/vendor)"
works "$N: lspci decodes the mount" lspci -n -A linux-sysfs -O sysfs.path=$M -vvv
has "$N: state" "power D0" "$(cat $M/state)"

# One register, four ways.
numbers=0
for register in $(ls $M/regs); do
    value=$(cat "$M/regs/$register" 2>&1)
    if fits '0x([0-9a-f]{8}|[0-9a-f]{16})' "$value"; then
        numbers=$((numbers + 1))
    else
        bad "$N: $register reads as a number" "$value"
    fi
done
is "$N: all named registers read as numbers" "$(ls $M/regs | wc -l)" $numbers
if [ -e $M/bar0 ]; then
    put 0 $M/offset
    is "$N: offset" 0x00000000 "$(cat $M/offset)"
fi
byte=$(dd if=$M/resource0 bs=4 count=1 2> /dev/null | od -An -tx4 | tr -d ' ')
is "$N: resource0 and regs/0x0 agree" "0x$byte" "$(cat $M/regs/0x0)"

# What is no register.
refused "$N: misaligned" "Invalid argument" cat $M/regs/0x3
refused "$N: beyond the BAR" "Numerical result out of range" cat $M/regs/0xfffffff0
refused "$N: not a number" "Invalid argument" put twelve $M/regs/0x0
told "$N: the sentence" $M "EINVAL"

# Data.
if [ -e $M/dma/tx ]; then
    for size in 1 2 3 4 5 63 64 65 1000 4094 4095; do
        random $size /tmp/out
        dd if=/tmp/out of=$M/dma/tx bs=4095 2> /tmp/said || bad "$N: $size bytes to the card" "$(cat /tmp/said)"
        dd if=$M/dma/rx of=/tmp/in bs=$size count=1 2> /tmp/said || bad "$N: $size bytes from the card" "$(cat /tmp/said)"
        same "$N: $size bytes there and back" /tmp/out /tmp/in
    done
    random 65536 /tmp/out
    dd if=/tmp/out of=$M/dma/tx bs=4096 2> /tmp/sent &
    dd if=$M/dma/rx of=/tmp/in bs=65536 count=1 iflag=fullblock 2> /tmp/received
    wait
    same "$N: 64 KiB in pieces" /tmp/out /tmp/in
    refused "$N: dma/tx is not read" "Permission denied" dd if=$M/dma/tx bs=1 count=1
    refused "$N: dma/rx is not written" "Permission denied" put x $M/dma/rx

    put packet $M/dma/framing
    printf 'one' > $M/dma/tx
    is "$N: a packet" one "$(dd if=$M/dma/rx bs=4096 count=1 2> /dev/null)"
    is "$N: its end" EOP "$(cat $M/dma/rx_end)"
    put stream $M/dma/framing
fi

works "$N: metrics" grep -q '^cardfs' $M/metrics.prom
refused "$N: an unknown command" "Invalid argument" put dance $M/ctl
works "$N: reset" put reset $M/ctl
has "$N: state after reset" "power D0" "$(cat $M/state)"
works "$N: half of no limit of a user was reached" sh /rig/shares.sh $M
