# lspci on a mount says the same as lspci on the machine, byte for byte.
. /rig/check.sh

M=/mnt
# The control word, address and data of MSI are the kernel's while it delivers messages: it shows its own to the machine.
without_msi() { sed 's/^40: 05 00 \(.. \)\{12\}/40: 05 00 MSI /' "$1"; }

# compare CARD OPTIONS
compare() {
    works "lspci: $1 $2 mounts" cardfs mount $1 $M -o rw$2
    lspci -n -xxxx -s $1 > /tmp/machine
    lspci -n -A linux-sysfs -O sysfs.path=$M -xxxx > /tmp/mount
    if [ "$2" != ",interrupts=intx" ]; then
        without_msi /tmp/machine > /tmp/left && mv /tmp/left /tmp/machine
        without_msi /tmp/mount > /tmp/left && mv /tmp/left /tmp/mount
    fi
    diff /tmp/machine /tmp/mount
    same "lspci: $1 $2 is the same" /tmp/machine /tmp/mount
    has "lspci: $1 $2 has a configuration space" "00: " "$(cat /tmp/mount)"
    works "lspci: $1 $2 unmounts" cardfs unmount $M
}

edu=$(address $EDU_ID)
take $edu
compare $edu ""
compare $edu ,interrupts=intx
give_back $edu
nvme=$(address $NVME_ID)
take $nvme
compare $nvme ""
give_back $nvme
