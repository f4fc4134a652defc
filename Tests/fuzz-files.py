#!/usr/bin/env python3
"""Throws random file operations at mounts of the simulated card, and looks whether anything was lost, left or stuck.

    Tests/fuzz-files.py [--seconds 60 | --hour] [--seed N] [--round N] [--cardfs .build/release/cardfs]

Each round mounts with random options, engine and framing. Four processes of Tests/FileFuzz/operations.c work on the mount at
once; half of them are killed at a random moment, and others take their place. Meanwhile and afterwards the daemon must be alive
and answer, and both sums of metrics.prom must hold; at the end every client must be gone (none in state D), the card must start
again and bring back what is sent, descriptors and memory must be bounded, and `cardfs unmount` must work.

Left out, as the README says: several writers of one open file with O_APPEND, whom the kernel lets in one after the other where no
signal reaches them.

A finding ends the run with status 1 and prints how to do the round again: the same seed does the same operations, though not at
the same moments. No verdict depends on the speed of the machine: what must end has a minute.
"""
import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = os.path.join(ROOT, "Tests", "FileFuzz")
sys.dont_write_bytecode = True
sys.path.insert(0, PARTS)

import choices  # noqa: E402
from clients import Clients  # noqa: E402
from mount import Finding, Mount, run, shell  # noqa: E402

ROUND, LONG_ROUND = 7, 60


class Totals:
    """What was done in all rounds."""

    def __init__(self):
        self.operations, self.started, self.killed, self.rounds = 0, 0, 0, 0

    def __str__(self):
        return f"{self.operations} operations of {self.started} processes, {self.killed} killed, {self.rounds} rounds"


def build(folder):
    """The program of the clients."""
    program = os.path.join(folder, "operations")
    sources = sorted(os.path.join(PARTS, name) for name in os.listdir(PARTS) if name.endswith(".c"))
    status, text = run(["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", program, *sources])
    if status != 0:
        raise Finding(text)
    return program


def one_round(cardfs, program, folder, seed, seconds, totals):
    """Mounts, works, looks, unmounts."""
    chance = random.Random(seed)
    words, writable = choices.options(chance)
    engine, framing = choices.stream(chance, words)
    print(f"-o {','.join(words)} engine {engine} framing {framing}", flush=True)
    place = tempfile.mkdtemp(prefix="card", dir=folder)
    clients = Clients(program, place, seed, place + ".status")
    mount = Mount(cardfs, place, words)
    try:
        mount.await_start()
        if writable:
            mount.set_stream(engine, framing)
        clients.work(seconds, mount.check_sums)
        mount.check_alive()
        if writable:
            mount.restart()
        mount.check_quiet()
        mount.check_sums()
        if writable:
            mount.check_echo(engine)
            mount.check_sums()
        mount.unmount()
    except Finding:
        if mount.process.poll() is None and mount.number is not None:
            try:
                print(shell("tail -n 8 last_error; cat state dma/plan", place, 10)[1])
            except Finding as silence:
                print(silence)
        raise
    finally:
        clients.kill_all()
        mount.take_away()
        totals.operations += clients.operations()
        totals.started += clients.started
        totals.killed += clients.killed


def rounds(arguments, program, folder, totals):
    """Round after round until the time is up; at least one."""
    end, number = time.monotonic() + arguments.seconds, arguments.round
    while number == arguments.round or time.monotonic() + ROUND < end:
        # What grows slowly shows in a long round only; a run of a minute has none.
        is_long = arguments.seconds >= 20 * LONG_ROUND and number % 10 == 9
        seconds = min(LONG_ROUND if is_long else ROUND, max(1, end - time.monotonic()))
        print(f"round {number}: ", end="", flush=True)
        try:
            one_round(arguments.cardfs, program, folder, f"{arguments.seed}/{number}", seconds, totals)
        except Finding as finding:
            again = f"Tests/fuzz-files.py --seed {arguments.seed} --round {number}"
            raise Finding(f"seed {arguments.seed} round {number} ({again}): {finding}") from finding
        totals.rounds += 1
        number += 1


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--hour", dest="seconds", action="store_const", const=3600, help="an hour")
    parser.add_argument("--seed", type=lambda text: int(text, 0), default=time.time_ns() // 1000 % 2**32,
                        help="what all choices are made from (the clock)")
    parser.add_argument("--round", type=int, default=0, help="the round to begin with (0)")
    parser.add_argument("--cardfs", type=os.path.abspath,
                        default=os.environ.get("CARDFS", os.path.join(ROOT, ".build/release/cardfs")))
    return parser.parse_args()


def main():
    arguments = parsed()
    totals = Totals()

    def on_signal(number, _):
        print(f"FAILED: seed {arguments.seed} round {arguments.round + totals.rounds}: ended by signal {number}", flush=True)
        sys.exit(128 + number)

    # The mount is taken away on the way out, by whatever way.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    print(f"seed {arguments.seed}", flush=True)
    folder = tempfile.mkdtemp(prefix="cardfs-fuzz.")
    try:
        rounds(arguments, build(folder), folder, totals)
    except Finding as finding:
        print(f"FAILED: {finding}")
        return 1
    finally:
        print(f"seed {arguments.seed}: {totals}")
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{totals.rounds} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
