import TestSupport
import Testing

extension MountTests {
    /// Who waits, for how long, and how a wait ends: signals, timeouts, O_NONBLOCK, poll.
    @Suite struct WaitingTests {
        /// Fills the receiver and leaves a writer waiting, whose process is `writer`.
        private static let parked = """
            writer = subprocess.Popen(["dd", "if=/dev/zero", "of=" + at("dma/tx"), "bs=1M", "count=1000"],
                                      stderr=subprocess.PIPE)
            accepted = -1
            while accepted != metric("tx_accepted_bytes_total") or accepted == 0:
                accepted = metric("tx_accepted_bytes_total"); time.sleep(0.3)
            assert writer.poll() is None

            """

        @Test func `a parked writer holds up nobody`() async throws {
            let card = try MountedCard("receiver=1M,tx_timeout=0,linger=0")
            await card.check(
                Self.parked + """
                    fd = within(0.5, lambda: opened("dma/tx", os.O_WRONLY | os.O_NONBLOCK))
                    fails(errno.EAGAIN, "dma/tx", "would have to wait", lambda: within(0.5, lambda: os.write(fd, b"x")))
                    within(0.5, lambda: os.stat(at("dma/tx")))
                    within(0.5, lambda: os.listdir(at("dma")))
                    within(1, lambda: subprocess.run(["ls", "-l", M, at("dma")], check=True, stdout=subprocess.DEVNULL))
                    within(0.5, lambda: write("bar0", "7"))
                    assert within(0.5, lambda: read("bar0")) == b"0x00000007\\n"
                    second = subprocess.Popen(["dd", "if=/dev/zero", "of=" + at("dma/tx"), "bs=64K", "count=1"],
                                              stderr=subprocess.PIPE)
                    time.sleep(0.3)
                    for process, number in (second, signal.SIGINT), (writer, signal.SIGKILL):
                        assert process.poll() is None
                        process.send_signal(number)
                        within(1, lambda: process.wait(5))
                    within(1.5, lambda: os.close(fd))
                    assert within(1, lambda: read("state")) == b"pnp Started\\npower D0\\n"
                    """
            )
        }

        @Test(arguments: ["SIGINT", "SIGTERM", "SIGKILL"])
        func `a signal ends a parked writer at once`(name: String) async throws {
            let card = try MountedCard("receiver=1M,tx_timeout=0")
            await card.check(
                Self.parked + """
                    plain = subprocess.Popen(["sh", "-c", 'exec cat /dev/zero > "$M/dma/tx"'])
                    time.sleep(0.3); assert plain.poll() is None
                    plain.send_signal(signal.\(name))
                    within(0.5, lambda: plain.wait(10))
                    assert plain.returncode == -signal.\(name), plain.returncode
                    # dd catches SIGINT and closes its output before it ends, which waits for the linger time.
                    writer.send_signal(signal.\(name))
                    within(3 if "\(name)" == "SIGINT" else 0.5, lambda: writer.wait(10))
                    assert writer.returncode in (-signal.\(name), 1), writer.returncode
                    """
            )
        }

        @Test(arguments: ["dma/rx", "interrupts/log"], ["SIGINT", "SIGKILL"])
        func `a signal ends a reader of nothing at once`(file: String, name: String) async throws {
            let card = try MountedCard()
            await card.check(
                """
                reader = subprocess.Popen(["cat", at("\(file)")], stdout=subprocess.PIPE)
                time.sleep(0.3); assert reader.poll() is None
                reader.send_signal(signal.\(name))
                within(0.5, lambda: reader.wait(5))
                assert reader.returncode == -signal.\(name)
                write("dma/tx", b"still works"); assert read("dma/rx", 11) == b"still works"
                """
            )
        }

        @Test func `a handler's signal is EINTR, or the bytes so far`() async throws {
            let card = try MountedCard("gather=5s")
            await card.check(
                """
                libc = ctypes.CDLL(None, use_errno=True)
                signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, True)
                fd, memory = opened("dma/rx"), ctypes.create_string_buffer(100)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                result = within(1, lambda: libc.read(fd, memory, 100))
                assert (result, ctypes.get_errno()) == (-1, errno.EINTR), (result, ctypes.get_errno())
                write("dma/tx", b"part")
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                result = within(1, lambda: libc.read(fd, memory, 100))
                if result < 0:
                    assert ctypes.get_errno() == errno.EINTR
                    assert readall(fd, 4) == b"part", "what a read did not return is still there"
                else: assert memory.raw[:result] == b"part"[:result]
                """
            )
        }

        @Test func `O_NONBLOCK with nothing to do is EAGAIN`() async throws {
            let card = try MountedCard("receiver=1M,linger=0")
            await card.check(
                """
                for name in "dma/rx", "interrupts/log":
                    sentence = "poll first"
                    fails(errno.EAGAIN, name, sentence, lambda: within(0.5, lambda: read(name, 10, os.O_NONBLOCK)))
                fd = opened("dma/tx", os.O_WRONLY | os.O_NONBLOCK)
                count = 0
                poller = select.poll(); poller.register(fd, select.POLLOUT)
                while poller.poll(300):
                    try: count += os.write(fd, bytes(65536))
                    except BlockingIOError: time.sleep(0.001)
                fails(errno.EAGAIN, "dma/tx", "poll first", lambda: [os.write(fd, bytes(65536)) for _ in range(40)])
                assert count >= 1 << 20
                rx = opened("dma/rx", os.O_RDONLY | os.O_NONBLOCK)
                got, deadline = 0, time.monotonic() + 10
                while got < count and time.monotonic() < deadline:
                    try: got += len(os.read(rx, 1 << 20))
                    except BlockingIOError: time.sleep(0.001)
                assert got >= count, (got, count)
                """
            )
        }

        @Test func `tx_timeout ends a write with ETIMEDOUT, and what was accepted can be read`() async throws {
            let card = try MountedCard("receiver=2M,tx_timeout=1s,linger=200ms")
            let result = await card.shell(
                """
                dd if=/dev/zero of=$M/dma/tx bs=1M count=1000; echo status $?
                grep ETIMEDOUT $M/last_error
                A=$(sed -n 's/^cardfs_tx_accepted_bytes_total{.*} //p' $M/metrics.prom)
                head -c $A $M/dma/rx | tr -d '\\0' | wc -c
                timeout 1 head -c 1 $M/dma/rx | wc -c
                """
            )
            #expect(result.errors.contains("error writing") && result.errors.contains("Connection timed out"))
            #expect(result.text.hasPrefix("status 1\n") && result.text.hasSuffix("\n0\n0\n"))
            #expect(result.text.contains("the receiver is full: read dma/rx, or write sink to sim/wire"))
        }

        @Test func `flush discards what nobody reads, and the stream goes on`() async throws {
            let card = try MountedCard("receiver=2M,tx_timeout=500ms,linger=200ms")
            let result = await card.shell(
                """
                dd if=/dev/zero of=$M/dma/tx bs=1M count=1000 2> /dev/null
                echo flush > $M/ctl && printf hello > $M/dma/tx && head -c 5 $M/dma/rx
                """
            )
            #expect(result.status == 0 && result.text == "hello")
        }

        @Test func `rx_timeout ends a read with ETIMEDOUT`() async throws {
            let card = try MountedCard("rx_timeout=300ms")
            await card.check(
                """
                start = time.monotonic()
                fails(errno.ETIMEDOUT, "dma/rx", "nothing came from", lambda: within(2, lambda: read("dma/rx", 10)))
                assert time.monotonic() - start > 0.25
                assert metric("rx_timeouts_total") == 1
                """
            )
        }

        @Test func `fsync, close and O_SYNC wait until the card has the bytes`() async throws {
            let card = try MountedCard("linger=5s")
            await card.check(
                """
                write("sim/wire", "sink"); write("sim/rate", "1M")
                fd = opened("dma/tx", os.O_WRONLY)
                within(0.3, lambda: os.write(fd, bytes(500000)))
                start = time.monotonic(); os.fsync(fd)
                assert 0.3 < time.monotonic() - start < 3, time.monotonic() - start
                assert read("sim/received").startswith(b"bytes 500000\\n")
                os.write(fd, bytes(500000))
                start = time.monotonic(); os.close(fd)
                assert 0.3 < time.monotonic() - start < 3, time.monotonic() - start
                fd = opened("dma/tx", os.O_WRONLY | os.O_SYNC)
                start = time.monotonic(); assert os.write(fd, bytes(500000)) == 500000
                assert 0.3 < time.monotonic() - start < 3, time.monotonic() - start
                assert read("sim/received").startswith(b"bytes 1500000\\n")
                """
            )
        }

        @Test func `linger bounds close, and 0 does not wait`() async throws {
            for (linger, least, most) in [("700ms", 0.6, 2.0), ("0", -1, 0.3)] {
                let card = try MountedCard("linger=\(linger)")
                await card.check(
                    """
                    write("sim/wire", "sink"); write("sim/rate", "10k")
                    fd = opened("dma/tx", os.O_WRONLY); os.write(fd, bytes(100000))
                    start = time.monotonic()
                    try: os.close(fd); failed = 0
                    except OSError as error: failed = error.errno
                    assert \(least) < time.monotonic() - start < \(most), time.monotonic() - start
                    assert failed in (errno.ETIMEDOUT, 0), failed
                    if \(least) > 0: assert "linger" in last_error() and failed == errno.ETIMEDOUT, last_error()
                    write("sim/rate", "unlimited")
                    while not read("sim/received").startswith(b"bytes 100000\\n"): time.sleep(0.01)
                    """
                )
            }
        }

        @Test func `a deferred error stays with its file, and a new file works`() async throws {
            let card = try MountedCard("tx_timeout=1s,linger=3s")
            await card.check(
                """
                write("sim/fault", "hang-tx")
                fd = opened("dma/tx", os.O_WRONLY)
                assert os.write(fd, b"lost") == 4
                fails(errno.ETIMEDOUT, "dma/tx", "4 bytes accepted earlier were lost", lambda: within(4, lambda: os.fsync(fd)))
                fails(errno.ETIMEDOUT, "dma/tx", "4 bytes accepted earlier were lost", lambda: os.write(fd, b"more"))
                fails(errno.ETIMEDOUT, "dma/tx", "4 bytes accepted earlier were lost", lambda: os.fsync(fd))
                text = read("dma/last_error").decode()
                assert re.search(r"stuck|without progress", text) and "4" in text and "reset" in text, text
                write("sim/fault", "none")
                fails(errno.ETIMEDOUT, "dma/tx", "were lost", lambda: os.close(fd))
                write("dma/tx", b"new")
                assert readall(opened("dma/rx"), 3) == b"new"
                assert metric("tx_accepted_bytes_total") == metric("tx_sent_bytes_total") + metric("tx_lost_bytes_total")
                assert metric("tx_lost_bytes_total") == 4 and metric("tx_recoveries_total") >= 1
                """
            )
        }

        @Test func `poll tells when a stream can be written or read`() async throws {
            let card = try MountedCard("receiver=1M,linger=0")
            await card.check(
                """
                def poll(fd, events, seconds):
                    poller = select.poll(); poller.register(fd, events)
                    found = poller.poll(seconds * 1000)
                    return found[0][1] & events if found else 0
                tx = opened("dma/tx", os.O_WRONLY | os.O_NONBLOCK); rx = opened("dma/rx", os.O_RDONLY | os.O_NONBLOCK)
                assert poll(tx, select.POLLOUT, 0) and not poll(rx, select.POLLIN, 0.1)
                threading.Timer(0.3, lambda: write("dma/tx", b"hello")).start()
                assert within(2, lambda: poll(rx, select.POLLIN, 5)), "what comes later wakes who polls"
                assert os.read(rx, 5) == b"hello"
                assert not poll(rx, select.POLLIN, 0)
                while poll(tx, select.POLLOUT, 0.3):
                    try: os.write(tx, bytes(65536))
                    except BlockingIOError: time.sleep(0.001)
                assert not poll(tx, select.POLLOUT, 0), "the receiver is full"
                threading.Timer(0.3, lambda: write("sim/wire", "sink")).start()
                assert within(3, lambda: poll(tx, select.POLLOUT, 5)), "room wakes who polls"
                """
            )
        }

        @Test func `poll tells of a change of state`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fd = opened("state")
                assert os.read(fd, 100) == b"pnp Started\\npower D0\\n"
                poller = select.poll(); poller.register(fd, select.POLLIN | select.POLLPRI)
                ready = lambda ms: [event for _, event in poller.poll(ms) if event & (select.POLLIN | select.POLLPRI)]
                assert not ready(100)
                threading.Timer(0.2, lambda: write("ctl", "reset")).start()
                assert within(3, lambda: ready(5000))
                os.pread(fd, 100, 0)
                """
            )
        }

        @Test func `the interrupt log gives whole lines to any size of read, from the open on`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/tx", b"x", os.O_SYNC); read("dma/rx", 1)
                # The bytes may be read before their interrupts are counted, and the two ends have one each.
                before, seen = 0, -1
                while before == 0 or before != seen:
                    seen = before; time.sleep(0.1); before = int(read("interrupts/count"))
                tiny, follower = opened("interrupts/log"), opened("interrupts/log")
                poller = select.poll(); poller.register(tiny, select.POLLIN)
                assert not poller.poll(50)
                threading.Timer(0.2, lambda: [write("dma/tx", b"y", os.O_SYNC) for _ in range(5)]).start()
                assert within(2, lambda: poller.poll(5000)), "an interrupt wakes who polls"
                text = b""
                while text.count(b"\\n") < 5: text += os.read(tiny, 3)
                other = b""
                while other.count(b"\\n") < 5: other += os.read(follower, 4096)
                lines = [line.split() for line in text.decode().splitlines()[:5]]
                assert other.decode().splitlines()[:5] == text.decode().splitlines()[:5], (text, other)
                assert [int(line[0]) for line in lines] == list(range(int(lines[0][0]), int(lines[0][0]) + 5)), lines
                assert all(len(line) == 4 and abs(float(line[1]) - time.time()) < 20 for line in lines), lines
                assert all(len(line[1].split(".")[1]) == 9 for line in lines)
                assert int(read("interrupts/count")) >= before + 5
                """
            )
        }

        @Test func `a reader that is too late for the interrupt log gets lost and the number`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fd, tx = opened("interrupts/log"), opened("dma/tx", os.O_WRONLY | os.O_SYNC)
                write("sim/wire", "sink")
                before = int(read("interrupts/count"))
                while int(read("interrupts/count")) - before < 66000:
                    for _ in range(2000): os.write(tx, b"x")
                lines = b""
                while lines.count(b"\\n") < 2: lines += os.read(fd, 100)
                first, second = lines.decode().splitlines()[:2]
                assert first.split()[0] == "lost" and int(first.split()[1]) > 0, lines
                assert int(second.split()[0]) >= int(first.split()[1]), lines
                """,
                timeout: .seconds(60)
            )
        }

        @Test func `reset ends what was under way with an error its owner sees, and what waits goes on`() async throws {
            let card = try MountedCard("receiver=1M,tx_timeout=0,linger=100ms")
            await card.check(
                """
                fd = opened("dma/tx", os.O_WRONLY | os.O_NONBLOCK)
                poller = select.poll(); poller.register(fd, select.POLLOUT)
                while poller.poll(300):
                    try: os.write(fd, bytes(65536))
                    except BlockingIOError: time.sleep(0.001)
                write("ctl", "reset")
                assert read("state") == b"pnp Started\\npower D0\\n"
                fails(errno.ECANCELED, "dma/tx", "bytes accepted earlier were lost", lambda: os.write(fd, b"x"))
                fails(errno.ECANCELED, "dma/tx", "bytes accepted earlier were lost", lambda: os.fsync(fd))
                accepted, sent, lost = [metric("tx_%s_bytes_total" % name) for name in ("accepted", "sent", "lost")]
                assert lost > 0 and accepted == sent + lost, (accepted, sent, lost)
                write("ctl", "flush"); write("dma/tx", b"new"); assert read("dma/rx", 3) == b"new"
                reader = subprocess.Popen(["head", "-c", "4", at("dma/rx")], stdout=subprocess.PIPE)
                time.sleep(0.3); write("ctl", "reset"); time.sleep(0.1); assert reader.poll() is None
                write("dma/tx", b"late"); assert reader.communicate(timeout=5)[0] == b"late"
                """
            )
        }

        @Test func `tail -f follows the interrupt log`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                T=$(mktemp); trap 'rm $T' EXIT
                timeout 2 cat $M/interrupts/log > $T & sleep .3
                for i in 1 2 3; do printf x | dd of=$M/dma/tx oflag=sync 2> /dev/null; done
                wait $! || true
                grep -c '^[0-9]* [0-9]*\\.[0-9]* [0-9]* [0-9]*$' $T
                """
            )
            #expect((Int(text.dropLast()) ?? 0) >= 3)
        }
    }
}
