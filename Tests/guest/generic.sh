# A function cardfs has no driver for, taken from the driver it has and given back.
. /rig/check.sh

M=/mnt
A=$(address $NVME_ID)
disk=$(ls /sys/bus/pci/devices/$A/nvme/*/ | grep -E '^nvme[0-9]+n[0-9]+$|^nvme[0-9]+c[0-9]+n[0-9]+$' | head -n 1)
ls /sys/bus/pci/devices/$A/nvme/ /dev/nvme*
dd if=/dev/nvme0n1 of=/tmp/before bs=4096 count=16 2> /dev/null
refused "nvme: not taken from its driver unasked" "cardfs bind" cardfs mount $A $M
works "nvme: bind" cardfs bind $A
works "nvme: the disk is gone" test ! -e /dev/nvme0n1
works "nvme: mounts" cardfs mount $A $M
cat $M/state
ls $M $M/regs
is "nvme: version register" 0x00010400 "$(cat $M/regs/0x8)"
put 0x8 $M/offset
is "nvme: bar0 at the offset" 0x00010400 "$(cat $M/bar0)"
works "nvme: no dma" test ! -e $M/dma
is "nvme: interrupts" 0 "$(cat $M/interrupts/count)"
sh /rig/files.sh $M nvme
works "nvme: unmounts" cardfs unmount $M
works "nvme: unbind" cardfs unbind $A
works "nvme: the disk is there again" within 10 test -b /dev/nvme0n1
dd if=/dev/nvme0n1 of=/tmp/after bs=4096 count=16 2> /dev/null
same "nvme: with its data" /tmp/before /tmp/after
