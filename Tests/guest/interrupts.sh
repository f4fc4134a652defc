# Interrupts of edu, each raised after the line of the one before was read: none is lost, none comes twice.
. /rig/check.sh

M=/mnt
A=$(address $EDU_ID)
take $A
for kind in intx msi; do
    works "$kind: mounts" cardfs mount $A $M -o interrupts=$kind
    before=$(cat $M/interrupts/count)
    exec 3< $M/interrupts/log
    number=0
    previous=""
    while [ $number -lt 1000 ]; do
        echo 1 > $M/regs/irq_raise
        if ! read -r -t 10 sequence time vector count <&3; then
            bad "$kind: interrupt $number" "no line came"
            break
        fi
        if [ -n "$previous" ] && [ $sequence != $((previous + 1)) ]; then
            bad "$kind: interrupt $number" "sequence $sequence came after $previous"
            break
        fi
        [ "$vector $count" = "0 1" ] || bad "$kind: interrupt $number" "vector $vector count $count"
        previous=$sequence
        number=$((number + 1))
        [ $((number % 250)) = 0 ] && echo "$kind: $number by $(cut -d" " -f1 /proc/uptime) s"
    done
    is "$kind: lines for 1000 interrupts" 1000 $number
    is "$kind: interrupts counted" $((before + 1000)) "$(cat $M/interrupts/count)"
    if read -r -t 1 line <&3; then bad "$kind: nothing more" "$line"; else ok "$kind: nothing more"; fi
    exec 3<&-
    is "$kind: no cause is left" 0x00000000 "$(cat $M/regs/irq_status)"

    put 0x80 $M/regs/status
    put 12 $M/regs/factorial
    within 5 test "$(cat $M/interrupts/count)" -gt $((before + 1000))
    is "$kind: a factorial that is done interrupts" $((before + 1001)) "$(cat $M/interrupts/count)"
    works "$kind: unmounts" cardfs unmount $M
done
refused "a kind the card lacks" "has no MSI-X" cardfs mount $A $M -o interrupts=msix
give_back $A
