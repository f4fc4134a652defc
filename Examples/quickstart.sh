#!/bin/sh
# Quickstart: builds cardfs, mounts a simulated PCIe-SpaceWire card, and shows what the files do.
#
#   Examples/quickstart.sh [MEGABYTES]       how much goes through the DMA engine; 256 by default
#
# On a fresh Debian machine it first installs the packages that are missing, by apt-get, with sudo when you are not root.
# It leaves nothing behind but the build: the mount and its directory go away also when a step fails or on Ctrl-C.
set -eu

MEGABYTES=${1:-256}
ROOT=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }
# Shows a command, then runs it: what you see is what you can type.
run() {
    printf '$ %s\n' "$*"
    eval "$*"
}

# 1. What is needed.

missing=""
# A package is asked for by what it brings, so that another distribution's names do no harm.
need() { eval "$2" > /dev/null 2>&1 || missing="$missing $1"; }
need pkg-config 'command -v pkg-config'
need libfuse3-dev 'pkg-config --exists fuse3'
need fuse3 'command -v fusermount3'
need pciutils 'PATH=$PATH:/usr/sbin:/sbin command -v lspci'
PATH=$PATH:/usr/sbin:/sbin

if [ -n "$missing" ]; then
    say "Installing$missing"
    if ! command -v apt-get > /dev/null; then
        echo "quickstart: these packages are missing:$missing" >&2
        echo "quickstart: there is no apt-get here; install them the way your system does, then run this again" >&2
        exit 1
    fi
    SUDO=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo > /dev/null || {
            echo "quickstart: these packages are missing:$missing" >&2
            echo "quickstart: there is no sudo; as root: apt-get install$missing" >&2
            exit 1
        }
        SUDO=sudo
    fi
    # The lists of packages may be too old or absent: they are fetched only when the first try fails.
    # shellcheck disable=SC2086
    $SUDO apt-get install -y --no-install-recommends $missing ||
        { $SUDO apt-get update && $SUDO apt-get install -y --no-install-recommends $missing; }
fi

if ! command -v swift > /dev/null; then
    cat >&2 <<'END'
quickstart: swift is missing. cardfs needs Swift 6.3 or later, which Debian 12 does not package.
    https://www.swift.org/install tells how to get it. In short, for this user:
        curl -O https://download.swift.org/swiftly/linux/swiftly-$(uname -m).tar.gz
        tar zxf swiftly-$(uname -m).tar.gz && ./swiftly init
    Open a new shell afterwards and run this again.
END
    exit 1
fi

if [ ! -w /dev/fuse ]; then
    echo "quickstart: /dev/fuse cannot be opened: is the module there (modprobe fuse), may this container mount?" >&2
    exit 1
fi

# 2. Build.

say "Building"
cd "$ROOT"
run swift build -c release
CARDFS=$(swift build -c release --show-bin-path)/cardfs

# 3. Mount. From here on there is something to take away again.

M=$(mktemp -d)
leave() {
    status=$?
    trap - EXIT INT TERM HUP
    cd /
    if mountpoint -q "$M"; then "$CARDFS" unmount "$M" || "$CARDFS" unmount --force "$M" || status=1; fi
    rmdir "$M" || status=1
    exit $status
}
trap leave EXIT
# A signal must end the script with a failure, which the trap above sees.
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "Mounting a simulated card on $M"
export M
run '"$CARDFS" mount sim "$M"'
run 'ls "$M" "$M/regs"'
run 'cat "$M/state"'

say "Registers are text"
run 'echo 0x10 > "$M/offset"'
run 'echo 0xdeadbeef > "$M/bar0"'
run 'cat "$M/bar0"'
run 'cat "$M/regs/0x20010"      # the same word: the window of bar0 begins at 0x20000'
run 'echo 0x00:0xff > "$M/bar0"      # only the bits of the mask'
run 'cat "$M/bar0"'
[ "$(cat "$M/bar0")" = 0xdeadbe00 ]

say "A mistake says why"
printf '$ %s\n' 'echo hello > "$M/bar0"'
if (echo hello > "$M/bar0") 2> /dev/null; then exit 1; fi
run 'tail -n 1 "$M/last_error"'

say "DMA is two files: what goes into dma/tx comes out of dma/rx"
run 'echo "hello, card" > "$M/dma/tx"'
run 'head -c 12 "$M/dma/rx"'

say "The far end as a sink: $MEGABYTES MiB of zeros, and the CRC-32C of what arrived"
run 'echo sink > "$M/sim/wire"; echo clear > "$M/sim/received"'
run "dd if=/dev/zero of=\"\$M/dma/tx\" bs=1M count=$MEGABYTES conv=fsync"
run 'cat "$M/sim/received"'
[ "$(head -n 1 "$M/sim/received")" = "bytes $((MEGABYTES * 1048576))" ]
# A CRC that is known beforehand: that of the nine digits is in every text on CRC-32C.
run 'echo clear > "$M/sim/received"; printf 123456789 | dd of="$M/dma/tx" oflag=sync status=none'
run 'tail -n 1 "$M/sim/received"      # must be 0xe3069283'
[ "$(tail -n 1 "$M/sim/received")" = "crc32c 0xe3069283" ]

say "pciutils work on the mount"
run 'lspci -A linux-sysfs -O sysfs.path="$M" -v 2> /dev/null'

say "Unmounting"
run '"$CARDFS" unmount "$M"'
echo
echo "All of it worked. To go on:  $CARDFS mount sim DIRECTORY"
