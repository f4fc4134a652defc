# For the other examples, not to be run: a card to work with, in $M.

# The executable: the one that CARDFS names, that was built here, or that is installed.
if [ -z "${CARDFS:-}" ]; then
    CARDFS=$(cd "$(dirname "$0")/.." && pwd)/.build/release/cardfs
    [ -x "$CARDFS" ] || CARDFS=$(command -v cardfs || true)
fi

# Uses the card that is mounted on $1, or mounts a simulated one, which goes away with the script.
mount_card() {
    if [ -n "$1" ]; then
        M=$(cd "$1" && pwd)
        [ -e "$M/state" ] || {
            echo "$0: no card is mounted on $1" >&2
            exit 1
        }
        return
    fi
    [ -x "$CARDFS" ] || {
        echo "$0: there is no cardfs; build it first: swift build -c release" >&2
        exit 1
    }
    M=$(mktemp -d)
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    "$CARDFS" mount sim "$M"
}

leave() {
    status=$?
    trap - EXIT INT TERM HUP
    cd /
    if mountpoint -q "$M"; then "$CARDFS" unmount "$M" || "$CARDFS" unmount --force "$M" || status=1; fi
    rmdir "$M" || status=1
    exit $status
}
