#!/bin/sh
# Takes a PCI card from its driver, mounts it, shows it, and gives everything back:
#
#   sudo Examples/take-card.sh 0000:03:00.0
#
# The card goes back to the driver it had however the script ends. A card that the machine uses is refused.
set -eu
: "${1:?usage: take-card.sh PCI-ADDRESS, as cardfs list shows it}"
CARD=$1
CARDFS=${CARDFS:-$(command -v cardfs || echo "$(cd "$(dirname "$0")/.." && pwd)/.build/release/cardfs")}

# What is missing, each thing with the line that mends it. Which driver has the card, and its memory, come right below.
"$CARDFS" doctor "$CARD" || echo "(the lines above say what is to be mended; this script binds the card)"

M=$(mktemp -d)
taken=no
mounted=no
give_back() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ $mounted = yes ]; then "$CARDFS" unmount "$M" || "$CARDFS" unmount --force "$M" || status=1; fi
    if [ $taken = yes ]; then "$CARDFS" unbind "$CARD" || status=1; fi
    rmdir "$M" || status=1
    exit $status
}
trap give_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A card that vfio-pci had before stays with it.
before=$(readlink "/sys/bus/pci/devices/$CARD/driver" || true)
"$CARDFS" bind "$CARD"
[ "${before##*/}" = vfio-pci ] || taken=yes
"$CARDFS" mount "$CARD" "$M"
mounted=yes

echo "== $(cat "$M/vendor"):$(cat "$M/device"), class $(cat "$M/class")"
cat "$M/state"
echo "== files"
ls "$M"
echo "== the first registers of its BARs"
for bar in "$M"/resource?; do
    [ -e "$bar" ] || continue
    echo "$(basename "$bar"): $(dd if="$bar" bs=4 count=4 2> /dev/null | od -An -tx4)"
done
if command -v lspci > /dev/null; then
    echo "== lspci of the mount"
    lspci -A linux-sysfs -O sysfs.path="$M" -v
fi
