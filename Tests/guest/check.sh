# What the scripts of the rig have in common: checks that print one line each, `ok …` or `FAILED …`.

# ok NAME: the check passed. bad NAME WHY: it did not.
ok() { echo "ok $1"; }
bad() { echo "FAILED $1: $2"; }

# is NAME EXPECTED ACTUAL
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected \"$2\", got \"$3\""; fi; }

# has NAME PART TEXT: the text contains the part.
has() {
    case $3 in
    *"$2"*) ok "$1" ;;
    *) bad "$1" "expected \"$2\" in \"$3\"" ;;
    esac
}

# works NAME COMMAND…: the command ends with status 0.
works() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then ok "$name"; else bad "$name" "status $?: $said"; fi
}

# same NAME FILE FILE: the files are there, not empty, and equal.
same() {
    if [ -s "$2" ] && cmp "$2" "$3" > /tmp/same 2>&1; then ok "$1"; else bad "$1" "$(cat /tmp/same; ls -l "$2" "$3" 2>&1)"; fi
}

# refused NAME WORDS COMMAND…: the command fails with the words of an errno (strerror) on standard error.
refused() {
    local name=$1 words=$2 said status
    shift 2
    said=$("$@" 2>&1 > /tmp/refused)
    status=$?
    if [ $status = 0 ]; then
        bad "$name" "it was not refused: \"$(head -c 200 /tmp/refused)\""
    else
        has "$name" "$words" "$said"
    fi
}

# told NAME MOUNT WORDS: the last line of last_error contains the words.
told() { has "$1" "$3" "$(tail -n 1 "$2/last_error" 2>&1)"; }

# within SECONDS COMMAND…: waits until the command succeeds.
within() {
    local left=$(($1 * 10))
    shift
    until "$@" > /dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}

# put TEXT FILE: one write(2) of a line, whose errno is told.
put() { echo "$1" > "$2"; }

# monitor COMMAND: a command to the monitor of this guest's QEMU.
# The empty line ends whatever an echo of the port's first moments has left there.
monitor() { printf '\n%s\n' "$1" > /dev/ttyS1; }

# random BYTES FILE
random() { head -c "$1" /dev/urandom > "$2"; }

# The cards of the guest, by their IDs.
address() {
    for function in /sys/bus/pci/devices/*; do
        if [ "$(cat $function/vendor):$(cat $function/device)" = "$1" ]; then
            echo ${function##*/}
            return
        fi
    done
}
EDU_ID=0x1234:0x11e8
NVME_ID=0x1b36:0x0010
TESTDEV_ID=0x1b36:0x0005

# take ADDRESS: hands a card to vfio-pci as a user without cardfs would.
take() {
    echo vfio-pci > /sys/bus/pci/devices/$1/driver_override
    if [ -e /sys/bus/pci/devices/$1/driver ]; then echo $1 > /sys/bus/pci/devices/$1/driver/unbind; fi
    echo $1 > /sys/bus/pci/drivers_probe
}

# give_back ADDRESS: the card goes back to the driver it had.
give_back() {
    echo > /sys/bus/pci/devices/$1/driver_override
    echo $1 > /sys/bus/pci/devices/$1/driver/unbind
    echo $1 > /sys/bus/pci/drivers_probe
}
