#!/bin/bash
# Counts the instructions of requests, and compares them with Tests/instructions.txt: Tests/instructions.sh [EXECUTABLE]
#
# The daemon runs under callgrind, which counts what a clock cannot show on a machine that others use too. Needs valgrind.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
CARDFS=${1:-$HERE/../.build/release/cardfs}
command -v valgrind > /dev/null || {
    echo "instructions.sh: valgrind is missing: apt-get install valgrind" >&2
    exit 1
}
W=$(mktemp -d "${TMPDIR:-/tmp}/cardfs-instructions.XXXXXX")
M=$W/card
PID=""
finish() {
    status=$?
    trap - EXIT INT TERM HUP
    if mountpoint -q "$M"; then umount "$M" || umount -l "$M"; fi
    if [ -n "$PID" ]; then
        for _ in $(seq 50); do kill -0 "$PID" 2> /dev/null || break; sleep 0.1; done
        kill -9 "$PID" 2> /dev/null || true
    fi
    rm -rf "$W"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$M"
# Everything is some fifty times slower there: a read must not be answered in part because the card takes its time.
# Valgrind does not read the debugging information of this compiler; names of functions are enough.
strip --strip-debug -o "$W/cardfs" "$CARDFS"
valgrind --tool=callgrind --callgrind-out-file="$W/out" "$W/cardfs" mount sim "$M" -f -o gather=1s > "$W/log" 2>&1 &
PID=$!
for _ in $(seq 300); do
    mountpoint -q "$M" && break
    kill -0 $PID 2> /dev/null || break
    sleep 0.1
done
mountpoint -q "$M" || {
    tail -n 5 "$W/log" >&2
    echo "instructions.sh: the card was not mounted under valgrind" >&2
    exit 1
}

M=$M W=$W PID=$PID LIMITS=$HERE/instructions.txt timeout 240 python3 - << 'PROGRAM'
import collections, os, re, subprocess, sys

M, W, PID = os.environ["M"], os.environ["W"], os.environ["PID"]


def put(name, text):
    with open(f"{M}/{name}", "w") as file:
        file.write(text)


def control(flag):
    subprocess.run(["callgrind_control", flag, PID], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)


def own(path):
    """Self cost of cardfs's own functions in a profile, without the simulated card and its checksum."""
    names = {"ob": {}, "fn": {}}
    place = {"ob": "", "fn": ""}
    total, called = 0, False
    for line in open(path, errors="replace"):
        line = line.rstrip("\n")
        match = re.match(r"(ob|fn|cob|cfn)=\((\d+)\)(?: (.*))?$", line)
        if match:
            key, number, name = match.groups()
            kind = key[-2:]
            if name is not None:
                names[kind][number] = name
            if key == kind:
                place[kind] = names[kind][number]
        elif line.startswith("calls="):
            called = True  # the next line is the cost of the callee
        elif re.match(r"[+\-*\d]", line):
            if called:
                called = False
            elif place["ob"].endswith("/cardfs") and not re.search(r"SimulatedCard|crc|with_instruction|with_table", place["fn"]):
                total += int(line.split()[1])
    return total


def count(operations, body):
    body(max(2, operations // 10))
    control("-z")
    body(operations)
    control("-d")
    count.dumps += 1
    return own(f"{W}/out.{count.dumps}") / operations


count.dumps = 0


def register(operations, flags, call):
    file = os.open(f"{M}/regs/0x20000", flags)
    for _ in range(operations):
        call(file)
    os.close(file)


def send(operations, size):
    file, block = os.open(f"{M}/dma/tx", os.O_WRONLY), bytes(size)
    for _ in range(operations):
        assert os.write(file, block) == size
    os.fsync(file)
    os.close(file)


def receive(operations, size):
    file = os.open(f"{M}/dma/rx", os.O_RDONLY)
    for _ in range(operations):
        assert len(os.read(file, size)) == size
    os.close(file)


put("sim/wire", "sink")
found = {
    "read_register": count(1000, lambda n: register(n, os.O_RDONLY, lambda f: os.pread(f, 64, 0))),
    "write_register": count(1000, lambda n: register(n, os.O_WRONLY, lambda f: os.pwrite(f, b"0x12345678\n", 0))),
    "write_4096": count(1000, lambda n: send(n, 4096)),
    "write_1048576": count(50, lambda n: send(n, 1 << 20)),
}
put("sim/wire", "source")
found["read_1048576"] = count(50, lambda n: receive(n, 1 << 20))

limits = {}
for line in open(os.environ["LIMITS"]):
    words = line.split()
    if words and not words[0].startswith("#"):
        limits[words[0]] = int(words[1])
assert limits.keys() == found.keys(), (limits.keys(), found.keys())
print("%-20s %12s %8s" % ("operation", "instructions", "limit"))
for name, value in found.items():
    print("%-20s %12.0f %8d%s" % (name, value, limits[name], "" if value <= limits[name] else "  OVER THE LIMIT"))
over = [name for name in found if found[name] > limits[name]]
print("all within their limits" if not over else "over the limit: " + ", ".join(over))
sys.exit(1 if over else 0)
PROGRAM
