import TestSupport
import Testing

extension MountTests {
    /// What bad input gets: the errno and the sentence, and that nothing was stored.
    @Suite struct BadInputTests {
        /// A write that is refused.
        struct Refused: Sendable, CustomTestStringConvertible {
            var path: String
            var text: String
            var code: String
            var sentence: String
            var testDescription: String { "\(path) \(text.debugDescription) \(code)" }

            init(_ path: String, _ text: String, _ code: String, _ sentence: String) {
                (self.path, self.text, self.code, self.sentence) = (path, text, code, sentence)
            }
        }

        private static let noNumbers = [
            "hello", "\n", " ", "-1", "+1", "0x", "0xg", "0b2", "0o8", "1_0", "1 2", "1\n2", "1.5", "0x1;", "1\n\n",
        ]

        @Test func `what is no number is EINVAL for every register file`() async throws {
            let card = try MountedCard()
            let texts = Self.noNumbers.map(\.debugDescription).joined(separator: ", ")
            await card.check(
                """
                for name in "bar0", "offset", "regs/scratch", "regs/0x20010", "regs/0x20010.b":
                    write(name, "0x14")
                    for text in [\(texts)]:
                        reason = "is an empty line" if text == "\\n" else "is not a number"
                        fails(errno.EINVAL, name, "what was written " + reason, lambda: write(name, text))
                    for text in "010", "00", "-0", "007":
                        reason = "not a number" if text == "-0" else "ambiguous: write octal as 0o10"
                        fails(errno.EINVAL, name, reason, lambda: write(name, text))
                    assert int(read(name), 16) == 0x14, "a refused write stored nothing"
                for text in "1:", ":1", "1:2:3", "1:x", "1:010", "1:-1":
                    fails(errno.EINVAL, "bar0", "data:mask", lambda: write("bar0", text))
                    fails(errno.EINVAL, "offset", "what was written", lambda: write("offset", text))
                """
            )
        }

        @Test func `a number that does not fit is ERANGE`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name, text in [("bar0", "0x100000000"), ("regs/0x20010.b", "256"), ("regs/0x20010.w", "0x10000"),
                                   ("regs/0x20010.q", "0x10000000000000000"), ("regs/scratch", "99999999999999999999"),
                                   ("bar0", "1:0x100000000"), ("bar0", "0x100000000:1")]:
                    fails(errno.ERANGE, name, "is too large", lambda: write(name, text))
                    assert int(read(name), 16) == 0
                for text in "0x2000", "8192", "0x100000000":
                    fails(errno.ERANGE, "offset", "outside the window: the last one is 0x1ffc", lambda: write("offset", text))
                fails(errno.ERANGE, "offset", "is too large", lambda: write("offset", "0x10000000000000000"))
                fails(errno.EINVAL, "offset", "multiple", lambda: write("offset", "2"))
                write("offset", "0x1ffc"); write("bar0", "7"); assert read("regs/0x21ffc") == b"0x00000007\\n"
                """
            )
        }

        @Test(arguments: [
            ("0x20011", "EINVAL"), ("0x20014.q", "EINVAL"), ("0x20011.w", "EINVAL"), ("010", "EINVAL"),
            ("0x40000", "ERANGE"), ("0x3ffff.w", "EINVAL"), ("0xffffffffffffffffff", "ERANGE"),
        ]) func `a number that is no offset fails in the look-up`(name: String, code: String) async throws {
            let card = try MountedCard()
            await card.check(
                """
                for call in [lambda: read("regs/\(name)"), lambda: write("regs/\(name)", "1"), lambda: os.stat(at("regs/\(name)"))]:
                    fails(errno.\(code), None, None, call)
                assert read("last_error") == b"", "anybody may look for any name"
                for other in "0x20010.x", "nothing", "0x", "-1", "0x20010.", ".b":
                    fails(errno.ENOENT, None, None, lambda: read("regs/" + other))
                assert subprocess.run(["cat", at("regs/\(name)")], stderr=subprocess.DEVNULL).returncode == 1
                """
            )
        }

        @Test func `a wrong width or a misaligned offset is EINVAL before any access`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                sentence = "1, 2, 4 or 8 bytes at a multiple of its size, or a longer multiple of 4"
                accesses = metric("register_reads_total"), metric("register_writes_total")
                for count, offset in [(3, 0x20000), (5, 0x20000), (6, 0x20000), (7, 0x20000), (9, 0x20000), (1001, 0x20000),
                                      (2, 0x20001), (4, 0x20002), (8, 0x20004), (12, 0x20002), (4096, 0x20001),
                                      (4, 0x3fffe), (8, 0x3fffc), (2, 0x3ffff)]:
                    fails(errno.EINVAL, "resource0", sentence, lambda: read("resource0", count, offset=offset))
                    fails(errno.EINVAL, "resource0", sentence, lambda: write("resource0", b"\\xff" * count, offset=offset))
                assert read("resource0", 64, offset=0x20000) == bytes(64)
                for count, offset in [(4, 0x40000), (16, 0x3fff8), (4096, 0x3fffc)]:
                    fails(errno.ERANGE, "resource0", "which has 0x40000 bytes",
                          lambda: write("resource0", b"\\xff" * count, offset=offset))
                assert read("resource0", 16, offset=0x3fff0) == bytes(16)
                fails(errno.ERANGE, "config", "has 4096 bytes", lambda: write("config", b"1234", offset=4096))
                fails(errno.ERANGE, "config", "has 4096 bytes", lambda: write("config", b"12", offset=4095))
                """
            )
        }

        @Test func `BAR2 is refused at the write, unless the mount allows it`() async throws {
            let refusing = try MountedCard()
            await refusing.check(
                """
                fd = opened("resource2", os.O_RDWR)
                before = os.pread(fd, 64, 0)
                for count in 1, 2, 4, 8, 64:
                    fails(errno.EACCES, "resource2", "mount with -o allow_bar2_writes to write there",
                          lambda: os.pwrite(fd, b"\\xff" * count, 0))
                assert os.pread(fd, 64, 0) == before
                """
            )
            let allowing = try MountedCard("allow_bar2_writes")
            await allowing.check(
                "write('resource2', b'abcd', offset=0x14); assert read('resource2', 4, offset=0x14) == b'abcd'"
            )
        }

        @Test func `a register the driver owns is EBUSY, unless the mount is for experts`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name in "control", "status", "rxdesc", "txdesc", "0x0", "0x4", "0x10", "0x14", "0x10.b", "0x12.w", "0x10.q":
                    fails(errno.EBUSY, "regs/" + name, "mount with -o expert to write it", lambda: write("regs/" + name, "1"))
                for count, offset in [(4, 0x10), (1, 0x17), (8, 0x10), (64, 0)]:
                    fails(errno.EBUSY, "resource0", "mount with -o expert", lambda: write("resource0", bytes(count), offset=offset))
                write("regs/txscaler", "9"); assert read("regs/txscaler") == b"0x00000009\\n"
                """
            )
            let expert = try MountedCard("expert")
            await expert.run("cat $M/regs/status; echo 0x3c3c > $M/regs/status; echo 0 > $M/regs/timecode")
        }

        @Test func `what is only read or only written is EACCES for root too`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fails(errno.EACCES, "dma/tx", "what the card sends is read from dma/rx", lambda: read("dma/tx"))
                fails(errno.EACCES, "dma/tx", "only written", lambda: opened("dma/tx", os.O_RDWR))
                fails(errno.EACCES, "dma/rx", "what is to be sent is written to dma/tx", lambda: write("dma/rx", "1"))
                fails(errno.EACCES, "dma/rx", "only read", lambda: opened("dma/rx", os.O_RDWR))
                for name in ("paddr", "state", "vendor", "device", "class", "revision", "irq", "resource", "metrics.prom",
                             "last_error", "interrupts/count", "interrupts/log", "dma/plan", "dma/rx_end", "dma/last_error",
                             "sim/iommu", "regs/id", "regs/version", "regs/flow"):
                    fails(errno.EACCES, name, "is only read", lambda: write(name, "1"))
                """
            )
        }

        static let lines: [Refused] = [
            Refused("dma/framing", "blocks", "EINVAL", "is no framing; write stream or packet"),
            Refused("ctl", "jump", "EINVAL", "is no command; the commands are flush, reset"),
            Refused("sim/wire", "x", "EINVAL", "wire is loopback, sink or source"),
            Refused("sim/rate", "fast", "EINVAL", "rate is unlimited or bytes per second"),
            Refused("sim/fault", "x", "EINVAL", "fault is one of none"),
            Refused("sim/link", "x", "EINVAL", "link is up, down, or one of the errors"),
            Refused("sim/received", "x", "EINVAL", "received takes clear"),
        ]

        @Test(arguments: lines) func `a line that is no command is EINVAL`(line: Refused) async throws {
            let card = try MountedCard()
            await card.check(
                """
                name = "\(line.path)"
                before = read(name)
                fails(errno.\(line.code), name, "\(line.sentence)", lambda: write(name, "\(line.text)"))
                fails(errno.EINVAL, name, "an empty line says nothing", lambda: write(name, "\\n"))
                fails(errno.EINVAL, name, "one line at a time", lambda: write(name, "a\\nb\\n"))
                assert write(name, "") == 0, "writing nothing does nothing"
                assert read(name) == before
                """
            )
        }

        @Test func `an empty write does nothing, and truncation is no write`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo 5 > $M/bar0; : > $M/bar0; printf '' > $M/bar0; truncate -s 0 $M/bar0; cat $M/bar0
                printf '' > $M/dma/tx; cat $M/sim/received
                """
            )
            #expect(text == "0x00000005\nbytes 0\npackets 0\ncrc32c 0x00000000\n")
        }

        @Test func `errors of registers come from the write itself`() async throws {
            let card = try MountedCard()
            let result = await card.shell("echo hello > $M/bar0; echo $?; cat $M/last_error")
            #expect(result.errors.contains("write error: Invalid argument"))
            let fields = result.text.split(separator: " ", maxSplits: 5)
            #expect(result.text.hasPrefix("1\n1 "))
            #expect(fields.dropFirst(3).prefix(2) == ["bar0", "EINVAL"])
        }

        @Test func `the tree is the card's: nothing is made, removed, renamed or given away`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                calls = [
                    (".", "renamed", lambda: os.rename(at("bar0"), at("x"))),
                    (".", "renamed", lambda: os.rename(at("bar0"), at("offset"))),
                    (".", "removed", lambda: os.unlink(at("bar0"))), (".", "removed", lambda: os.rmdir(at("dma"))),
                    (".", "made", lambda: opened("new", os.O_CREAT | os.O_WRONLY)),
                    ("regs", "made", lambda: opened("regs/new", os.O_CREAT | os.O_WRONLY)),
                    (".", "made", lambda: os.mkdir(at("new"))), (".", "made", lambda: os.symlink("a", at("new"))),
                    (".", "made", lambda: os.link(at("bar0"), at("new"))), (".", "made", lambda: os.mknod(at("new"))),
                    ("bar0", "mount with -o uid=,gid=,mode=", lambda: os.chmod(at("bar0"), 0o777)),
                    ("bar0", "mount with -o uid=,gid=,mode=", lambda: os.chown(at("bar0"), 1, 1)),
                ]
                for path, sentence, call in calls: fails(errno.EPERM, path, sentence, call)
                os.utime(at("bar0"))
                assert read("bar0") == b"0x00000000\\n"
                """
            )
        }

        @Test func `last_error keeps the last 64, with time, process, path, errno and sentence`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for index in range(70):
                    try: write("bar0", "x")
                    except OSError: pass
                lines = [line.split(" ", 5) for line in read("last_error").decode().splitlines()]
                assert [int(line[0]) for line in lines] == list(range(7, 71)), lines
                assert all(abs(float(line[1]) - time.time()) < 60 and line[2] == str(os.getpid()) for line in lines)
                assert all(line[3:5] == ["bar0", "EINVAL"] for line in lines)
                """
            )
        }

        @Test func `a card that is not in D0 answers EAGAIN for registers, and works again in D0`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                power = lambda state: write("config", struct.pack("<H", state), offset=0x44)
                power(3)
                for name in "bar0", "regs/scratch", "regs/0x20010.b":
                    fails(errno.EAGAIN, name, "is not in D0, though state says so: its power register PMCSR", lambda: read(name))
                fails(errno.EAGAIN, "resource0", "is not in D0", lambda: read("resource0", 4096, offset=0))
                assert read("vendor") == b"0x10ee\\n"
                power(0)
                write("ctl", "reset")
                write("bar0", "5"); assert read("bar0") == b"0x00000005\\n"
                """
            )
        }

        @Test func `a card that is gone answers ENODEV, the mount goes on, and reset brings it back`() async throws {
            let card = try MountedCard("tx_timeout=500ms,rx_timeout=500ms,linger=300ms")
            await card.check(
                """
                for fault in "gone", "zeros":
                    write("sim/fault", fault)
                    sentence = "does not answer"
                    for name in "bar0", "regs/scratch", "regs/0x20010.q":
                        fails(errno.ENODEV, name, sentence, lambda: read(name))
                    fails(errno.ENODEV, "resource0", sentence, lambda: read("resource0", 4096, offset=0))
                    if fault == "gone": fails(errno.ENODEV, "config", sentence, lambda: read("config", 64))
                    fails(errno.ENODEV, "ctl", "no card answers",
                          lambda: write("ctl", "reset"))
                    assert read("state") == b"pnp SurpriseRemovePending\\npower D3\\n"
                    fails(errno.ENODEV, "bar0", "write start to ctl when it is back", lambda: write("bar0", "1"))
                    assert within(1, lambda: len(os.listdir(M))) > 15
                    write("sim/fault", "none")
                    write("ctl", "reset")
                    assert read("state") == b"pnp Started\\npower D0\\n"
                    write("bar0", "0x77"); assert read("bar0") == b"0x00000077\\n"
                    write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """
            )
        }

        @Test func `what was written to a card that is gone fails with ENODEV`() async throws {
            let card = try MountedCard("tx_timeout=1s,linger=300ms")
            await card.check(
                """
                fd = opened("dma/tx", os.O_WRONLY)
                write("sim/fault", "gone")
                os.write(fd, b"abc")
                fails(errno.ENODEV, "dma/tx", "", lambda: within(3, lambda: os.fsync(fd)))
                fails(errno.ENODEV, "dma/tx", "3 bytes accepted earlier were lost", lambda: os.write(fd, b"def"))
                fails(errno.ENODEV, "dma/tx", "does not answer any more", lambda: os.close(fd))
                write("sim/fault", "none"); write("ctl", "reset")
                write("dma/tx", b"back"); assert read("dma/rx", 4) == b"back"
                """
            )
        }

        @Test func `a write to a register of a card that cannot take it is refused`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name, data in ("bar0", "1"), ("regs/0x20010.b", "1"), ("bar0", "1:1"):
                    write("config", struct.pack("<H", 3), offset=0x44)
                    fails(errno.EAGAIN, name, "is not in D0, though state says so", lambda: write(name, data))
                    write("config", struct.pack("<H", 0), offset=0x44)
                    write(name, data)
                write("config", struct.pack("<H", 3), offset=0x44)
                fails(errno.EAGAIN, "resource0", "is not in D0", lambda: write("resource0", b"12345678", offset=0x20000))
                write("config", struct.pack("<H", 0), offset=0x44)
                write("config", struct.pack("<H", 4), offset=4)
                fails(errno.EIO, "bar0", "memory decoding", lambda: write("bar0", "1"))
                write("config", struct.pack("<H", 6), offset=4)
                for fault in "gone", "zeros":
                    write("sim/fault", fault)
                    fails(errno.ENODEV, "bar0", "does not answer", lambda: write("bar0", "1"))
                    write("sim/fault", "none"); write("ctl", "start")
                write("bar0", "0x77"); assert read("bar0") == b"0x00000077\\n"
                """
            )
        }

        @Test func `a reader that waits for a card that is gone gets ENODEV`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name in "dma/rx", "interrupts/log":
                    reader = subprocess.Popen(["cat", at(name)], stderr=subprocess.PIPE)
                    time.sleep(0.2); write("sim/fault", "gone")
                    try: errors = reader.communicate(timeout=3)[1]
                    finally: reader.kill()
                    assert b"No such device" in errors, (name, errors)
                    # The reader is told first, and the card is taken down then.
                    end = time.monotonic() + 5
                    while read("state") != b"pnp SurpriseRemovePending\\npower D3\\n": assert time.monotonic() < end, read("state")
                    write("sim/fault", "none"); write("ctl", "start")
                """
            )
        }
    }
}
