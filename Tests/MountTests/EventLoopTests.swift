import TestSupport
import Testing

extension MountTests {
    /// Event loops over the files of a card, and the flags that they change after the open.
    @Suite struct EventLoopTests {
        @Test(arguments: ["receiver=64K", "receiver=1M,spin=50us"])
        func `an edge-triggered loop gets every packet once, and a removal ends it`(options: String) async throws {
            let program = try CompiledProgram("eventloop")
            let card = try MountedCard("linger=0," + options)
            await card.run(Self.untilRemoved, timeout: .seconds(70), environment: ["LOOP": program.path])
        }

        @Test func `a loop of asyncio gets every packet once, and a removal ends it`() async throws {
            let card = try MountedCard("receiver=64K,linger=0")
            let loop = "python3 \(CompiledProgram.sources)/eventloop.py"
            await card.run(Self.untilRemoved, timeout: .seconds(70), environment: ["LOOP": loop])
        }

        private static let untilRemoved = """
            coproc $LOOP $M 100000
            loop=$COPROC_PID
            read -t 60 word <&${COPROC[0]}; [ "$word" = removable ]
            kill -0 $loop
            echo remove > $M/ctl
            wait $loop
            """

        @Test func `O_NONBLOCK set or cleared after the open counts from the next call on`() async throws {
            let card = try MountedCard("receiver=1M,linger=0")
            await card.check(
                """
                tx = opened("dma/tx", os.O_WRONLY)
                for name in "dma/rx", "interrupts/log":
                    fd = opened(name); os.set_blocking(fd, False)
                    fails(errno.EAGAIN, name, "poll first", lambda: within(1, lambda: os.read(fd, 10)))
                    fd = opened(name, os.O_RDONLY | os.O_NONBLOCK); os.set_blocking(fd, True)
                    got = []
                    reader = threading.Thread(target=lambda: got.append(os.read(fd, 10)), daemon=True)
                    reader.start(); time.sleep(0.2)
                    assert not got, "the read waits"
                    while reader.is_alive(): os.write(tx, b"0123456789"); reader.join(0.1)
                    assert got[0]
                write("ctl", "flush")
                os.set_blocking(tx, False)
                def fill():
                    while True: os.write(tx, bytes(65536))
                within(10, lambda: fails(errno.EAGAIN, "dma/tx", "poll first", fill))
                """
            )
        }

        @Test func `RWF_DSYNC waits in one write, and RWF_NOWAIT is refused by the kernel`() async throws {
            let card = try MountedCard("linger=5s")
            await card.check(
                """
                write("sim/wire", "sink"); write("sim/rate", "1M")
                fd = opened("dma/tx", os.O_WRONLY)
                assert os.pwritev(fd, [bytes(500000)], -1, os.RWF_DSYNC) == 500000
                assert read("sim/received").startswith(b"bytes 500000\\n"), read("sim/received")
                assert os.writev(fd, [bytes(100000)]) == 100000
                try: os.pwritev(fd, [b"x"], -1, 8)
                except OSError as error: assert error.errno == errno.EOPNOTSUPP, error
                else: raise AssertionError("RWF_NOWAIT is kept: then it must not wait")
                """
            )
        }

        @Test func `a poll for nothing hears of a removal, and of nothing else`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                names = "dma/rx", "dma/tx", "interrupts/log", "regs/scratch"
                pollers = []
                for name in names:
                    fd = opened(name, os.O_WRONLY if name == "dma/tx" else os.O_RDONLY)
                    poller = select.poll(); poller.register(fd, 0); pollers.append(poller)
                found = {}
                def wait(name, poller): found[name] = poller.poll(20000)
                threads = [threading.Thread(target=wait, args=pair, daemon=True) for pair in zip(names, pollers)]
                for thread in threads: thread.start()
                write("dma/tx", b"x"); time.sleep(0.2)
                assert not found, found
                write("ctl", "remove")
                for thread in threads: thread.join(5)
                assert all(found[name] and found[name][0][1] & select.POLLHUP for name in names), found
                """
            )
        }

        @Test func `room that a command makes is told to who polls`() async throws {
            let card = try MountedCard("receiver=64K,linger=0")
            await card.check(
                """
                def loop(fd):
                    loop = select.epoll(); loop.register(fd, select.EPOLLOUT | select.EPOLLET)
                    return loop
                def fill(fd):
                    while True:
                        try: os.write(fd, bytes(65536))
                        except BlockingIOError: return
                fd = opened("dma/tx", os.O_WRONLY | os.O_NONBLOCK)
                edges = loop(fd)
                assert edges.poll(5)
                fill(fd)
                while edges.poll(0.5): fill(fd)
                write("ctl", "flush")
                assert edges.poll(10), "flush"
                write("ctl", "suspend")
                asleep = loop(opened("dma/tx", os.O_WRONLY))
                assert not asleep.poll(0.3)
                write("ctl", "resume")
                assert asleep.poll(10), "resume"
                """
            )
        }

        @Test func `state is readable until it has been read, and again after each change`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fd = opened("state")
                ready = lambda seconds: select.select([fd], [], [], seconds)[0]
                assert ready(0), "a fresh open has not been read"
                os.read(fd, 100); assert not ready(0)
                for _ in range(3):
                    write("ctl", "reset"); assert ready(5)
                    os.pread(fd, 100, 0); assert not ready(0)
                """
            )
        }

        @Test func `who wrote nothing closes at once`() async throws {
            let card = try MountedCard("linger=20s")
            await card.check(
                """
                write("sim/wire", "sink"); write("sim/rate", "50k")
                fd = os.open(at("dma/tx"), os.O_WRONLY); os.set_inheritable(fd, True)
                assert os.write(fd, bytes(400000)) == 400000
                for _ in range(3): within(5, lambda: subprocess.run(["true"], close_fds=False, check=True))
                child = os.fork()
                if child == 0: os.close(fd); os._exit(0)
                within(5, lambda: os.waitpid(child, 0))
                assert metric("tx_timeouts_total") == 0
                # Who wrote waits, from whichever thread, until the card has the bytes.
                write("sim/rate", "10M")
                closer = threading.Thread(target=lambda: os.close(fd)); closer.start(); closer.join(20)
                assert read("sim/received").startswith(b"bytes 400000\\n")
                """
            )
        }

        @Test func `last_error and trace name the process, whichever of its threads failed`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("trace", "on")
                def work():
                    fails(errno.ERANGE, "regs/scratch", "", lambda: write("regs/scratch", str(1 << 40)))
                    write("dma/tx", b"x")
                    # While the thread is there: the kernel names only it.
                    done.append(os.read(opened("trace", os.O_RDONLY | os.O_NONBLOCK), 1 << 16).decode())
                done = []
                thread = threading.Thread(target=work); thread.start(); thread.join()
                text, = done
                assert re.search(r"write\\(2\\).* pid %d\\b" % os.getpid(), text), text
                """
            )
        }

        @Test func `readers of each interrupt cost the one who moves data next to nothing`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("sim/wire", "sink")
                counts = []
                def follow(fd, count):
                    try:
                        while os.read(fd, 65536): count[0] += 1
                    except OSError: pass
                for _ in range(100):
                    counts.append([0])
                    threading.Thread(target=follow, args=(opened("interrupts/log"), counts[-1]), daemon=True).start()
                time.sleep(0.3)
                tx = opened("dma/tx", os.O_WRONLY | os.O_SYNC)
                start = time.monotonic()
                while time.monotonic() - start < 2: os.write(tx, bytes(4096))
                # However fast the machine is, a processor is left nine tenths of the time: 1 ms for each that was woken.
                time.sleep(0.1)
                woken, time_ = sum(count[0] for count in counts), time.monotonic() - start
                assert woken <= 100 + time_ / 0.001, (woken, time_)
                assert min(count[0] for count in counts) >= 1, "each of them gets the lines"
                write("ctl", "remove")
                """
            )
        }

        @Test(arguments: ["ctl", "dma/engine"])
        func `a writer that waits for another one's command dies at once`(file: String) async throws {
            let card = try MountedCard("reload_timeout=60s")
            await card.check(
                """
                first = subprocess.Popen(["sh", "-c", "echo reload > $M/ctl"], start_new_session=True)
                while b"pnp Started\\npower D0\\n" == read("state"): time.sleep(0.01)
                others = [subprocess.Popen(["sh", "-c", "echo \(file == "ctl" ? "start" : "sg") > $M/\(file)"],
                                           start_new_session=True) for _ in range(3)]
                time.sleep(0.5)
                for process in others:
                    assert process.poll() is None
                    os.killpg(process.pid, signal.SIGKILL); within(2, lambda: process.wait(10))
                os.killpg(first.pid, signal.SIGKILL); within(2, lambda: first.wait(10))
                """
            )
        }

        @Test(arguments: [">", ">>"])
        func `processes that share an open dma/tx with the link down die at once`(mode: String) async throws {
            let card = try MountedCard("tx_timeout=0,linger=0")
            let appends = mode == ">>"
            await card.check(
                """
                write("sim/link", "down")
                group = subprocess.Popen(["bash", "-c", '''
                    exec 3\(mode)$M/dma/tx
                    for i in 1 2 3; do dd if=/dev/zero bs=1M count=64 >&3 2> /dev/null & echo $!; done
                    wait'''], stdout=subprocess.PIPE, start_new_session=True)
                children = [int(group.stdout.readline()) for _ in range(3)]
                def settled():
                    text = metric("tx_accepted_bytes_total"); time.sleep(0.5)
                    return text == metric("tx_accepted_bytes_total")
                while not settled(): pass
                def state(child):
                    try:
                        with open("/proc/%d/stat" % child) as file: return file.read().rsplit(")", 1)[1].split()[0]
                    except (FileNotFoundError, ProcessLookupError): return "X"
                if \(appends ? "False" : "True"):
                    # With O_APPEND the kernel serialises the writers of one open, and those behind the first wait unkillably.
                    assert all(state(child) == "S" for child in children), [state(child) for child in children]
                    for child in children[::-1]:
                        os.kill(child, signal.SIGKILL)
                        start = time.monotonic()
                        while state(child) not in "ZX" and time.monotonic() - start < 5: time.sleep(0.01)
                        assert time.monotonic() - start < 2, state(child)
                os.killpg(group.pid, signal.SIGKILL); within(5, lambda: group.wait(10))
                """
            )
        }

        @Test func `what explains an error is there before the error is seen`() async throws {
            let card = try MountedCard("tx_timeout=20ms,linger=0,rx_timeout=20ms")
            await card.check(
                """
                os.sched_setaffinity(0, {0})
                with open("/proc/self/stat") as file: pass
                for round in range(30):
                    for cause, path in ("hang-tx", "dma/tx"), ("none", "dma/rx"):
                        write("sim/fault", cause)
                        before = metric("tx_timeouts_total") + metric("rx_timeouts_total") + metric("tx_lost_bytes_total")
                        try:
                            if path == "dma/tx": write(path, b"x" * (round + 1), os.O_SYNC)
                            else: read(path, 10)
                        except OSError as error: assert error.errno == errno.ETIMEDOUT, error
                        else: raise AssertionError("no error")
                        text = read("dma/last_error").decode()
                        assert "direction %s\\n" % path[4:] in text, (round, path, text)
                        if path == "dma/tx": assert "bytes_lost %d\\n" % (round + 1) in text, (round, text)
                        assert path in last_error(), last_error()
                        after = metric("tx_timeouts_total") + metric("rx_timeouts_total") + metric("tx_lost_bytes_total")
                        assert after > before, (before, after)
                """,
                timeout: .seconds(60)
            )
        }
    }
}
