#!/bin/sh
# Card data without a copy, beside dd, in one table: ring.sh [MEGABYTES]
# A simulated card's source sends; every byte is checked in runs of their own. Needs cc and python3.
set -eu
. "$(dirname "$0")/common.sh"

megabytes=${1:-4096}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
mount_card ""
finish() {
    status=$?
    rm -rf "$work"
    (exit "$status")
    leave
}
trap finish EXIT

cc -O2 -o "$work/ring" "$here/ring.c"
echo source > "$M/sim/wire"

row() { printf '%-52s %8s MB/s\n' "$1" "$2"; }
rate() { sed -n 's/^.* s, \([0-9]*\) MB\/s.*$/\1/p'; }
# The middle one of five runs.
middle() { for _ in 1 2 3 4 5; do "$@"; done | sort -n | sed -n 3p; }
copied() { dd if="$M/dma/rx" of=/dev/null bs=1M count="$megabytes" 2>&1 | awk -v n="$megabytes" '/copied|bytes/ { for (k = 1; k < NF; k++) if ($(k + 1) ~ /^s,?$/) printf "%d\n", n * 1.048576 / $k }' | tail -n 1; }
mapped() { "$work/ring" "$M" "$megabytes" $1 | rate; }
python() { python3 "$here/ring.py" "$M" "$megabytes" | rate; }

a=$(middle copied)
b=$(middle mapped "")
row "dd if=dma/rx of=/dev/null bs=1M" "$a"
row "mapped ring, C, one byte of each cache line" "$b"
row "mapped ring, C, every byte checked" "$(middle mapped verify)"
row "mapped ring, Python, without looking at the bytes" "$(middle python)"
awk -v a="$a" -v b="$b" 'BEGIN { printf "the mapped ring gives %.1f times what dd gets\n", b / a }'
python3 "$here/ring.py" "$M" 8 verify
