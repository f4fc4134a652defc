"""The processes that work on a mount: four at a time, about half of them killed on the way, and none may outlive its end."""
import mmap
import os
import random
import signal
import struct
import subprocess
import time

from mount import PATIENCE, Finding

SLOT, SLOTS, PROCESSES = 128, 64, 4


def members(group):
    """The processes of a group that are not dead yet, as (id, state)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append((int(name), fields[0]))
    return found


def whereabouts(pid):
    """Where in the kernel a process is, and which signals it has and takes."""
    text = ""
    try:
        with open(f"/proc/{pid}/status") as file:
            text += "".join("\n" + line.strip() for line in file if line.startswith(("State", "Sig", "ShdPnd")))
    except OSError:
        pass
    for name in ("wchan", "stack", "syscall"):
        try:
            with open(f"/proc/{pid}/{name}") as file:
                text += f"\n{name}: {file.read()[:600]}"
        except OSError:
            pass
    return text


class Client:
    """One process, in a group of its own with its children."""

    def __init__(self, command, life, is_killed):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        now = time.monotonic()
        self.kill_at = now + life if is_killed else None
        self.ends_by = now + life + PATIENCE

    def kill(self):
        """Kills it and its children. The id is this process's own: nobody has waited for it yet."""
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Clients:
    """Four places, each with one process after the other. What place K does is decided by the seed, the round and K."""

    def __init__(self, program, place, seed, status_path):
        self.program, self.place, self.status_path = program, place, status_path
        self.chances = [random.Random(f"{seed}/{slot}") for slot in range(PROCESSES)]
        self.running, self.killed, self.started, self.groups = {}, 0, 0, set()
        with open(status_path, "w+b") as status:
            status.truncate(SLOT * SLOTS)
            self.status = mmap.mmap(status.fileno(), SLOT * SLOTS)

    def operations(self):
        return sum(struct.unpack_from("=Q", self.status, slot * SLOT)[0] for slot in range(PROCESSES))

    def doing(self, slot):
        return self.status[slot * SLOT + 8:(slot + 1) * SLOT].split(b"\0")[0].decode(errors="backslashreplace")

    def start(self, slot):
        chance = self.chances[slot]
        seed, life, is_killed = chance.getrandbits(63), chance.uniform(0.3, 2.5), chance.random() < 0.5
        command = [self.program, self.place, str(seed), str(round(life) + 1), self.status_path, str(slot)]
        self.running[slot] = Client(command, life, is_killed)
        self.groups.add(self.running[slot].process.pid)
        self.started += 1

    def work(self, seconds, look):
        """Keeps four at work, and calls `look` about once a second."""
        end = time.monotonic() + seconds
        next_look = time.monotonic() + 1
        while (now := time.monotonic()) < end:
            for slot in range(PROCESSES):
                client = self.running.get(slot)
                if client is None or client.process.poll() is not None:
                    self.check_end(slot)
                    self.start(slot)
                elif client.kill_at is not None and now > client.kill_at:
                    self.kill(slot)
                elif now > client.ends_by + PATIENCE:
                    self.await_end(slot)
            if now > next_look:
                look()
                next_look = time.monotonic() + 1
            time.sleep(0.01)
        # Those that live on are killed now, or end by themselves within their few seconds.
        for slot, client in self.running.items():
            if client.process.poll() is None and client.kill_at is not None:
                self.kill(slot)
        for slot in self.running:
            self.await_end(slot)
            self.check_end(slot)
        self.check_gone()

    def kill(self, slot):
        client = self.running[slot]
        client.kill()
        client.kill_at = None
        self.killed += 1
        self.await_end(slot)

    def await_end(self, slot):
        process = self.running[slot].process
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired as late:
            raise Finding(f"a client does not end; its last act: {self.doing(slot)}{whereabouts(process.pid)}") from late

    def check_end(self, slot):
        """A client ends by itself or is killed; the mount must not bring it down."""
        client = self.running.get(slot)
        if client is not None and client.process.returncode not in (0, -signal.SIGKILL):
            raise Finding(f"a client ended with {client.process.returncode} in: {self.doing(slot)}")

    def check_gone(self):
        """No child is left either, in state D or any other: they end by themselves, or died with their group."""
        limit = time.monotonic() + PATIENCE
        while left := [found for group in self.groups for found in members(group)]:
            if time.monotonic() > limit:
                raise Finding(f"a child does not end: {left}{whereabouts(left[0][0])}")
            time.sleep(0.05)

    def kill_all(self):
        for client in self.running.values():
            client.kill()
