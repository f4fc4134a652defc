# What is in the way of a real card, and what goes wrong under a mount: the errno, and a sentence that says what to do.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)

# Before it is bound.
refused "not bound" "cardfs bind $A" cardfs mount $A $M
if cardfs doctor $A > /tmp/doctor 2>&1; then bad "doctor: not bound" "status 0"; else has "doctor: not bound" "cardfs bind $A" "$(cat /tmp/doctor)"; fi
works "bind" cardfs bind $A
works "doctor: bound" cardfs doctor $A
has "list" "$A" "$(cardfs list)"
refused "no such function" "no PCI function" cardfs mount 0000:7f:1f.7 $M

# A group of which another member still has its driver.
N=$(address $TESTDEV_ID)
works "two functions of one slot share a group" test "$(ls /sys/bus/pci/devices/$N/iommu_group/devices | wc -l)" = 2
take $N
refused "group not viable" "group" cardfs mount $N $M
has "group not viable: doctor names the other" "${N%.*}.0" "$(cardfs doctor $N 2>&1)"
give_back $N

# Whom it belongs to.
works "edu: mounts" cardfs mount $A $M
mkdir -p /tmp/second
refused "busy" "in use" cardfs mount $A /tmp/second
works "edu: unmounts" cardfs unmount $M
chmod 777 $M
as_user() { su -s /bin/sh user -c "$*"; }
refused "not root" "/dev/vfio/" as_user cardfs mount $A $M
has "not root: what to do" "chown" "$(as_user cardfs mount $A $M 2>&1)"
group=$(basename "$(readlink -f /sys/bus/pci/devices/$A/iommu_group)")
chown user /dev/vfio/$group
ulimit -l 64
refused "memlock too small" "LimitMEMLOCK=" as_user cardfs mount $A $M
needed=$(as_user cardfs doctor $A 2>&1 | sed -n 's/.*LimitMEMLOCK=\([0-9]*\).*/\1/p' | head -n 1)
ulimit -l $((needed / 1024))
chmod 666 /dev/fuse
chown user $M
works "a user with what doctor asks for: doctor" as_user cardfs doctor $A
works "a user with what doctor asks for: mounts" as_user cardfs mount $A $M
is "a user with what doctor asks for: reads a register" 0x010000ed "$(as_user cat $M/regs/id)"
random 100 /tmp/out
chmod 644 /tmp/out
as_user dd if=/tmp/out of=$M/dma/tx bs=4095 2> /dev/null
as_user dd if=$M/dma/rx bs=100 count=1 2> /dev/null > /tmp/in
same "a user with what doctor asks for: moves data" /tmp/out /tmp/in
works "a user with what doctor asks for: unmounts" as_user cardfs unmount $M
chown root $M
ulimit -l unlimited
chown root /dev/vfio/$group

# Bus mastering goes off underneath: the card reports the end of a transfer that moved nothing.
works "bus master: mounts" cardfs mount $A $M
random 1000 /tmp/out
dd if=/tmp/out of=$M/dma/tx bs=4095 2> /dev/null
setpci -s $A COMMAND=0:4
refused "bus master off: a read" "Input/output error" dd if=$M/dma/rx bs=1000 count=1
told "bus master off: a read: the sentence" $M "bus mastering of $A is off"
refused "bus master off: a write" "Input/output error" dd if=/tmp/out of=$M/dma/tx bs=4095
told "bus master off: a write: the sentence" $M "setpci COMMAND=0004:0004"
has "bus master off: dma/last_error" "stage data" "$(cat $M/dma/last_error)"
setpci -s $A COMMAND=4:4
dd if=$M/dma/rx of=/tmp/in bs=1000 count=1 2> /dev/null
same "bus master on: the bytes were not lost" /tmp/out /tmp/in

# Memory decoding goes off underneath.
setpci -s $A COMMAND=0:2
refused "no memory decoding" "Input/output error" cat $M/regs/id
told "no memory decoding: the sentence" $M "memory decoding of $A is off"
setpci -s $A COMMAND=2:2
is "memory decoding again" 0x010000ed "$(cat $M/regs/id)"

# What the driver owns, and an address the IOMMU does not translate: only an expert can say it.
refused "driver's register" "Device or resource busy" put 1 $M/regs/dma_command
told "driver's register: the sentence" $M "-o expert"
works "expert: unmounts" cardfs unmount $M
works "expert: mounts" cardfs mount $A $M -o expert
dmesg -c > /dev/null
put 0x0f000000 $M/regs/dma_source
put 0x40000 $M/regs/dma_destination
put 16 $M/regs/dma_count
put 1 $M/regs/dma_command
within 5 grep -q 0x00000000 $M/regs/dma_command
within 5 sh -c "dmesg | grep -q 'DMAR.*fault addr 0xf000000'"
has "IOMMU fault: the kernel saw it" "fault addr 0xf000000" "$(dmesg)"
random 500 /tmp/out
dd if=/tmp/out of=$M/dma/tx bs=4095 2> /dev/null
dd if=$M/dma/rx of=/tmp/in bs=500 count=1 2> /dev/null
same "IOMMU fault: the card works on" /tmp/out /tmp/in

# Nobody reads.
works "full: unmounts" cardfs unmount $M
works "full: mounts" cardfs mount $A $M -o tx_timeout=1s,rx_timeout=1s
dd if=/dev/zero of=$M/dma/tx bs=4095 count=1 2> /dev/null
refused "full: a write" "timed out" dd if=/dev/zero of=$M/dma/tx bs=4095 count=1
told "full: the sentence" $M "read dma/rx"
works "full: flush" put flush $M/ctl
refused "empty: a read" "timed out" dd if=$M/dma/rx bs=1 count=1
works "edu: unmounts at last" cardfs unmount $M
works "unbind" cardfs unbind $A
works "unbind: no driver has it, as before" test ! -e /sys/bus/pci/devices/$A/driver
