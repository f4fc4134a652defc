#!/bin/bash
# cardfs beside other filesystems in user space, in one table, measured in turn on this machine.
#
#   Examples/compare.sh [ROUNDS]        5 by default; needs root, for the placement of daemons, and less than 5 minutes
#
# The others are libfuse's own C examples, built from what Debian's libfuse3-dev ships: null.c, which drops what is written and
# reads as zeros, and hello_ll.c, one small file. Beside them OWFS on its fake bus, and nbdfuse over nbdkit's memory disk,
# when they are installed (apt-get install owfs-fuse libnbd-bin nbdkit).
#
# A ratio is the median over the rounds of cardfs divided by the other in the same round. cardfs moves and checks each byte:
# the far end of the simulated card tells bytes and CRC-32C. Figures of software above a simulated card.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/common.sh"
ROUNDS=${1:-5}
MEGABYTES=1024
SAMPLES=20000
[ "$(id -u)" = 0 ] || {
    echo "compare.sh: run as root: the placement of other users' daemons is set" >&2
    exit 1
}
[ -x "$CARDFS" ] || {
    echo "compare.sh: there is no cardfs; build it first: swift build -c release" >&2
    exit 1
}
SOURCES=/usr/share/doc/libfuse3-dev/examples
for TOOL in cc pkg-config taskset dd; do
    command -v $TOOL > /dev/null || {
        echo "compare.sh: $TOOL is missing: apt-get install gcc pkg-config util-linux coreutils" >&2
        exit 1
    }
done
ls $SOURCES/null.c* > /dev/null 2>&1 || {
    echo "compare.sh: $SOURCES has no examples: apt-get install libfuse3-dev (and let dpkg keep documentation)" >&2
    exit 1
}

# 1. What is compared.

W=$(mktemp -d)
DAEMONS=""
finish() {
    status=$?
    trap - EXIT INT TERM HUP
    cd /
    for PLACE in "$W"/card* ; do mountpoint -q "$PLACE" && { "$CARDFS" unmount --force "$PLACE" || status=1; }; done
    for PLACE in "$W"/null* "$W/hello" "$W/owfs" "$W/nbd"; do mountpoint -q "$PLACE" && umount -l "$PLACE"; done
    for PID in $DAEMONS; do kill "$PID" 2> /dev/null; done
    rm -rf "$W"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for NAME in null hello_ll; do
    if [ -e $SOURCES/$NAME.c ]; then cp $SOURCES/$NAME.c "$W/"; else gunzip -c $SOURCES/$NAME.c.gz > "$W/$NAME.c"; fi
    # shellcheck disable=SC2046
    cc -O2 -w -o "$W/$NAME" "$W/$NAME.c" $(pkg-config --cflags --libs fuse3)
done
cc -O2 -o "$W/latency" "$HERE/latency.c"
cc -O2 -o "$W/ring" "$HERE/ring.c"

# start DIRECTORY COMMAND…: runs a daemon in the foreground of its own and waits until its mount is there.
start() {
    local place=$1
    shift
    "$@" > "$W/log" 2>&1 &
    DAEMONS="$DAEMONS $!"
    PID=$!
    for _ in $(seq 100); do
        mountpoint -q "$place" && return
        kill -0 $PID 2> /dev/null || break
        sleep 0.05
    done
    echo "compare.sh: $1 does not mount: $(tail -n 1 "$W/log")" >&2
    return 1
}
pid_of() { sed -n 's/^cardfs_daemon_process_id{.*} //p' "$1/metrics.prom"; }

for N in 1 2 3 4; do
    mkdir "$W/card$N"
    "$CARDFS" mount sim "$W/card$N"
    : > "$W/null$N.file"
    start "$W/null$N.file" "$W/null" -f "$W/null$N.file"
    NULL[N]=$PID
done
mkdir "$W/card5"
"$CARDFS" mount sim "$W/card5" -o spin=200us
SPIN=$(pid_of "$W/card5")
mkdir "$W/card6"
# The kernel's limit for the time to wake: root's, and not on every machine.
AWAKE=""
if "$CARDFS" mount sim "$W/card6" -o latency=0 2> /dev/null; then AWAKE=$(pid_of "$W/card6"); fi
C=$W/card1
CARD=$(pid_of "$C")
mkdir "$W/hello"
start "$W/hello" "$W/hello_ll" -f "$W/hello"
HELLO=$PID
OWFS=""
if command -v owfs > /dev/null; then
    mkdir "$W/owfs"
    start "$W/owfs" owfs --foreground --fake=10 "$W/owfs" && OWFS=$PID
fi
NBD=""
if command -v nbdfuse > /dev/null && command -v nbdkit > /dev/null; then
    mkdir "$W/nbd"
    start "$W/nbd" nbdfuse "$W/nbd" --command nbdkit -s memory 1G && NBD=$PID
fi

# 2. Measures.

now() { date +%s%N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# mbs COMMAND…: MB/s of a command that moves $MEGABYTES MiB.
mbs() {
    local start end
    start=$(now)
    "$@"
    end=$(now)
    echo $((MEGABYTES * 1048576 * 1000 / (end - start)))
}
zero_to() { dd if=/dev/zero of="$1" bs=1M count=$MEGABYTES conv=notrunc status=none "${@:2}"; }
to_null() { dd if="$1" of=/dev/null bs=1M count=$MEGABYTES status=none "${@:2}"; }

# MB/s by the program's own clock, which does not count that it starts: that is a tenth of the time here.
ring() { "$W/ring" "$1" $((4 * MEGABYTES)) | sed -n 's/^.* s, \([0-9]*\) MB\/s.*$/\1/p'; }

# The card's bytes are those that dd sent: all zeros, of which the checksum is known once.
sent() {
    local crc
    crc=$(sed -n 's/^crc32c //p' "$1/sim/received")
    [ "$(head -n 1 "$1/sim/received")" = "bytes $((MEGABYTES * 1048576))" ] || return 1
    [ "$crc" = "$ZEROS" ]
}
card_write() {
    echo clear > "$1/sim/received"
    zero_to "$1/dma/tx" conv=fsync,notrunc
}
# One way of a loopback: a dd that writes and a dd that reads at the same time.
both_ways() {
    zero_to "$C/dma/tx" &
    dd if="$C/dma/rx" of=/dev/null bs=1M count=$((MEGABYTES * 1048576)) iflag=fullblock,count_bytes status=none
    wait $!
}
four() {
    local pids="" pid
    for N in 1 2 3 4; do
        case $1 in
        card) zero_to "$W/card$N/dma/tx" conv=fsync,notrunc & ;;
        null) zero_to "$W/null$N.file" oflag=direct & ;;
        esac
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid"; done
}
place() { taskset -a -p -c "$2" "$1" > /dev/null; }
ALL=0-$(($(nproc) - 1))

# ratio NAME OTHER A B: keeps a line of the table for the round. A and B are bigger-is-better or times alike.
result() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >> "$W/results"; }

echo "cardfs $("$CARDFS" --version), $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r), load $(cut -d ' ' -f 1 /proc/loadavg)"
for N in 1 2 3 4; do echo sink > "$W/card$N/sim/wire"; done
card_write "$C"
ZEROS=$(sed -n 's/^crc32c //p' "$C/sim/received")

for ROUND in $(seq "$ROUNDS"); do
    printf '\rround %s of %s ' "$ROUND" "$ROUNDS" >&2
    echo sink > "$C/sim/wire"
    A=$(mbs card_write "$C")
    sent "$C" || {
        echo "compare.sh: the card did not get what dd wrote: $(tr '\n' ' ' < "$C/sim/received")" >&2
        exit 1
    }
    B=$(mbs zero_to "$W/null1.file" oflag=direct)
    result "dd bs=1M into dma/tx, MB/s" "null oflag=direct" "$A" "$B"
    WRITE=$B
    if [ -n "$NBD" ]; then
        result "dd bs=1M into dma/tx, MB/s" "nbdfuse oflag=direct" "$A" "$(mbs zero_to "$W/nbd/nbd" oflag=direct)"
    fi

    echo source > "$C/sim/wire"
    A=$(mbs to_null "$C/dma/rx" iflag=fullblock)
    B=$(mbs to_null "$W/null1.file" iflag=direct)
    result "dd bs=1M out of dma/rx, MB/s" "null iflag=direct" "$A" "$B"
    # The mapped ring beside cardfs's own dd: both without a look at more than a byte of each cache line.
    result "mapped ring, card to program, MB/s" "dd out of dma/rx" "$(ring "$C")" "$A"
    if [ -n "$NBD" ]; then
        result "dd bs=1M out of dma/rx, MB/s" "nbdfuse iflag=direct" "$A" "$(mbs to_null "$W/nbd/nbd" iflag=direct)"
    fi

    echo loopback > "$C/sim/wire"
    echo flush > "$C/ctl"
    result "loopback, two dd at once, MB/s each way" "null oflag=direct" "$(mbs both_ways)" "$WRITE"

    echo sink > "$C/sim/wire"
    A=$(mbs four card)
    result "four dd on four mounts, MB/s each" "four null" "$A" "$(mbs four null)"

    if [ "$(nproc)" -gt 1 ]; then
        place "$SPIN" 1
        place "$HELLO" 1
        read -r A50 A99 <<< "$("$W/latency" pread "$W/card5/regs/0x20000" $SAMPLES 0)"
        read -r B50 B99 <<< "$("$W/latency" pread "$W/hello/hello" $SAMPLES 0)"
        result "the same with -o spin=200us, other core, p50 µs" "hello_ll O_DIRECT" "$A50" "$B50"
        if [ -n "$AWAKE" ]; then
            place "$AWAKE" 1
            read -r A50 A99 <<< "$("$W/latency" pread "$W/card6/regs/0x20000" $SAMPLES 0)"
            result "the same with -o latency=0, other core, p50 µs" "hello_ll O_DIRECT" "$A50" "$B50"
            # It is held for a second, which nobody else is to gain from.
            sleep 1.2
        fi
    fi
    for PLACE in same other; do
        CPU=0
        if [ $PLACE = other ]; then CPU=1; fi
        if [ $CPU -ge "$(nproc)" ]; then continue; fi
        place "$CARD" $CPU
        place "$HELLO" $CPU
        read -r A50 A99 <<< "$("$W/latency" pread "$C/regs/0x20000" $SAMPLES 0)"
        read -r B50 B99 <<< "$("$W/latency" pread "$W/hello/hello" $SAMPLES 0)"
        result "pread of a register, $PLACE core, p50 µs" "hello_ll O_DIRECT" "$A50" "$B50"
        result "pread of a register, $PLACE core, p99 µs" "hello_ll O_DIRECT" "$A99" "$B99"
        read -r A50 A99 <<< "$("$W/latency" open "$C/bar0" $((SAMPLES / 4)) 0)"
        read -r B50 B99 <<< "$("$W/latency" open "$W/hello/hello" $((SAMPLES / 4)) 0)"
        result "open, read, close of bar0, $PLACE core, p50 µs" "hello_ll" "$A50" "$B50"
        if [ -n "$OWFS" ] && [ $PLACE = same ]; then
            place "$OWFS" $CPU
            # Past OWFS's own cache: a register is not cached either.
            FILE=$(find "$W"/owfs/uncached/10.* -maxdepth 1 -name temperature -type f | head -n 1)
            read -r B50 B99 <<< "$("$W/latency" open "$FILE" 1000 0)"
            result "open, read, close of bar0, $PLACE core, p50 µs" "OWFS, fake bus" "$A50" "$B50"
        fi
    done
    place "$CARD" "$ALL"
    place "$HELLO" "$ALL"
done
printf '\r\033[K' >&2

# 3. The table: medians, and the median of the ratios.

printf '%-50s %10s  %-22s %10s %7s\n' "median of $ROUNDS rounds, taken in turn" cardfs other other ratio
cut -f 1,2 "$W/results" | awk '!seen[$0]++' | while IFS=$(printf '\t') read -r NAME OTHER; do
    row() { awk -F '\t' -v n="$NAME" -v o="$OTHER" '$1 == n && $2 == o { '"$1"' }' "$W/results" | median; }
    printf '%-50s %10s  %-22s %10s %7.2f\n' "$NAME" "$(row 'print $3')" "$OTHER" "$(row 'print $4')" "$(row 'print $3 / $4')"
done
[ -n "$AWAKE" ] || echo "-o latency=0 is not measured: /dev/cpu_dma_latency cannot be written here"
[ -n "$OWFS" ] || echo "OWFS is not installed: apt-get install owfs-fuse"
[ -n "$NBD" ] || echo "nbdfuse is not installed: apt-get install libnbd-bin nbdkit"
echo "MB/s: more is better; µs: less is better. $SECONDS s."
