#!/usr/bin/env python3
"""Reads what a card sends out of its mapped ring: ring.py MOUNT MEGABYTES [verify|write]

The memory is the card's own: a memoryview of a piece costs no copy. With verify, every byte is checked against the pattern of a
simulated card whose sim/wire is source; with write, the bytes go to standard output.
"""
import fcntl
import mmap
import os
import struct
import sys
import time

PIECES = 64
MESSAGE = struct.Struct("=IIQII" + "II" * PIECES)
NEXT = 3 << 30 | MESSAGE.size << 16 | ord("C") << 8 | 5
ALL = 0xFFFFFFFF


class Ring:
    """The receive ring of a mounted card. What one call of next() got is valid until the next call."""

    def __init__(self, mount):
        self.file = os.open(f"{mount}/dma/rx", os.O_RDONLY | os.O_CLOEXEC)
        self.message = bytearray(MESSAGE.size)
        # The first call ties the file to the ring as it is now.
        fcntl.ioctl(self.file, NEXT, self.message)
        memory = os.open(f"{mount}/dma/buffer", os.O_RDONLY | os.O_CLOEXEC)
        self.map = mmap.mmap(memory, os.fstat(memory).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(memory)
        self.bytes = memoryview(self.map)

    def next(self, wanted):
        """Gives the last result back and waits for up to `wanted` bytes, as a read would. A list of memoryviews."""
        struct.pack_into("=IIQ", self.message, 0, ALL, 0, wanted)
        fcntl.ioctl(self.file, NEXT, self.message)
        _, count, _, self.end, _, *places = MESSAGE.unpack(self.message)
        return [self.bytes[places[2 * k] : places[2 * k] + places[2 * k + 1]] for k in range(count)]

    def close(self):
        self.bytes.release()
        self.map.close()
        os.close(self.file)


STEP = 0x9E3779B97F4A7C15


def place(piece):
    """Where in the source's stream a piece begins that begins with a word."""
    return int.from_bytes(piece[:8], "little") * pow(STEP, -1, 1 << 64) % (1 << 64) * 8


def source(position, count):
    """The bytes of a simulated card whose wire is source: word k is k times the golden ratio's fraction of 2^64."""
    first, last = position // 8, (position + count + 7) // 8
    words = (k * STEP & 0xFFFFFFFFFFFFFFFF for k in range(first, last))
    return struct.pack(f"<{last - first}Q", *words)[position % 8 : position % 8 + count]


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: ring.py MOUNT MEGABYTES [verify|write]")
    total, done, how = int(sys.argv[2]) << 20, 0, sys.argv[3] if len(sys.argv) > 3 else ""
    ring = Ring(sys.argv[1])
    start, begin = time.monotonic(), None
    while done < total:
        for piece in ring.next(min(1 << 20, total - done)):
            if how == "verify" and begin is None:
                begin = place(piece)
            if how == "verify" and piece != source(begin + done, len(piece)):
                sys.exit(f"ring.py: wrong bytes between {done} and {done + len(piece)}")
            if how == "write":
                sys.stdout.buffer.write(piece)
            done += len(piece)
            piece.release()
    seconds = time.monotonic() - start
    ring.close()
    if how != "write":
        print(f"{done} bytes, {seconds:.3f} s, {done / seconds / 1e6:.0f} MB/s" + (", all right" if how else ""))


if __name__ == "__main__":
    main()
