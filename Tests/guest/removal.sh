# The card goes away: unplugged in an orderly way, and by cutting the power of its slot; while nothing happens, while a read
# waits, and while data moves. Each time the card comes back and is started again.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)
PORT=$(basename "$(readlink -f /sys/bus/pci/devices/$A/..)")
take $A

# The card leaves, and comes back to the same place. One that was unplugged is new to the machine and bound anew.
unplug() { monitor "device_del edu0"; }
unplug_back() {
    monitor "device_add edu,id=edu0,bus=slot1"
    within 20 test -e /sys/bus/pci/devices/$A/vendor && take $A
}
# The slot's power off, with its indicator; on again.
cut_power() { setpci -s $PORT CAP_EXP+0x18.w=0700:0700; }
cut_power_back() {
    setpci -s $PORT CAP_EXP+0x18.w=0100:0700
    within 20 test "$(setpci -s $A VENDOR_ID)" = 1234
}
is_absent() { [ ! -e /sys/bus/pci/devices/$A ]; }
has_left() { grep -q -E 'Removed|SurpriseRemovePending' $M/state; }

# after WAY NAME: what holds whatever was under way when the card left.
after() {
    # The machine asks for a card that is unplugged, some seconds after the button; nobody tells of power that was cut.
    [ $1 = unplug ] && within 20 has_left
    refused "$1, $2: a register" "No such device" cat $M/regs/id
    told "$1, $2: a register: the sentence" $M ENODEV
    if within 10 has_left; then ok "$1, $2: the state says so"; else bad "$1, $2: the state says so" "$(cat $M/state)"; fi
    if [ $1 = unplug ]; then
        if within 10 is_absent; then ok "$1, $2: the kernel has it back"; else bad "$1, $2: the kernel has it back" "$(ls /sys/bus/pci/devices)"; fi
    fi
    refused "$1, $2: configuration space" "No such device" dd if=$M/config bs=4 count=1
    refused "$1, $2: dma/tx" "No such device" put x $M/dma/tx
    told "$1, $2: dma/tx: the sentence" $M ENODEV
    refused "$1, $2: dma/rx" "No such device" dd if=$M/dma/rx bs=1 count=1
    works "$1, $2: the mount answers" ls -R $M
    refused "$1, $2: start without a card" "No such device" put start $M/ctl
}

# again WAY NAME: it is back.
again() {
    works "$1, $2: it comes back" ${1}_back
    works "$1, $2: start" put start $M/ctl
    is "$1, $2: it answers" 0x010000ed "$(cat $M/regs/id)"
    has "$1, $2: state" "power D0" "$(cat $M/state)"
    random 100 /tmp/out
    dd if=/tmp/out of=$M/dma/tx 2> /dev/null
    dd if=$M/dma/rx of=/tmp/in bs=100 count=1 2> /dev/null
    same "$1, $2: data passes" /tmp/out /tmp/in
}

works "removal: edu mounts" cardfs mount $A $M
for way in unplug cut_power; do
    $way
    after $way "idle"
    again $way "idle"

    dd if=$M/dma/rx of=/tmp/in bs=100 count=1 2> /tmp/said &
    sleep 0.5
    $way
    wait $!
    has "$way, a read waits: it ends" "No such device" "$(cat /tmp/said)"
    after $way "a read waits"
    again $way "a read waits"

    dd if=/dev/zero of=$M/dma/tx bs=4095 count=100 2> /tmp/sent &
    writer=$!
    dd if=$M/dma/rx of=/dev/null bs=4095 count=100 2> /tmp/received &
    reader=$!
    sleep 1
    $way
    wait $writer
    wait $reader
    has "$way, data moves: the writer ends" "No such device" "$(cat /tmp/sent)"
    has "$way, data moves: the reader ends" "No such device" "$(cat /tmp/received)"
    after $way "data moves"
    again $way "data moves"
done

# A mount whose card has left ends like any other.
unplug
within 10 has_left
works "removal: unmounts without a card" cardfs unmount $M
within 10 is_absent
unplug_back
works "removal: the next mount" cardfs mount $A $M
is "removal: it answers" 0x010000ed "$(cat $M/regs/id)"
works "removal: unmounts" cardfs unmount $M
give_back $A
