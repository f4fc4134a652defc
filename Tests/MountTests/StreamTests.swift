import TestSupport
import Testing

extension MountTests {
    /// Bytes through `dma/tx` and `dma/rx`: what goes in comes out, in any size of request.
    @Suite struct StreamTests {
        @Test(arguments: [("512", 16), ("4096", 64), ("65536", 256), ("1M", 256), ("4M", 256)])
        func `random bytes come back unchanged through two dds`(blockSize: String, megabytes: Int) async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT
                head -c \(megabytes)M /dev/urandom > $T/in
                dd if=$T/in of=$M/dma/tx bs=\(blockSize) 2> /dev/null & W=$!
                head -c \(megabytes)M < <(dd if=$M/dma/rx bs=\(blockSize) 2> /dev/null) | cmp - $T/in
                wait $W
                """,
                timeout: .seconds(120)
            )
        }

        @Test func `a dd that counts full blocks gets exactly the file`() async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT
                head -c 48M /dev/urandom > $T/in
                dd if=$T/in of=$M/dma/tx bs=1M oflag=direct 2> /dev/null & W=$!
                dd if=$M/dma/rx of=$T/out bs=1M count=48 iflag=direct,fullblock 2> /dev/null
                wait $W; cmp $T/in $T/out
                cp $T/in $M/dma/tx & W=$!
                head -c 48M $M/dma/rx > $T/out
                wait $W; cmp $T/in $T/out
                """
            )
        }

        @Test(arguments: [
            "direct_threshold=0", "direct_threshold=4M", "direct_threshold=1000", "threads=1", "threads=8",
        ])
        func `every way through the driver carries the same bytes`(options: String) async throws {
            let card = try MountedCard(options)
            await card.check(
                """
                data = os.urandom(3 << 20)
                def send():
                    fd, at = opened("dma/tx", os.O_WRONLY), 0
                    for size in [1, 2, 3, 5, 999, 1000, 4095, 4096, 4097, 16383, 16384, 65536, 1 << 20] * 3:
                        at += os.write(fd, data[at:at + size])
                    while at < len(data): at += os.write(fd, data[at:at + 77777])
                    os.close(fd)
                thread = threading.Thread(target=send); thread.start()
                fd = opened("dma/rx")
                got = readall(fd, len(data))
                thread.join()
                assert got == data
                """
            )
        }

        @Test func `the plan tells how the last transfer went`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                def plan(): return dict(line.split(" ", 1) for line in read("dma/plan").decode().splitlines())
                assert read("dma/plan") == b"none\\n"
                write("dma/tx", b"x" * 100)
                now = plan()
                assert now["direction"] == "tx" and now["method"] == "buffered" and now["bytes"] == "100", now
                assert read("dma/rx", 100) == b"x" * 100
                assert plan()["direction"] == "rx"
                memory = mmap.mmap(-1, 1 << 20)
                fd = opened("dma/tx", os.O_WRONLY); os.write(fd, memory); os.close(fd)
                now = plan()
                assert now["method"] == "direct" and now["bytes"] == str(1 << 20) and now["pages"] == "256", now
                assert now["bounced_bytes"] == "0" and now["engine"] == "sg" and int(now["elements"]) > 1, now
                write("ctl", "flush")
                fd = opened("dma/tx", os.O_WRONLY | os.O_DIRECT); os.write(fd, memoryview(memory)[:4096]); os.close(fd)
                assert plan()["method"] == "direct", "files opened O_DIRECT take the direct path"
                """
            )
        }

        @Test func `a read returns when it is full, or 10 ms after the last byte came`() async throws {
            let card = try MountedCard("gather=200ms")
            await card.check(
                """
                fd = opened("dma/rx"); tx = opened("dma/tx", os.O_WRONLY)
                os.write(tx, b"12345")
                assert within(0.1, lambda: os.read(fd, 5)) == b"12345", "full: nothing to wait for"
                os.write(tx, b"12345")
                start = time.monotonic()
                assert os.read(fd, 4096) == b"12345"
                assert 0.15 < time.monotonic() - start < 0.6, time.monotonic() - start
                os.write(tx, b"abc"); os.write(tx, b"def")
                assert os.read(fd, 4096) == b"abcdef", "writes flow together in a stream"
                """
            )
        }

        @Test func `unread bytes survive close, and concurrent readers share them`() async throws {
            let card = try MountedCard("gather=1ms")
            await card.check(
                """
                write("dma/tx", b"0123456789")
                assert read("dma/rx", 4) == b"0123"
                assert read("dma/rx", 100) == b"456789"
                got, lock = [], threading.Lock()
                def take():
                    fd, mine = opened("dma/rx"), 0
                    while True:
                        part = os.read(fd, 4096)
                        with lock: got.append(part)
                        if part.endswith(b"!"): return
                threads = [threading.Thread(target=take) for _ in range(4)]
                for thread in threads: thread.start()
                data = os.urandom(1 << 20).replace(b"!", b"?")
                write("dma/tx", data)
                while sum(map(len, got)) < len(data): time.sleep(0.01)
                for _ in threads: write("dma/tx", b"!"); time.sleep(0.05)
                for thread in threads: thread.join(5)
                assert sorted(b"".join(got).replace(b"!", b"")) == sorted(data)
                """
            )
        }

        @Test func `the streams cannot be sought, and have sizes that nothing passes or nobody waits for`() async throws
        {
            let card = try MountedCard()
            await card.check(
                """
                files = ("dma/tx", os.O_WRONLY, 1 << 62), ("dma/rx", os.O_RDONLY, 4096), ("interrupts/log", os.O_RDONLY, 4096)
                for name, flags, size in files:
                    fd = opened(name, flags)
                    assert os.fstat(fd).st_size == size
                    fails(errno.ESPIPE, None, None, lambda: os.lseek(fd, 1, os.SEEK_SET))
                    fails(errno.ESPIPE, None, None, lambda: os.pread(fd, 1, 1) if flags == 0 else os.pwrite(fd, b"1", 1))
                    assert os.stat(at(name)).st_ino & 0xffff == os.fstat(fd).st_ino & 0xffff
                """
            )
        }

        @Test func `accepted bytes are sent or lost, and each is counted`() async throws {
            let card = try MountedCard("receiver=1M,tx_timeout=200ms,linger=100ms")
            await card.check(
                """
                fd = opened("dma/tx", os.O_WRONLY)
                written = 0
                try:
                    while True: written += os.write(fd, bytes(65536))
                except OSError as error: assert error.errno == errno.ETIMEDOUT
                assert metric("tx_accepted_bytes_total") == written
                write("ctl", "flush")
                accepted, sent, lost = [metric("tx_%s_bytes_total" % name) for name in ("accepted", "sent", "lost")]
                assert accepted == written and accepted == sent + lost and lost > 0, (accepted, sent, lost)
                arrived, taken, dropped = [metric("rx_%s_bytes_total" % name) for name in ("arrived", "read", "discarded")]
                assert arrived == taken + dropped, (arrived, taken, dropped)
                try: os.close(fd)
                except OSError as error: assert error.errno == errno.ECANCELED
                """
            )
        }
    }

    /// `packet` framing: one write is one packet, one read at most one.
    @Suite struct PacketTests {
        @Test func `65,536 packets of one byte keep their boundaries`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/framing", "packet"); assert read("dma/framing") == b"packet\\n"
                tx, rx = opened("dma/tx", os.O_WRONLY), opened("dma/rx")
                def send():
                    for index in range(65536): os.write(tx, bytes([index & 255]))
                thread = threading.Thread(target=send); thread.start()
                for index in range(65536): assert os.read(rx, 100) == bytes([index & 255])
                thread.join()
                assert read("dma/rx_end") == b"EOP\\n" and metric("rx_packets_total") == 65536
                """,
                timeout: .seconds(60)
            )
        }

        @Test(arguments: [(5000, 64), (65535, 64), (4096, 16), (1_044_480, 64)])
        func `packets come out as they went in`(size: Int, megabytes: Int) async throws {
            let card = try MountedCard()
            await card.check(
                """
                size, total = \(size), \(megabytes) << 20
                write("dma/framing", "packet")
                tx, rx = opened("dma/tx", os.O_WRONLY), opened("dma/rx")
                data, count = os.urandom(size + 4096), total // size
                def send():
                    for index in range(count): os.write(tx, memoryview(data)[index & 4095:(index & 4095) + size])
                thread = threading.Thread(target=send); thread.start()
                for index in range(count):
                    got = os.read(rx, 1 << 20)
                    assert got == data[index & 4095:(index & 4095) + size], (index, len(got))
                thread.join()
                """,
                timeout: .seconds(60)
            )
        }

        @Test func `1,044,480 bytes pass whole from any address, more is EMSGSIZE`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/framing", "packet")
                tx, rx = opened("dma/tx", os.O_WRONLY), opened("dma/rx")
                memory = mmap.mmap(-1, 2 << 20); memory[:] = os.urandom(len(memory)); view = memoryview(memory)
                into = mmap.mmap(-1, 2 << 20)
                for start in 0, 1, 7, 4095, 4096:
                    assert os.write(tx, view[start:start + 1044480]) == 1044480
                    assert os.readv(rx, [memoryview(into)[start + 3:start + 3 + 1044480]]) == 1044480
                    assert into[start + 3:start + 3 + 1044480] == memory[start:start + 1044480]
                    assert read("dma/rx_end") == b"EOP\\n"
                for start in 0, 1:
                    for size in 1044481, 1 << 20:
                        fails(errno.EMSGSIZE, "dma/tx", "at most 1044480 bytes in packet framing",
                              lambda: os.write(tx, view[start:start + size]))
                os.write(tx, b"next"); assert os.read(rx, 100) == b"next", "a refused packet sent nothing"
                write("dma/framing", "stream")
                assert os.write(tx, view[:1 << 20]) == 1 << 20
                assert readall(rx, 1 << 20) == memory[:1 << 20]
                """
            )
        }

        @Test func `the rest of a long packet comes next, and rx_end tells how it ended`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                assert read("dma/rx_end") == b"none\\n"
                write("dma/framing", "packet")
                tx, rx = opened("dma/tx", os.O_WRONLY), opened("dma/rx")
                os.write(tx, b"abcdef"); os.write(tx, b"gh")
                assert os.read(rx, 4) == b"abcd" and read("dma/rx_end") == b"more\\n"
                assert os.read(rx, 4) == b"ef" and read("dma/rx_end") == b"EOP\\n"
                assert os.read(rx, 4) == b"gh" and read("dma/rx_end") == b"EOP\\n"
                write("sim/fault", "eep")
                os.write(tx, b"cut off")
                assert os.read(rx, 100) == b"cut off" and read("dma/rx_end") == b"EEP\\n"
                assert read("sim/fault") == b"none\\n" and metric("rx_error_packets_total") == 1
                os.write(tx, b"whole"); assert os.read(rx, 100) == b"whole" and read("dma/rx_end") == b"EOP\\n"
                """
            )
        }

        @Test func `a packet that waits for a reader is not joined with the next`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo packet > $M/dma/framing
                printf one > $M/dma/tx; printf two > $M/dma/tx; printf three > $M/dma/tx
                for i in 1 2 3; do dd if=$M/dma/rx bs=1M count=1 2> /dev/null; echo; done
                """
            )
            #expect(text == "one\ntwo\nthree\n")
        }
    }
}
