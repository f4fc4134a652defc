import TestSupport
import Testing

extension MountTests {
    /// Plug and Play and power from the shell: `ctl` and `state`.
    @Suite struct PlugAndPlayTests {
        @Test func `each command is done when the write returns, and state says where the card is`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                cut -d' ' -f1 $M/ctl | tr '\\n' ' '
                for c in stop start suspend resume reset remove start; do echo $c > $M/ctl; tr '\\n' ' ' < $M/state; done
                """
            )
            #expect(
                text == "flush reset stop start suspend resume reload remove pnp Stopped power D3 pnp Started power D0 "
                    + "pnp Started power D3 pnp Started power D0 pnp Started power D0 pnp Removed power D3 pnp Started power D0 "
            )
        }

        @Test func `a command that does not fit the state is refused with the state, and changes nothing`() async throws
        {
            let card = try MountedCard()
            await card.check(
                """
                fails(errno.EBUSY, "ctl", "is Started and cannot be started", lambda: write("ctl", "start"))
                fails(errno.EAGAIN, "ctl", "is Started in D0: resume", lambda: write("ctl", "resume"))
                write("ctl", "suspend")
                fails(errno.EBUSY, "ctl", "write resume to ctl", lambda: write("ctl", "start"))
                fails(errno.EAGAIN, "ctl", "nothing to flush", lambda: write("ctl", "flush"))
                write("ctl", "stop")
                for command in "stop", "suspend", "resume", "reset":
                    fails(errno.EAGAIN, "ctl", "is Stopped in D3: " + command, lambda: write("ctl", command))
                write("ctl", "remove")
                fails(errno.EBUSY, "ctl", "is Removed already", lambda: write("ctl", "remove"))
                fails(errno.EINVAL, "ctl", "is no command", lambda: write("ctl", "eject"))
                write("ctl", "start"); assert read("bar0") == b"0x00000000\\n"
                """
            )
        }

        @Test func `outside D0 registers say EAGAIN, and DMA is held until the card is back`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for leave, back in ("suspend", "resume"), ("stop", "start"):
                    write("dma/tx", b"before"); assert read("dma/rx", 6) == b"before"
                    write("ctl", leave)
                    for name in "bar0", "regs/scratch", "regs/0x20010.b":
                        fails(errno.EAGAIN, name, "is not in D0; see state", lambda: read(name))
                        fails(errno.EAGAIN, name, "is not in D0; see state", lambda: write(name, "1"))
                    for name, flags in ("dma/tx", os.O_WRONLY), ("dma/rx", os.O_RDONLY):
                        fd = opened(name, flags | os.O_NONBLOCK)
                        fails(errno.EAGAIN, name, "", lambda: os.write(fd, b"x") if flags else os.read(fd, 1))
                        os.close(fd)
                    writer = subprocess.Popen(["sh", "-c", 'printf %s "$0" > $M/dma/tx', leave])
                    reader = subprocess.Popen(["head", "-c", str(len(leave)), at("dma/rx")], stdout=subprocess.PIPE)
                    # One that is held can be interrupted.
                    other = subprocess.Popen(["cat", at("dma/rx")])
                    time.sleep(0.3)
                    assert writer.poll() is None and reader.poll() is None and other.poll() is None
                    other.send_signal(signal.SIGINT); other.wait(2)
                    write("ctl", back)
                    assert writer.wait(5) == 0 and reader.communicate(timeout=5)[0] == leave.encode()
                """
            )
        }

        @Test func `what arrived before a sleep can be read after it`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                data = os.urandom(300000)
                write("dma/tx", data); fd = opened("dma/rx")
                while metric("rx_arrived_bytes_total") < len(data): time.sleep(0.01)
                assert readall(fd, 1000) == data[:1000]
                for round in range(3):
                    write("ctl", "suspend"); write("ctl", "resume")
                    write("dma/tx", b"and more %d" % round)
                assert readall(fd, len(data) - 1000) == data[1000:]
                assert readall(fd, 30) == b"and more 0and more 1and more 2"
                """
            )
        }

        @Test func `a card that has something to send does not stop, and works on`() async throws {
            let card = try MountedCard("receiver=64K")
            await card.check(
                """
                # Nobody takes what comes back: the card cannot finish.
                data = os.urandom(6 << 20)
                writer = threading.Thread(target=lambda: write("dma/tx", data))
                writer.start(); time.sleep(0.5)
                for command in "stop", "suspend", "reload":
                    fails(errno.EBUSY, "ctl", "read dma/rx, or write flush to ctl first", lambda: write("ctl", command))
                    assert read("state") == b"pnp Started\\npower D0\\n"
                fd = opened("dma/rx"); assert readall(fd, len(data)) == data
                writer.join(); assert metric("tx_lost_bytes_total") == 0
                write("ctl", "stop"); write("ctl", "start")
                """
            )
        }

        @Test func `changes of the state can be polled for`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fd = opened("state"); poller = select.poll(); poller.register(fd, select.POLLPRI)
                assert os.read(fd, 100) == b"pnp Started\\npower D0\\n" and poller.poll(100) == []
                for command, text in ("suspend", b"pnp Started\\npower D3\\n"), ("resume", b"pnp Started\\npower D0\\n"):
                    thread = threading.Thread(target=lambda: (time.sleep(0.2), write("ctl", command)))
                    thread.start(); assert poller.poll(3000) != []
                    thread.join(); assert os.pread(fd, 100, 0) == text
                """
            )
        }

        @Test func `removal in the middle of a gigabyte: dd ends with ENODEV, and every byte is accounted for`()
            async throws
        {
            let card = try MountedCard()
            await card.check(
                """
                write("sim/wire", "sink")
                for round in range(3):
                    dd = subprocess.Popen(["dd", "if=/dev/zero", "of=" + at("dma/tx"), "bs=1M", "count=1024"],
                                          stderr=subprocess.PIPE)
                    before = metric("tx_sent_bytes_total")
                    while metric("tx_sent_bytes_total") < before + (20 << 20): time.sleep(0.001)
                    within(3, lambda: write("ctl", "remove"))
                    errors = dd.communicate(timeout=5)[1]
                    assert dd.returncode == 1 and b"No such device" in errors, errors
                    accepted, sent, lost = (metric("tx_%s_bytes_total" % n) for n in ("accepted", "sent", "lost"))
                    assert accepted == sent + lost and metric("requests_in_flight") == 0, (accepted, sent, lost)
                    # The far end may have the beginning of what was lost.
                    assert sent <= int(read("sim/received").split()[1]) <= accepted
                    assert metric("free_receive_buffers") >= 40
                    write("ctl", "start")
                write("sim/wire", "loopback")
                write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """,
                timeout: .seconds(60)
            )
        }

        @Test(arguments: ["remove", "gone", "zeros"])
        func `every request in flight ends with ENODEV when the card goes, and none hangs`(how: String) async throws {
            let card = try MountedCard("receiver=64K,linger=1s")
            await card.check(
                """
                how = "\(how)"
                fds = {name: opened(name, flags) for name, flags in
                       (("dma/tx", os.O_WRONLY), ("bar0", os.O_RDWR), ("resource0", os.O_RDWR), ("regs/scratch", os.O_RDWR))}
                log = opened("interrupts/log"); state = opened("state"); os.read(state, 100)
                def ended(call, results):
                    try: results.append(call())
                    except OSError as error: results.append(errno.errorcode[error.errno])
                results = {}
                def start(name, call):
                    results[name] = []
                    thread = threading.Thread(target=ended, args=(call, results[name]), daemon=True)
                    thread.start(); return thread
                poller = select.poll(); poller.register(log, select.POLLIN)
                def drain():
                    while True: os.read(log, 65536)
                threads = [start("log", drain), start("state", lambda: select.select([], [], [state], 8))]
                # A full far end: writers are parked, and so are fsync and a synchronous write.
                def write_on(fd):
                    while True: os.write(fd, bytes(1 << 20))
                threads += [start("write %d" % i, lambda: write_on(opened("dma/tx", os.O_WRONLY))) for i in range(3)]
                time.sleep(0.5)
                sync = opened("dma/tx", os.O_WRONLY | os.O_SYNC)
                threads.append(start("sync", lambda: os.write(sync, bytes(1000))))
                fence = opened("dma/tx", os.O_WRONLY)
                time.sleep(0.5)
                threads.append(start("fsync", lambda: (os.write(fence, bytes(100)), os.fsync(fence))))
                time.sleep(0.3)
                if how == "remove": write("ctl", "remove")
                else: write("sim/fault", how)
                for thread in threads:
                    thread.join(8); assert not thread.is_alive(), results
                for name, result in results.items():
                    if name != "state": assert result == ["ENODEV"], results
                expected = "Removed" if how == "remove" else "SurpriseRemovePending"
                assert read("state").decode() == "pnp %s\\npower D3\\n" % expected
                # Files opened before say so, also when the card is back; others work.
                def dead():
                    fails(errno.ENODEV, "bar0", "", lambda: os.read(fds["bar0"], 10))
                    fails(errno.ENODEV, "bar0", "", lambda: os.write(fds["bar0"], b"1"))
                    fails(errno.ENODEV, "regs/scratch", "", lambda: os.pread(fds["regs/scratch"], 10, 0))
                    fails(errno.ENODEV, "resource0", "", lambda: os.pread(fds["resource0"], 4, 0x20000))
                    fails(errno.ENODEV, "dma/tx", "", lambda: os.write(fds["dma/tx"], b"1"))
                    fails(errno.ENODEV, "interrupts/log", "", lambda: os.read(log, 100))
                    poller = select.poll(); poller.register(fds["dma/tx"], select.POLLOUT)
                    assert poller.poll(1000)[0][1] & (select.POLLERR | select.POLLHUP)
                dead()
                for name, flags in ("dma/tx", os.O_WRONLY), ("dma/rx", os.O_RDONLY):
                    fd = opened(name, flags)
                    fails(errno.ENODEV, name, "", lambda: os.write(fd, b"x") if flags else os.read(fd, 1))
                assert within(1, lambda: len(os.listdir(M))) > 15
                if how != "remove": write("sim/fault", "none")
                write("ctl", "start")
                dead()
                accepted, sent, lost = (metric("tx_%s_bytes_total" % n) for n in ("accepted", "sent", "lost"))
                assert accepted == sent + lost and metric("requests_in_flight") == 0
                write("sim/wire", "sink"); write("sim/wire", "loopback"); write("ctl", "flush")
                write("bar0", "0x55"); assert read("bar0") == b"0x00000055\\n"
                write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """,
                timeout: .seconds(60)
            )
        }

        @Test func `requests that a stop holds end with the removal`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("ctl", "stop")
                held = [subprocess.Popen(["sh", "-c", "echo x | dd of=$M/dma/tx status=none"], stderr=subprocess.PIPE),
                        subprocess.Popen(["cat", at("dma/rx")], stderr=subprocess.PIPE)]
                time.sleep(0.3); assert all(process.poll() is None for process in held)
                write("ctl", "remove")
                for process in held: assert b"No such device" in process.communicate(timeout=3)[1]
                write("ctl", "start"); write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """
            )
        }

        @Test func `reload waits for a card that leaves and comes back, restores what it forgot and starts it`()
            async throws
        {
            let card = try MountedCard("reload_timeout=20s")
            await card.check(
                """
                header = read("config", 64)
                for how in "leaves", "forgets":
                    reload = subprocess.Popen(["sh", "-c", "echo reload > $M/ctl"])
                    while b"Stopped" not in read("state"): time.sleep(0.01)
                    time.sleep(0.3); assert reload.poll() is None
                    if how == "leaves": write("sim/fault", "gone"); time.sleep(0.2)
                    write("sim/firmware", "2.%d" % len(how))
                    if how == "leaves": write("sim/fault", "none")
                    assert reload.wait(5) == 0 and read("state") == b"pnp Started\\npower D0\\n"
                    assert read("config", 64) == header
                    assert read("resource2", 4, offset=4) == struct.pack("<HH", len(how), 2)
                write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                # What is interrupted leaves the card stopped.
                reload = subprocess.Popen(["sh", "-c", "echo reload > $M/ctl"], start_new_session=True)
                while b"Stopped" not in read("state"): time.sleep(0.01)
                os.killpg(reload.pid, signal.SIGINT); reload.wait(3)
                assert read("state") == b"pnp Stopped\\npower D3\\n"
                write("ctl", "start"); write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """
            )
        }

        @Test func `addresses a card could not start with are not given to it again after it had no power`()
            async throws
        {
            let card = try MountedCard()
            await card.check(
                """
                write("ctl", "stop")
                write("config", struct.pack("<I", 0x100), offset=0x14)
                fails(errno.ENODEV, None, None, lambda: write("ctl", "start"))
                write("sim/fault", "gone"); write("sim/fault", "none")
                write("ctl", "start")
                assert read("state").startswith(b"pnp Started"), read("state")
                assert read("config", 4, offset=0x14) == bytes(4)
                """
            )
        }

        @Test func `reload gives up after its time, with the card stopped`() async throws {
            let card = try MountedCard("reload_timeout=300ms")
            await card.check(
                """
                fails(errno.ETIMEDOUT, "ctl", "was not reprogrammed", lambda: write("ctl", "reload"))
                assert read("state") == b"pnp Stopped\\npower D3\\n"
                write("ctl", "start"); assert read("bar0") == b"0x00000000\\n"
                """
            )
        }

        @Test func `a mount in any state can be unmounted`() async throws {
            for command in ["stop", "suspend", "remove", "reload"] {
                let card = try MountedCard()
                await card.run(
                    "(echo \(command) > $M/ctl) 2> /dev/null & for i in $(seq 100); do grep -q D3 $M/state && break; sleep 0.02; done"
                )
                await card.run("timeout 10 $CARDFS unmount --force $M")
                #expect(card.end() == 0)
            }
        }

        @Test(arguments: [("msix", "MSI-X: Enable+"), ("msi", "MSI: Enable+ Count=4/4"), ("intx", "DisINTx-")])
        func `interrupts come the way that was chosen, without a loss through every state`(kind: String, shown: String)
            async throws
        {
            let card = try MountedCard("interrupts=\(kind)")
            let text = await card.run("lspci -A linux-sysfs -O sysfs.path=$M -vvv")
            #expect(text.contains(shown))
            await card.check(
                """
                log = opened("interrupts/log")
                for leave, back in ("suspend", "resume"), ("stop", "start"), (None, "reset"):
                    for round in range(20):
                        reader = threading.Thread(target=lambda: read("dma/rx", 5000)); reader.start()
                        fd = opened("dma/tx", os.O_WRONLY | os.O_SYNC); os.write(fd, bytes(5000)); os.close(fd)
                        reader.join()
                    if leave: write("ctl", leave)
                    write("ctl", back)
                    count = int(read("interrupts/count")); lines = []
                    while len(lines) < 3: lines += os.read(log, 1 << 16).decode().splitlines()
                numbers = [int(line.split()[0]) for line in lines]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[-1] <= count
                """
            )
            if kind == "intx" {
                await card.check(
                    """
                    count = read("interrupts/count")
                    for i in range(5): write("sim/line", "neighbour")
                    assert read("interrupts/count") == count and metric("interrupts_declined_total") >= 5
                    assert read("sim/line").endswith(b"unclaimed 0\\n")
                    """
                )
            }
        }
    }
}
