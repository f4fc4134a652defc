#!/bin/bash
# Throughput: dd into a sink, out of a source, and both at once through the loopback, with every byte accounted for.
#
#   Examples/throughput.sh [MEGABYTES [MOUNTPOINT]]        512 by default, for each line of the table
#
# The far end is a simulated one (sim/wire), so the figures are those of the software above a card: file system, driver,
# descriptors, copies. They say nothing about a link or about silicon.
set -eu

. "$(dirname "$0")/common.sh"
MEGABYTES=${1:-512}
mount_card "${2:-}"

BYTES=$((MEGABYTES * 1048576))

# Writes one line of the table: seconds are those of the wall.
line() {
    awk -v name="$1" -v size="$2" -v bytes="$3" -v start="$4" -v end="$5" -v check="$6" 'BEGIN {
        printf "%-26s %6s %9.0f %9.3f %9.0f  %s\n", name, size, bytes / 1048576, end - start,
            bytes / (end - start) / 1e6, check }'
}
now() { date +%s.%N; }
fail() {
    echo "throughput.sh: $*" >&2
    exit 1
}

echo "conditions: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)"
echo "            simulated card, options: $(awk -v m="$M" '$5 == m { print $NF }' /proc/self/mountinfo)"
printf '%-26s %6s %9s %9s %9s  %s\n' path bs MiB seconds MB/s check

for SIZE in 4096 65536 1M; do
    # A twentieth for small blocks: there are many of them to a megabyte.
    COUNT=$BYTES
    if [ $SIZE = 4096 ]; then COUNT=$((BYTES / 16)); fi

    echo sink > "$M/sim/wire"
    echo clear > "$M/sim/received"
    A=$(now)
    # conv=fsync: the clock stops when the card has the bytes, not when they are queued.
    dd if=/dev/zero of="$M/dma/tx" bs=$SIZE count=$COUNT iflag=count_bytes conv=fsync status=none
    B=$(now)
    [ "$(head -n 1 "$M/sim/received")" = "bytes $COUNT" ] || fail "the sink did not get $COUNT bytes"
    line "dd into dma/tx, sink" $SIZE $COUNT "$A" "$B" "$(tail -n 1 "$M/sim/received")"

    echo source > "$M/sim/wire"
    A=$(now)
    GOT=$(dd if="$M/dma/rx" of=/dev/null bs=$SIZE count=$COUNT iflag=count_bytes,fullblock 2>&1 |
        sed -n 's/^\([0-9]*\) bytes.*/\1/p')
    B=$(now)
    [ "$GOT" = "$COUNT" ] || fail "the source gave $GOT bytes of $COUNT"
    line "dd out of dma/rx, source" $SIZE $COUNT "$A" "$B" "$GOT bytes"

    echo loopback > "$M/sim/wire"
    # What the source had sent ahead is thrown away.
    echo flush > "$M/ctl"
    A=$(now)
    dd if=/dev/zero of="$M/dma/tx" bs=$SIZE count=$COUNT iflag=count_bytes status=none &
    SUM=$(dd if="$M/dma/rx" bs=$SIZE count=$COUNT iflag=count_bytes,fullblock status=none | cksum)
    wait $!
    B=$(now)
    [ "$SUM" = "$(head -c $COUNT /dev/zero | cksum)" ] || fail "other bytes came back than were sent"
    line "two dds, loopback, cksum" $SIZE $COUNT "$A" "$B" "same bytes"
done
