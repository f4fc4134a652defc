# A machine without an IOMMU.
. /rig/check.sh

works "no IOMMU: a simulated card mounts" cardfs mount sim /mnt
works "no IOMMU: and unmounts" cardfs unmount /mnt
