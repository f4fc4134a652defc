# Data of every size through edu and back; without rig_all those around the powers of two and some between.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)
take $A
works "sizes: edu mounts" cardfs mount $A $M
sizes="1 2 3 4 5 7 8 9 15 16 17 31 32 33 63 64 65 127 128 129 255 256 257 511 512 513 1023 1024 1025 1500 2047 2048 2049 3000 3333 4000 4093 4094 4095"
if [ $RIG_ALL = 1 ]; then sizes=$(seq 1 4095); fi
random 4095 /tmp/random
count=0
for size in $sizes; do
    dd if=/tmp/random of=/tmp/out bs=$size count=1 2> /dev/null
    dd if=/tmp/out of=$M/dma/tx bs=4095 2> /tmp/said || bad "$size bytes to the card" "$(cat /tmp/said)"
    dd if=$M/dma/rx of=/tmp/in bs=4095 count=1 2> /tmp/said || bad "$size bytes from the card" "$(cat /tmp/said)"
    if cmp -s /tmp/out /tmp/in; then count=$((count + 1)); else bad "$size bytes" "$(cmp /tmp/out /tmp/in 2>&1)"; fi
done
is "sizes: transfers that gave back what they were given" "$(echo $sizes | wc -w)" $count
grep -E 'dma_transfers|dma_failures' $M/metrics.prom | grep -v '#'
works "sizes: edu unmounts" cardfs unmount $M
give_back $A
