"""One mount of the simulated card, and what must hold of it. Every file of the mount is touched by child processes only, each
with a limit in time, so that nothing the mount does can hold the program that judges it."""
import os
import re
import subprocess
import sys
import time

# Far more than anything needs on a slow machine: only what does not end at all is to be found.
PATIENCE = 60
RESIDENT_KIB = 320 << 10

# Sends 200,000 bytes and reads them back. The first read may be told that the flush before cut a packet. A timeout of the mount's options is not an end: a slow machine meets it.
ECHO = r"""
import errno, os, sys, threading, time
end = time.monotonic() + 60
data, came, failed = os.urandom(200000), bytearray(), []

def again(call):
    while True:
        try: return call()
        except OSError as error:
            if error.errno not in (errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN) or time.monotonic() > end: raise

def send():
    try:
        tx = os.open("dma/tx", os.O_WRONLY)
        place = 0
        while place < len(data): place += again(lambda: os.write(tx, data[place:place + 4000]))
        os.close(tx)
    except OSError as error: failed.append("writing: %s" % error)

rx = os.open("dma/rx", os.O_RDONLY | os.O_NONBLOCK)
sender = threading.Thread(target=send, daemon=True)
sender.start()
while len(came) < len(data) and not failed and time.monotonic() < end:
    try: came += os.read(rx, 100000)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT, errno.ECANCELED): sys.exit("reading: %s" % error)
        time.sleep(0.002)
if failed: sys.exit(failed[0])
if came != data: sys.exit("%d bytes went, %d came, the same: %s" % (len(data), len(came), data.startswith(bytes(came))))
"""


class Finding(Exception):
    """What does not hold."""


def run(command, seconds=PATIENCE, folder=None):
    """Status and text of a command, or a finding when it takes longer than it may."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
                               text=True, errors="replace")
    try:
        text = process.communicate(timeout=seconds)[0]
        return process.returncode, text
    except subprocess.TimeoutExpired as late:
        raise Finding(f"{' '.join(command)[:200]} did not end within {seconds} s") from late
    finally:
        # Not waited for: who hangs in the mount ends when the mount is taken away.
        if process.poll() is None:
            process.kill()


def shell(script, place, seconds=PATIENCE):
    """Status and text of a script that looks at the mount at `place`."""
    return run(["bash", "-c", f"cd '{place}' || exit 1; {script}"], seconds)


def device(place):
    """The device number of what is mounted at a place, or None."""
    with open("/proc/self/mountinfo") as table:
        for line in table:
            fields = line.split()
            if fields[4] == place:
                return fields[2]
    return None


class Mount:
    """A daemon in the foreground and its mount."""

    def __init__(self, cardfs, place, options):
        self.cardfs, self.place, self.is_expert = cardfs, place, "expert" in options
        self.log = open(place + ".log", "wb")
        # In a session of its own: a Control-C is for the program that takes the mount away.
        self.process = subprocess.Popen([cardfs, "mount", "sim", place, "-f", "-o", ",".join(options)],
                                        stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        self.number, self.first_descriptors, self.scaler = None, None, None

    def await_start(self):
        """Waits until the mount answers."""
        limit = time.monotonic() + PATIENCE
        while device(self.place) is None or shell("cat state", self.place)[0] != 0:
            if self.process.poll() is not None or time.monotonic() > limit:
                raise Finding(f"the mount did not come up: {self.said()}")
            time.sleep(0.02)
        self.number = device(self.place).partition(":")[2]
        self.first_descriptors = self.descriptors()
        self.scaler = shell("cat regs/txscaler", self.place)[1].strip()

    def said(self, word=""):
        """The last lines of the daemon's log that have a word in them."""
        with open(self.place + ".log", errors="replace") as log:
            return "".join(line for line in log if word in line)[-1500:]

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))

    def metrics(self):
        """The samples of one rendering of metrics.prom: a list of (name, value)."""
        status, text = shell("cat metrics.prom", self.place)
        if status != 0:
            raise Finding(f"metrics.prom cannot be read: {text}")
        found = re.findall(r"^cardfs_(\w+)(?:\{.*\})? ([0-9.e+-]+)$", text, re.M)
        return [(name, int(float(value))) for name, value in found]

    def check_alive(self):
        if self.process.poll() is not None:
            raise Finding(f"the daemon ended with {self.process.returncode}: {self.said()}")
        status, text = shell("cat state", self.place)
        if status != 0 or not text.startswith("pnp "):
            raise Finding(f"state cannot be read: {text}")

    def check_sums(self):
        """accepted = sent + lost + waiting and arrived = read + discarded + waiting, at any moment, each of one reading."""
        samples = self.metrics()

        def value(name):
            values = [number for key, number in samples if key == name]
            if not values:
                raise Finding(f"metrics.prom has no cardfs_{name}")
            return sum(values)

        for direction, whole, parts in (("tx", "accepted", ("sent", "lost")), ("rx", "arrived", ("read", "discarded"))):
            total = value(f"{direction}_{whole}_bytes_total")
            shares = {part: value(f"{direction}_{part}_bytes_total") for part in parts}
            shares["waiting"] = value(f"{direction}_waiting_bytes")
            if total != sum(shares.values()):
                raise Finding(f"{direction}: {whole} {total} is not " + " + ".join(f"{k} {v}" for k, v in shares.items()))
        if value("requests_dropped_total") != 0:
            raise Finding("the driver dropped requests unanswered")
        # Who may write the card's descriptor pointers (-o expert) can send it to any address; that is no misuse by the driver.
        if sum(number for key, number in samples if key == "verifier_findings_total") != 0 and not self.is_expert:
            raise Finding(f"the verifier found misuse:\n{self.said('verifier')}")

    def check_quiet(self):
        """Nobody is there any more: no request, no file, no descriptor and not much memory is left of them."""
        limit = time.monotonic() + PATIENCE
        while True:
            samples = dict(self.metrics())
            under_way, open_files = samples["requests_in_flight"], samples["open_files"]
            descriptors = self.descriptors()
            # The reading itself has a file open.
            if under_way == 0 and open_files <= 1 and descriptors <= self.first_descriptors + 2:
                break
            if time.monotonic() > limit:
                raise Finding(f"{PATIENCE} s after the last client: {under_way} requests under way, {open_files} open files, "
                              f"{descriptors} descriptors where there were {self.first_descriptors}")
            time.sleep(0.1)
        if self.resident() > RESIDENT_KIB:
            raise Finding(f"{self.resident() >> 10} MiB are resident, more than {RESIDENT_KIB >> 10}")

    def restart(self):
        """Whatever was done to the card, its configuration space included: after a power cycle it starts."""
        status, text = shell(
            "echo gone > sim/fault; echo none > sim/fault; echo up > sim/link; echo unlimited > sim/rate; echo loopback > sim/wire; "
            f"echo remove > ctl; echo start > ctl; echo {self.scaler} > regs/txscaler; cat state; tail -n 3 last_error",
            self.place)
        if "pnp Started" not in text or "power D0" not in text:
            raise Finding(f"the card does not start again: {status} {text}")

    def set_stream(self, engine, framing):
        return shell(f"echo {engine} > dma/engine && echo {framing} > dma/framing", self.place)

    def check_echo(self, engine):
        """What is sent comes back, unless users may stop the link for good: what they wrote into its registers with -o expert
        outlives a restart."""
        if self.is_expert:
            return
        status, text = shell("echo flush > ctl", self.place)
        if status == 0:
            status, text = self.set_stream(engine, "stream")
        if status == 0:
            status, text = run([sys.executable, "-c", ECHO], 2 * PATIENCE, self.place)
        if status != 0:
            raise Finding(f"200,000 bytes do not come back with engine {engine}: {text}")

    def unmount(self):
        status, text = run([self.cardfs, "unmount", self.place])
        if status != 0:
            raise Finding(f"unmount: {text}")
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired as late:
            raise Finding(f"the daemon did not end within {PATIENCE} s of unmount") from late
        if status != 0:
            raise Finding(f"the daemon ended with {status}: {self.said()}")
        if device(self.place) is not None:
            raise Finding("something is mounted still")

    def take_away(self):
        """Whatever happened, nothing is left behind: neither the daemon, nor the mount, nor a program that waits for it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        if self.number is not None:
            try:
                with open(f"/sys/fs/fuse/connections/{self.number}/abort", "w") as abort:
                    abort.write("1")
            except OSError:
                pass  # gone with its mount, as it should be
        if device(self.place) is not None:
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*command, self.place], check=False, timeout=PATIENCE)
