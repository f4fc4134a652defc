#!/bin/sh
# Compares the ways to move data on a simulated card, in one run: engines.sh [MEGABYTES]
# Every figure is of the software above a simulated card. Each row is checked: bytes and CRC-32C at the far end, and a
# random file that comes back byte for byte.
set -eu
. "$(dirname "$0")/common.sh"

megabytes=${1:-512}
[ -x "$CARDFS" ] || { echo "$0: there is no cardfs; build it first: swift build -c release" >&2; exit 1; }
work=$(mktemp -d)
mount=$work/card
mkdir "$mount"
finish() {
    "$CARDFS" unmount --force "$mount" > "$work/log" 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

head -c 8000000 /dev/urandom > "$work/random"
# The CRC-32C that all rows have to show: the first row's, which the far end computed of the same zeros.
expected=

rate() { sed -n 's/.* \([0-9.,]* [kMG]B\/s\)$/\1/p' "$work/dd" | tail -n 1; }

row() { # name, engine, options, block size
    "$CARDFS" mount sim "$mount" -o "$3"
    if ! { echo "$2" > "$mount/dma/engine"; } 2> "$work/refusal"; then
        "$CARDFS" unmount "$mount"
        printf '%-44s not on this card\n' "$1"
        return
    fi
    # Byte for byte through the loopback.
    dd if="$work/random" of="$mount/dma/tx" bs="$4" status=none &
    head -c 8000000 "$mount/dma/rx" | cmp - "$work/random"
    wait $!
    # Throughput into a sink, which counts and checks.
    echo sink > "$mount/sim/wire"
    echo clear > "$mount/sim/received"
    LC_ALL=C dd if=/dev/zero of="$mount/dma/tx" bs="$4" count="$((megabytes * 1048576 / $5))" conv=fsync 2> "$work/dd"
    received=$(sed -n 's/^bytes //p;s/^crc32c //p' "$mount/sim/received" | tr '\n' ' ')
    expected=${expected:-$received}
    [ "$received" = "$expected" ] || { echo "$1: the far end has $received instead of $expected" >&2; exit 1; }
    plan=$(awk '{ v[$1] = $2 } END { printf "%s %s, %s bounced, %s transfers", v["method"], v["memory"], v["bounced_bytes"], v["transfers"] }' "$mount/dma/plan")
    printf '%-44s %12s  %s\n' "$1" "$(rate)" "$plan"
    "$CARDFS" unmount "$mount"
}

printf '%-44s %12s  %s\n' "way" "dd into tx" "what dma/plan says"
row "bus master, direct, 1 MiB"                   sg     direct_threshold=16K             1M  1048576
row "bus master, buffered, 1 MiB"                 sg     direct_threshold=1G              1M  1048576
row "bus master, bounced, 257 map registers"      sg     dma_bits=24                      1M  1048576
row "bus master, bounced, 16 map registers"       sg     dma_bits=24,map_registers=16     1M  1048576
row "bus master, common-buffer ring"              common direct_threshold=16K             1M  1048576
row "bus master, common-buffer ring, 24 bits"     common dma_bits=24                      1M  1048576
row "system DMA, slave controller"                system direct_threshold=16K             1M  1048576
row "system DMA, slave controller, 24 bits"       system dma_bits=24                      1M  1048576
