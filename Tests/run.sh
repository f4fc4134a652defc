#!/bin/bash
# Everything that is tested, with one command: Tests/run.sh
#
# Installs what is missing (apt-get, with sudo when you are not root), builds, runs the tests of all kinds, those without
# mounts again under ThreadSanitizer and AddressSanitizer, the examples, and cardfs in the guests of Tests/rig.sh. Every step
# has a time limit; a step that fails does not stop the others, and fails the run. The logs of the steps are in .build/logs.
set -u

ROOT=$(cd "$(dirname "$0")/.." && pwd)
cd "$ROOT" || exit 1
LOGS=$ROOT/.build/logs
mkdir -p "$LOGS"
PATH=$PATH:/usr/sbin:/sbin

# 1. What is needed.

missing=""
need() { eval "$2" > /dev/null 2>&1 || missing="$missing $1"; }
need pkg-config 'command -v pkg-config'
need libfuse3-dev 'pkg-config --exists fuse3'
need fuse3 'command -v fusermount3'
need pciutils 'command -v lspci'
need python3 'python3 -c "import ctypes, mmap"'
need procps 'command -v pgrep'
need rsync 'command -v rsync'
need xxd 'command -v xxd'
need bsdextrautils 'command -v hexdump'
need diffutils 'command -v cmp'
need valgrind 'command -v valgrind'
need gcc 'command -v cc'
need binutils 'command -v strip'
if [ -n "$missing" ]; then
    SUDO=""
    if [ "$(id -u)" != 0 ]; then SUDO="sudo"; fi
    echo "installing$missing"
    # shellcheck disable=SC2086
    $SUDO apt-get install -y --no-install-recommends $missing > "$LOGS/packages.log" 2>&1 ||
        { $SUDO apt-get update && $SUDO apt-get install -y --no-install-recommends $missing; } >> "$LOGS/packages.log" 2>&1 ||
        {
            tail -n 20 "$LOGS/packages.log" >&2
            echo "run.sh: these packages are missing and could not be installed:$missing" >&2
            exit 1
        }
fi
if ! command -v swift > /dev/null; then
    echo "run.sh: swift is missing. cardfs needs Swift 6.3 or later, which Debian 12 does not package:" >&2
    echo "        https://www.swift.org/install tells how to get it." >&2
    exit 1
fi

# 2. Steps.

summary=""
blame=""
failed=0
# step NAME SECONDS COMMAND…: runs a command under a time limit, and keeps what it wrote.
step() {
    local name=$1 limit=$2 log status start=$SECONDS
    shift 2
    log=$LOGS/${name// /-}.log
    printf '%-32s ' "$name"
    timeout --kill-after=10 "$limit" "$@" > "$log" 2>&1
    status=$?
    local result="ok"
    if [ $status = 124 ] || [ $status = 137 ]; then result="TIMED OUT after $limit s"; elif [ $status != 0 ]; then result="FAILED ($status)"; fi
    printf '%4d s  %s\n' $((SECONDS - start)) "$result"
    summary="$summary$(printf '%-32s %4d s  %s' "$name" $((SECONDS - start)) "$result")"$'\n'
    grep -aE 'Test run with [0-9]+ tests?|^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1
    if [ $status != 0 ]; then
        failed=1
        tail -n 15 "$log"
        blame="$blame$name:"$'\n'"$(grep -aE '✘|error:|^FAILED|SUMMARY: (Thread|Address)Sanitizer' "$log" | cut -c 1-300 | head -n 20)"$'\n'
    fi
    return $status
}

# The mounts that were there before stay; what the tests leave is theirs to be blamed for, and is taken away.
mounts() { awk '$0 ~ / - fuse\.cardfs / { print $5 }' /proc/self/mountinfo | sort; }
before=$(mounts)
sweep() {
    left=$(comm -13 <(echo "$before") <(mounts))
    for place in $left; do
        echo "left behind: $place"
        umount -l "$place" 2> /dev/null || fusermount3 -u -z "$place"
        failed=1
    done
}
trap 'sweep; exit 130' INT TERM

# A crash is a failure like any other; nobody is at a terminal to look at a backtrace, which takes minutes to make.
export SWIFT_BACKTRACE=enable=no
# Swift Testing alone: there are no tests of the older kind. As many at a time as there are processors: the tests wait by
# blocking their thread, and one that has begun, but has no thread, would use up its time limit.
TEST="swift test --disable-xctest --experimental-maximum-parallelization-width $(nproc)"
# Sanitizers slow mounts down until they measure nothing but themselves, and the daemon is another process anyway.
WITHOUT_MOUNTS="--skip ^MountTests --skip ^CommandTests"

step "format" 120 swift format lint --strict --recursive --parallel Sources Tests Package.swift
step "build debug" 900 swift build --build-tests
# The suites that mount come after the others: what they measure are times.
step "tests without mounts" 420 $TEST --skip-build $WITHOUT_MOUNTS
step "tests of the command" 240 $TEST --skip-build --filter ^CommandTests
step "tests on mounts" 480 $TEST --skip-build --filter ^MountTests
for sanitizer in thread address; do
    step "$sanitizer sanitizer" 780 $TEST --sanitize=$sanitizer --scratch-path ".build-${sanitizer:0:1}san" $WITHOUT_MOUNTS
done
if step "build release" 600 swift build -c release; then
    export CARDFS=$ROOT/.build/release/cardfs
    step "instructions of requests" 240 Tests/instructions.sh "$CARDFS"
    # The seed stands in the log's first line, and in what a failure says; Tests/fuzz-files.py --hour looks for longer.
    step "file operations at random" 240 Tests/fuzz-files.py --cardfs "$CARDFS"
    step "Examples quickstart" 240 Examples/quickstart.sh 64
    step "Examples registers" 60 Examples/registers.sh
    step "Examples throughput" 120 Examples/throughput.sh 256
    cat "$LOGS/Examples-throughput.log"
fi
# cardfs in guests with VFIO, an IOMMU and cards of QEMU; it builds cardfs once more, without shared libraries.
step "real cards in the rig" 900 Tests/rig.sh
sweep

echo
printf '%s' "$summary"
if [ $failed != 0 ]; then
    printf '\n%s' "$blame"
    echo "FAILED; the logs are in $LOGS"
    exit 1
fi
echo "all passed in $SECONDS s"
