# QEMU's edu through VFIO: registers, data, the same files as the simulated card.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)
take $A
works "edu: mounts" cardfs mount $A $M
is "edu: identification" 0x010000ed "$(cat $M/regs/0x00)"
put 0x12345678 $M/regs/liveness
is "edu: liveness" 0xedcba987 "$(cat $M/regs/liveness)"
put 12 $M/regs/factorial
is "edu: 12!" 0x1c8cfc00 "$(cat $M/regs/factorial)"
sh /rig/files.sh $M edu
works "edu: unmounts" cardfs unmount $M
give_back $A
