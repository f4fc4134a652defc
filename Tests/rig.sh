#!/bin/bash
# cardfs on cards that nobody here wrote: Tests/rig.sh [--all] [--show] [--only SCRIPT,…] [BOOT…]
#
# Boots Debian's cloud kernel in QEMU, on a machine with an Intel IOMMU, an `edu` card in a slot that can be unplugged, an NVMe
# disk, and a slot with two functions in one IOMMU group, and runs the scripts of Tests/guest there. The guest has the kernel's own VFIO, and the cardfs in it is built
# from this tree. The processor is emulated (TCG): neither KVM nor root is needed.
#
#   --all    the long way round: every transfer size, a thousand mounts
#   --only   these scripts of Tests/guest in each guest, rather than its own
#   --show   shows what the guests say while they say it, one guest after the other
#   BOOT     only these guests: exact (one processor, exact virtual time: waits cost nothing), cards (two processors, real
#            time), bare (no IOMMU)
#
# Installs what is missing (apt-get, with sudo when you are not root). It ends by itself: a guest that hangs is ended, and its
# log is shown. The logs stay in .build/rig. Exit status 0 when every check passed.
set -u

ROOT=$(cd "$(dirname "$0")/.." && pwd)
WORK=$ROOT/.build/rig
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$WORK"

all=0
show=0
only=""
boots=""
while [ $# -gt 0 ]; do
    case $1 in
    --all) all=1 ;;
    --show) show=1 ;;
    --only)
        only=${2:-}
        shift
        ;;
    exact | cards | bare) boots="$boots $1" ;;
    *)
        sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
    shift
done
boots=${boots:-exact cards bare}

fail() {
    echo "rig.sh: $*" >&2
    exit 1
}

# 1. What is needed.

SUDO=""
if [ "$(id -u)" != 0 ]; then SUDO="sudo"; fi
# Another apt-get may be at work: it is waited for.
APT="apt-get -q -o DPkg::Lock::Timeout=300"
missing=""
need() { eval "$2" > /dev/null 2>&1 || missing="$missing $1"; }
need qemu-system-x86 'command -v qemu-system-x86_64'
need pciutils 'command -v lspci && command -v setpci'
need fuse3 'command -v fusermount3'
need pkg-config 'command -v pkg-config'
need libfuse3-dev 'pkg-config --exists fuse3'
need binutils 'command -v strip'
if [ -n "$missing" ]; then
    echo "installing$missing"
    # shellcheck disable=SC2086
    $SUDO $APT install -y --no-install-recommends $missing > "$WORK/packages.log" 2>&1 ||
        { $SUDO $APT update && $SUDO $APT install -y --no-install-recommends $missing; } >> "$WORK/packages.log" 2>&1 ||
        {
            tail -n 20 "$WORK/packages.log" >&2
            fail "these packages are missing and could not be installed:$missing"
        }
fi
command -v swift > /dev/null || fail "swift is missing: https://www.swift.org/install tells how to get it"

# 2. The kernel, and a busybox without shared libraries: unpacked rather than installed, since this machine keeps its own.

# unpack PACKAGE DIRECTORY: the files of a package, which is downloaded.
unpack() {
    local package=$1 directory=$2
    rm -rf "$directory" "$WORK/download" "$WORK/unpacked"
    mkdir -p "$WORK/download"
    (cd "$WORK/download" && $APT download "$package") &&
        dpkg-deb -x "$WORK"/download/*.deb "$WORK/unpacked" && mv "$WORK/unpacked" "$directory" && rm -rf "$WORK/download"
}
# get DIRECTORY COMMAND…: unpacks the package that COMMAND names, after a look for newer lists if need be.
get() {
    local directory=$1
    shift
    { [ -n "$("$@")" ] && unpack "$("$@")" "$directory" || { $SUDO $APT update && unpack "$("$@")" "$directory"; }; } \
        > "$WORK/packages.log" 2>&1 || {
        tail -n 20 "$WORK/packages.log" >&2
        fail "the package for $directory could not be downloaded and unpacked"
    }
}
kernel_package() { apt-cache depends linux-image-cloud-amd64 2> /dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }'; }
if ! ls "$WORK"/kernel/boot/vmlinuz-* > /dev/null 2>&1; then
    get "$WORK/kernel" kernel_package
fi
# The ordinary busybox of Debian needs libraries that the guests have not.
[ -d "$WORK/busybox" ] || get "$WORK/busybox" echo busybox-static
BUSYBOX=$(ls "$WORK"/busybox/{,usr/}bin/busybox 2> /dev/null | head -n 1)
[ -x "$BUSYBOX" ] || fail "the package busybox-static has no busybox: remove $WORK/busybox"
KERNEL=$(ls "$WORK"/kernel/boot/vmlinuz-* | head -n 1)
MODULES=$(ls -d "$WORK"/kernel/lib/modules/* | head -n 1)

# 3. cardfs, without a shared library. The linker's warnings are about functions of libc that cardfs does not call.

echo "building"
(cd "$ROOT" && swift build -c release --product cardfs --scratch-path .build-static -Xswiftc -static-executable) \
    > "$WORK/build.log" 2>&1 || {
    grep -E 'error:' "$WORK/build.log" | head -n 20 >&2
    tail -n 5 "$WORK/build.log" >&2
    fail "cardfs could not be built statically; $WORK/build.log tells more"
}

# 4. The initramfs.

TREE=$WORK/initramfs
rm -rf "$TREE"
mkdir -p "$TREE"/{bin,dev,etc,lib/modules,mnt,proc,rig,sys,tmp}
cp "$BUSYBOX" "$TREE/bin/busybox"
strip -o "$TREE/bin/cardfs" "$ROOT/.build-static/release/cardfs"
# In the order in which they are loaded; later kernels have merged some.
for module in virt/lib/irqbypass drivers/vfio/vfio drivers/vfio/vfio_virqfd drivers/vfio/vfio_iommu_type1 \
    drivers/vfio/pci/vfio-pci-core drivers/vfio/pci/vfio-pci fs/fuse/fuse; do
    if [ -e "$MODULES/kernel/$module.ko" ]; then
        cp "$MODULES/kernel/$module.ko" "$TREE/lib/modules/"
        echo "${module##*/}" >> "$TREE/lib/modules/order"
    fi
done
# Programs with the libraries they name.
for program in lspci setpci fusermount3; do
    path=$(command -v $program)
    cp "$path" "$TREE/bin/"
    for library in $(ldd "$path" | grep -oE '/[^ ]+'); do
        mkdir -p "$TREE${library%/*}"
        cp -L "$library" "$TREE$library"
    done
done
# Where libfuse looks for it; it mounts for who is not root.
mkdir -p "$TREE/usr/bin"
mv "$TREE/bin/fusermount3" "$TREE/usr/bin/"
chmod u+s "$TREE/usr/bin/fusermount3"
cp "$ROOT"/Tests/guest/*.sh "$TREE/rig/"
cp "$ROOT/Tests/guest/init" "$TREE/init"
chmod +x "$TREE/init"
ln -s /proc/mounts "$TREE/etc/mtab"
printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' > "$TREE/etc/passwd"
printf 'root:x:0:\nuser:x:1000:\n' > "$TREE/etc/group"
(cd "$TREE" && find . | "$BUSYBOX" cpio -o -H newc -R 0:0 2> /dev/null) > "$WORK/initramfs.cpio" || fail "no initramfs"

# 5. Guests.

# Without no_timer_check a machine that is busy makes the kernel doubt its timer, and stop.
# boot NAME SECONDS SCRIPTS KERNEL-PARAMETERS QEMU-ARGUMENTS…: the second serial port of the guest is the monitor of its QEMU,
# so that the guest unplugs its cards itself.
boot() {
    local name=$1 limit=$2 scripts=$3 parameters=$4
    shift 4
    local place=$WORK/$name
    mkdir -p "$place"
    rm -f "$place/monitor"
    truncate -s 0 "$place/disk"
    head -c 4194304 /dev/urandom > "$place/disk"
    if [ $all = 1 ]; then parameters="$parameters rig_all"; fi
    timeout --kill-after=5 "$limit" qemu-system-x86_64 \
        -machine q35,kernel-irqchip=split -accel tcg -cpu max,vendor=GenuineIntel -m 1G -nodefaults -display none -no-reboot \
        "$@" \
        -device intel-iommu,intremap=on \
        -device pcie-root-port,id=slot1,chassis=1,slot=1 -device edu,id=edu0,bus=slot1 \
        -drive "if=none,id=disk,file=$place/disk,format=raw" -device nvme,addr=4,serial=rig,drive=disk \
        -drive if=none,id=other,driver=null-co,size=1M -device nvme,addr=5.0,multifunction=on,serial=other,drive=other \
        -device pci-testdev,addr=5.1 \
        -kernel "$KERNEL" -initrd "$WORK/initramfs.cpio" \
        -append "console=ttyS0 quiet panic=-1 no_timer_check rig=${only:-$scripts} $parameters" \
        -serial stdio \
        -chardev "socket,id=port,path=$place/monitor,server=on,wait=off" -serial chardev:port \
        -chardev "socket,id=monitor,path=$place/monitor" -mon chardev=monitor,mode=readline \
        < /dev/null 2>&1
    echo "qemu ended with status $?"
}

guest() {
    case $1 in
    exact) boot exact $((420 + 1500 * all)) simulated,edu,interrupts,sizes,lspci,cycles intel_iommu=on -smp 1 -icount shift=1,sleep=off ;;
    cards) boot cards $((420 + 300 * all)) simulated,edu,generic,refusals,removal intel_iommu=on -smp 2 ;;
    bare) boot bare 120 bare intel_iommu=off -smp 1 -icount shift=1,sleep=off ;;
    esac
}

started=$SECONDS
for name in $boots; do
    if [ $show = 1 ]; then
        guest "$name" | tee "$WORK/$name.log"
    else
        guest "$name" > "$WORK/$name.log" &
    fi
done
wait

passed=0
failed=0
for name in $boots; do
    log=$WORK/$name.log
    ok=$(grep -ac '^ok ' "$log")
    bad=$(grep -ac '^FAILED ' "$log")
    passed=$((passed + ok))
    failed=$((failed + bad))
    printf '%-8s %3d checks ok, %d failed\n' "$name" "$ok" "$bad"
    grep -a '^FAILED ' "$log"
    if ! grep -aq '^rig: done' "$log"; then
        failed=$((failed + 1))
        echo "FAILED $name: the guest did not come to its end; the last it said:"
        tail -n 60 "$log"
    elif [ "$bad" != 0 ]; then
        tail -n 120 "$log"
    fi
done
echo "the guests ran for $((SECONDS - started)) s; their logs are in $WORK"
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
