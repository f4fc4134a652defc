import TestSupport
import Testing

extension MountTests {
    /// Which registers a program touches, and what is believed of their values.
    @Suite struct AccessTests {
        /// Programs that are sent to one place of a BAR, and the accesses that it takes.
        @Test(arguments: [
            ("od -A n -t x4 -j 0x20014 -N 4 resource0", 1), ("od -A n -t x8 -j 0x20010 -N 8 resource0", 1),
            ("od -A n -t x4 -j 0x3fffc -N 4 resource0", 1), ("od -A n -t x4 -N 4 resource0", 1),
            ("od -A n -t x4 -j 8 -N 16 resource2", 4),
            ("xxd -s 0x20014 -l 4 resource0", 1), ("hexdump -s 0x20014 -n 4 resource0", 1),
            ("dd if=resource0 bs=4 skip=$((0x20014 / 4)) count=1 status=none", 1), ("head -c 4 resource0", 1),
            ("tail -c 4 resource0", 1),
            ("python3 -c 'f = open(\"resource0\", \"rb\"); f.seek(0x20014); assert len(f.read(4)) == 4'", 1),
            ("python3 -c 'f = open(\"resource0\", \"rb\"); f.seek(0x20018); assert len(f.read(8)) == 8'", 1),
            ("python3 -c 'f = open(\"resource0\", \"rb\"); f.seek(0x20014); assert len(f.read(12)) == 12'", 3),
            ("od -A n -c regs/id", 1), ("xxd regs/id", 1), ("hexdump -C regs/id", 1),
            ("od -A n -c -j 4 -N 2 regs/id", 1),
            ("tail -c 3 regs/id", 1), ("head -c 3 regs/id", 1), ("dd if=regs/id bs=1 status=none", 1),
            ("wc -c regs/id", 0),
            ("ls -l . regs", 0), ("python3 -c 'print(open(\"regs/id\", \"rb\").read(4))'", 1), ("grep -c x regs/id", 1),
            ("stat resource0 regs/id bar0", 0),
        ]) func `a register that nobody asked for is not touched`(command: String, accesses: Int) async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                cd $M; count() { awk '/^cardfs_register_reads_total/ { print $2 }' metrics.prom; }
                before=$(count); { \(command); } > /dev/null; echo $(($(count) - before)); awk '/EINVAL|ERANGE/' last_error
                """
            )
            #expect(text == "\(accesses)\n")
        }

        @Test func `who looks at the first bytes of the stream leaves the rest to others`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                cd $M; printf 0123456789abcdefghij > dma/tx
                od -A n -c -N 4 dma/rx | tr -d ' \\n'; python3 -c 'print(end=open("dma/rx", "rb").read(4).decode())'
                hexdump -e '4/1 "%c"' -n 4 dma/rx; xxd -p -l 4 dma/rx | xxd -r -p; head -c 4 dma/rx
                """
            )
            #expect(text == "0123456789abcdefghij")
        }

        @Test func `processes that each change bits of their own lose none, whichever file they use`() async throws {
            let card = try MountedCard("threads=8")
            await card.check(
                """
                write("offset", "0x10")
                write("bar0", "0")
                program = '''
                import fcntl, os, struct, sys
                M, bit = sys.argv[1], int(sys.argv[2])
                fd = os.open(M + ("/bar0" if bit & 1 else "/regs/0x20010"), os.O_RDWR)
                for k in range(1500):
                    for value in 1 << bit, 0:
                        os.pwrite(fd, b"0x%x:0x%x" % (value, 1 << bit), 0)
                        if int(os.pread(fd, 64, 0), 16) & 1 << bit != value: sys.exit("bit %d was lost in round %d" % (bit, k))
                '''
                workers = [subprocess.Popen([sys.executable, "-c", program, M, str(bit)]) for bit in range(4)]
                assert [worker.wait(60) for worker in workers] == [0] * 4
                """,
                timeout: .seconds(90)
            )
        }

        @Test func `a BAR that was moved is told from one that reads all ones`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                config = opened("config", os.O_RDWR)
                for bar, offset, name, place in (0, 0x10, "regs/id", None), (2, 0x18, "resource2", 0):
                    held = os.pread(config, 4, offset)
                    os.pwrite(config, b"\\xff" * 4, offset)
                    mend = "put it back with setpci BASE_ADDRESS_%d=%08x" % (bar, struct.unpack("<I", held)[0] & ~15)
                    fails(errno.EIO, name, "BAR%d of 0000:01:00.0 has been moved" % bar, lambda: read(name, 4, offset=place))
                    assert mend in last_error(), (mend, last_error())
                    if bar == 0:
                        fails(errno.EIO, "regs/scratch", mend, lambda: write("regs/scratch", "0x5a5a"))
                        fails(errno.EIO, "regs/scratch", mend, lambda: write("regs/scratch", "1:1"))
                        fails(errno.EIO, "resource0", mend, lambda: write("resource0", bytes(16), offset=0x20000))
                        fails(errno.EIO, "resource0", mend, lambda: read("resource0", 4096, offset=0x20000))
                    os.pwrite(config, held, offset)
                    assert len(read(name, 4, offset=place)) == 4
                write("bar0", "0xffffffff")
                assert read("bar0") == b"0xffffffff\\n", "all ones of a BAR in its place is a value"
                """
            )
        }

        @Test func `a card that was put to sleep behind the driver's back says so, and how to wake it`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                config = opened("config", os.O_RDWR)
                capability = os.pread(config, 1, 0x34)[0]
                while os.pread(config, 1, capability) != b"\\x01": capability = os.pread(config, 1, capability + 1)[0]
                def power(state): os.pwrite(config, bytes([state]), capability + 4)
                power(3)
                mend = "wake it with setpci CAP_PM+4.w=0:3, then write reset to ctl"
                for name in "regs/id", "bar0", "resource0":
                    fails(errno.EAGAIN, name, "PMCSR", lambda: read(name, 4, offset=0))
                    assert mend in last_error()
                fails(errno.EAGAIN, "regs/scratch", mend, lambda: write("regs/scratch", "1"))
                power(0)
                write("ctl", "reset")
                write("regs/scratch", "7"); assert read("regs/scratch") == b"0x00000007\\n"
                write("dma/tx", b"awake"); assert read("dma/rx", 5) == b"awake"
                """,
                provokes: true
            )
        }
    }
}
