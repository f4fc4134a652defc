#!/bin/bash
# The long transfers, at full size: 1 GiB of random bytes and of packets through the loopback, compared byte for byte; a wait
# of the default length; ten seconds of two shells at the registers. Some minutes, 3 GiB of TMPDIR.
#
#   Tests/soak.sh [MEGABYTES]        1024 by default
set -eu -o pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
MEGABYTES=${1:-1024}
CARDFS=${CARDFS:-$ROOT/.build/release/cardfs}
T=$(mktemp -d "${TMPDIR:-/tmp}/cardfs-soak.XXXXXX")
M=$T/card
mkdir "$M"
leave() {
    status=$?
    trap - EXIT INT TERM
    if mountpoint -q "$M"; then "$CARDFS" unmount "$M" || "$CARDFS" unmount --force "$M" || status=1; fi
    rm -rf "$T/in" "$T/packets.py"
    rmdir "$M" "$T" || status=1
    exit $status
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

began=$SECONDS
step() {
    echo "$((SECONDS - began)) s: $*"
}
fail() {
    echo "soak.sh: $*" >&2
    exit 1
}

"$CARDFS" mount sim "$M"
head -c "${MEGABYTES}M" /dev/urandom > "$T/in"

for SIZE in 512 4096 65536 1M 4M; do
    BYTES=$((MEGABYTES * 1048576))
    if [ $SIZE = 512 ]; then BYTES=$((BYTES / 16)); fi
    step "$BYTES random bytes through two dds, bs=$SIZE"
    dd if="$T/in" of="$M/dma/tx" bs=$SIZE count=$BYTES iflag=count_bytes status=none &
    # head ends at the last byte; the dd in front of it then sits in a read for which nothing comes, and is stopped.
    timeout 600 dd if="$M/dma/rx" bs=$SIZE count=$BYTES iflag=count_bytes,fullblock status=none |
        cmp - <(head -c $BYTES "$T/in") || fail "bs=$SIZE: other bytes came back"
    wait $!
done

cat > "$T/packets.py" << 'END'
import os, sys
mount, size, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = os.urandom(size + 4096)
sender = os.fork()
if sender == 0:
    tx = os.open(mount + "/dma/tx", os.O_WRONLY)
    for index in range(count): assert os.write(tx, memoryview(data)[index & 4095:(index & 4095) + size]) == size
    os.close(tx)
    os._exit(0)
rx = os.open(mount + "/dma/rx", os.O_RDONLY)
for index in range(count):
    got = os.read(rx, 1 << 20)
    assert got == data[index & 4095:(index & 4095) + size], (index, len(got))
assert os.waitpid(sender, 0)[1] == 0
END
echo packet > "$M/dma/framing"
for SIZE_AND_TOTAL in 1:65536 5000:$((MEGABYTES * 65536)) 65535:$((MEGABYTES * 1048576)) 1044480:$((MEGABYTES * 1048576)); do
    SIZE=${SIZE_AND_TOTAL%:*}
    COUNT=$((${SIZE_AND_TOTAL#*:} / SIZE))
    step "$COUNT packets of $SIZE bytes"
    timeout 600 python3 "$T/packets.py" "$M" "$SIZE" "$COUNT" || fail "packets of $SIZE bytes"
done
echo stream > "$M/dma/framing"

step "4 GiB of zeros into the sink"
echo sink > "$M/sim/wire"
echo clear > "$M/sim/received"
dd if=/dev/zero of="$M/dma/tx" bs=1M count=4096 conv=fsync 2>&1 | tail -n 1
[ "$(head -n 1 "$M/sim/received")" = "bytes 4294967296" ] || fail "the sink did not get 4 GiB"
tail -n 1 "$M/sim/received"

step "4 GiB out of the source"
echo source > "$M/sim/wire"
dd if="$M/dma/rx" of=/dev/null bs=1M count=4096 iflag=fullblock 2>&1 | tail -n 1
echo loopback > "$M/sim/wire"
echo flush > "$M/ctl"

step "1000 MiB into the loopback with nobody reading: ETIMEDOUT after 10 s"
! dd if=/dev/zero of="$M/dma/tx" bs=1M count=1000 2> /dev/null || fail "nobody read, and everything was accepted"
grep -q 'ETIMEDOUT the receiver is full: read dma/rx, or write sink to sim/wire' "$M/last_error" || fail "no sentence"
echo flush > "$M/ctl"
printf hello > "$M/dma/tx"
[ "$(head -c 5 "$M/dma/rx")" = hello ] || fail "the stream does not go on after flush"

step "two shells at the registers for 10 s"
hammer() {
    local end=$((SECONDS + 10)) i=0 value
    while [ $SECONDS -lt $end ]; do
        i=$((i + 1))
        echo $((i * 65537)) > "$M/regs/$1"
        read -r value < "$M/regs/$1"
        [ $((value)) = $((i * 65537 & 0xffffffff)) ] || return 1
        echo "$2" > "$M/regs/0x20200"
        read -r value < "$M/regs/0x20200"
        [ $((value)) = $((0x11111111)) ] || [ $((value)) = $((0x22222222)) ] || return 1
    done
}
hammer 0x20100 0x11111111 &
FIRST=$!
hammer 0x20104 0x22222222 || fail "a wrong value"
wait $FIRST || fail "a wrong value"

sh "$ROOT/Tests/guest/shares.sh" "$M" || fail "half of a limit of one user was reached"

step "done; $(sed -n 's/^VmRSS:[^0-9]*//p' "/proc/$(pgrep -f -x ".*mount sim $M.*")/status") resident"
