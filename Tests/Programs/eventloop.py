"""An event loop of asyncio over the files of a card: eventloop.py MOUNT COUNT

Sends COUNT packets of 16 bytes through dma/tx and takes them from dma/rx, and reads interrupts/log and state beside. Says
"removable" when all packets have come, and ends with status 0 when the card was removed and every file has said so.
"""

import asyncio
import errno
import os
import random
import signal
import struct
import sys

signal.alarm(60)
mount, count = sys.argv[1], int(sys.argv[2])
draw = random.Random(1).randrange


def opened(name, flags):
    file = os.open(f"{mount}/{name}", flags)
    # After the open, as asyncio does it with files it is given.
    os.set_blocking(file, False)
    return file


def ends(call, *arguments):
    """The result of a call; None when it would have to wait, False when the card is gone."""
    try:
        return call(*arguments)
    except BlockingIOError:
        return None
    except OSError as error:
        assert error.errno == errno.ENODEV, error
        return False


async def main():
    loop = asyncio.get_running_loop()
    names = {"dma/tx": os.O_WRONLY, "dma/rx": os.O_RDONLY, "interrupts/log": os.O_RDONLY, "state": os.O_RDONLY}
    files = {name: opened(name, flags) for name, flags in names.items()}
    over = {name: loop.create_future() for name in names}
    state = {"sent": 0, "outgoing": b"", "received": 0, "incoming": b"", "lines": 0, "next": None, "rest": b""}

    def end(name):
        loop.remove_reader(files[name])
        loop.remove_writer(files[name])
        if not over[name].done():
            over[name].set_result(None)

    def send():
        if not state["outgoing"]:
            first = state["sent"]
            packets = min(1 + draw(256), count - first)
            if packets == 0:
                # Watched for a removal only: nothing is to be written.
                loop.remove_writer(files["dma/tx"])
                loop.add_reader(files["dma/tx"], end, "dma/tx")
                return
            state["outgoing"] = b"".join(struct.pack("QQ", k, ~k & (1 << 64) - 1) for k in range(first, first + packets))
            state["sent"] = first + packets
        result = ends(os.write, files["dma/tx"], state["outgoing"])
        assert result is not False, "removed too early"
        if result:
            state["outgoing"] = state["outgoing"][result:]

    def take():
        data = ends(os.read, files["dma/rx"], 1 + draw(8192))
        if data is False:
            assert state["received"] == count, "removed too early"
            end("dma/rx")
        elif data:
            data = state["incoming"] + data
            whole = len(data) // 16 * 16
            state["incoming"] = data[whole:]
            for one, other in struct.iter_unpack("QQ", data[:whole]):
                assert one == state["received"] and other == ~one & (1 << 64) - 1, (one, state["received"])
                state["received"] += 1
            if state["received"] == count and not state["incoming"]:
                print("removable", flush=True)

    def take_lines():
        data = ends(os.read, files["interrupts/log"], 1 + draw(4096))
        if data is False:
            end("interrupts/log")
        elif data:
            *lines, state["rest"] = (state["rest"] + data).split(b"\n")
            for line in lines:
                words = line.split()
                if words[0] == b"lost":
                    state["next"] += int(words[1])
                    continue
                number = int(words[0])
                assert state["next"] in (None, number), (number, state["next"])
                state["next"] = number + 1
                state["lines"] += 1

    def take_state():
        if b"Removed" in os.pread(files["state"], 4096, 0):
            end("state")

    loop.add_writer(files["dma/tx"], send)
    loop.add_reader(files["dma/rx"], take)
    loop.add_reader(files["interrupts/log"], take_lines)
    loop.add_reader(files["state"], take_state)
    await asyncio.gather(*over.values())
    assert state["received"] == count and state["lines"] > 0, state


asyncio.run(main())
