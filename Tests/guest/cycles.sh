# Many mounts leave nothing behind: no descriptor, no mapping, no memory. Neither do many starts within one mount.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)
take $A
memory() { awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo; }
files() { awk '{ print $1 - $2 }' /proc/sys/fs/file-nr; }

# cycle NAME COUNT CARD
cycle() {
    local name=$1 count=$2 card=$3 done=0
    # The first ones load what stays in the kernel's caches.
    for _ in 1 2 3; do cardfs mount $card $M && cardfs unmount $M; done
    sync
    echo 3 > /proc/sys/vm/drop_caches
    local memory=$(memory) files=$(files) mounts=$(wc -l < /proc/mounts)
    while [ $done -lt $count ]; do
        cardfs mount $card $M || break
        cat $M/regs/0x0 > /dev/null || break
        cardfs unmount $M || break
        done=$((done + 1))
    done
    is "$name: mounts and unmounts" $count $done
    is "$name: mounts left" $mounts "$(wc -l < /proc/mounts)"
    within 5 test "$(pidof cardfs | wc -w)" = 0
    is "$name: daemons left" "" "$(pidof cardfs)"
    sync
    echo 3 > /proc/sys/vm/drop_caches
    local lost=$((memory - $(memory))) opened=$(($(files) - files))
    echo "$name: $lost KiB less memory, $opened more open files"
    works "$name: memory is back" test $lost -lt 8192
    works "$name: files are closed" test $opened -lt 32
}

if [ $RIG_ALL = 1 ]; then
    cycle "sim" 1000 sim
    cycle "edu" 50 $A
else
    cycle "sim" 40 sim
    cycle "edu" 10 $A
fi

# Within one process.
works "edu: mounts" cardfs mount $A $M
pid=$(pidof cardfs)
put stop $M/ctl && put start $M/ctl
descriptors() { ls /proc/$pid/fd | wc -l; }
mappings() { wc -l < /proc/$pid/maps; }
locked() { awk '$1 == "VmRSS:" { print $2 }' /proc/$pid/status; }
d=$(descriptors) m=$(mappings) l=$(locked)
for round in $(seq 1 30); do put stop $M/ctl && put start $M/ctl || bad "edu: round $round" "stop or start failed"; done
is "edu: descriptors after 30 starts" $d "$(descriptors)"
works "edu: mappings after 30 starts ($m, $(mappings))" test $(($(mappings) - m)) -lt 4
works "edu: memory after 30 starts ($l, $(locked) KiB)" test $(($(locked) - l)) -lt 2048
is "edu: and it works" 0x010000ed "$(cat $M/regs/id)"
works "edu: unmounts" cardfs unmount $M
give_back $A
