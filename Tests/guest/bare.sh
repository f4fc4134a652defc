# A machine without an IOMMU.
. /rig/check.sh

A=$(address $EDU_ID)
works "no IOMMU: a simulated card mounts" cardfs mount sim /mnt
works "no IOMMU: and unmounts" cardfs unmount /mnt
refused "no IOMMU: a real card" "intel_iommu=on" cardfs mount $A /mnt
if cardfs doctor $A > /tmp/doctor 2>&1; then bad "no IOMMU: doctor" "status 0"; else has "no IOMMU: doctor" "intel_iommu=on" "$(cat /tmp/doctor)"; fi
refused "no IOMMU: bind" "IOMMU" cardfs bind $A
has "no IOMMU: list" "$A" "$(cardfs list)"
