import TestSupport
import Testing

extension MountTests {
    /// The SpaceWire link, as a user sets it and sees its errors.
    @Suite struct LinkTests {
        @Test func `a link that is disabled stays so, and the bit rate as it was set, whatever the card goes through`()
            async throws
        {
            let card = try MountedCard("expert")
            await card.check(
                """
                mode = lambda: int(read("regs/control"), 0) & 0x3c
                rate = lambda: int(read("regs/txscaler"), 0)
                assert mode() == 0x0c and rate() == 9
                write("regs/control", "0x10:0x1c")
                write("regs/txscaler", "3")
                assert mode() == 0x10 and read("sim/link") == b"off\\n"
                tx = os.open(M + "/dma/tx", os.O_WRONLY)
                rx = os.open(M + "/dma/rx", os.O_RDONLY | os.O_NONBLOCK)
                os.write(tx, b"x" * 100)
                fails(errno.EAGAIN, None, None, lambda: os.read(rx, 10))
                assert mode() == 0x10 and read("sim/link") == b"off\\n"
                os.close(rx)
                for commands in ("flush",), ("reset",), ("suspend", "resume"), ("stop", "start"), ("remove", "start"):
                    for command in commands: write("ctl", command)
                    assert mode() == 0x10 and rate() == 3, (commands, mode(), rate())
                try: os.close(tx)
                except OSError: pass
                # As one word of the BAR, and by the whole word of the register.
                import struct
                bar = os.open(M + "/resource0", os.O_RDWR)
                old = struct.unpack("<I", os.pread(bar, 4, 0))[0]
                os.pwrite(bar, struct.pack("<I", old & ~0x10 | 0x04), 0)
                os.close(bar)
                assert mode() == 0x04 and read("sim/link") == b"run\\n"
                data = os.urandom(5000)
                write("dma/tx", data)
                assert read("dma/rx", 5000) == data
                assert mode() == 0x04 and rate() == 3
                """
            )
        }

        @Test func `errors of the link have their causes in the metrics, and time-codes are apart`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                def errors():
                    lines = [l for l in read("metrics.prom").decode().splitlines() if l.startswith("cardfs_link_errors_total{")]
                    return {l.split('cause="')[1].split('"')[0]: int(l.split()[-1]) for l in lines}
                def until(cause, count):
                    end = time.time() + 20
                    while errors()[cause] != count:
                        assert time.time() < end, errors()
                assert errors() == {"disconnect": 0, "parity": 0, "escape": 0, "credit": 0}
                for count in 1, 2:
                    for cause in "parity", "escape", "credit", "disconnect":
                        write("sim/link", cause)
                        until(cause, count)
                write("sim/link", "down"); write("sim/link", "up")
                until("disconnect", 3)
                before = errors()
                write("regs/timecode", "0x%x" % (1 << 16 | 5 << 8))
                end = time.time() + 20
                while metric("time_codes_total") != 1: assert time.time() < end
                assert errors() == before == {"disconnect": 3, "parity": 2, "escape": 2, "credit": 2}
                fails(errno.EINVAL, "sim/link", "parity", lambda: write("sim/link", "sideways"))
                """
            )
        }

        @Test(arguments: ["stream", "packet"])
        func `a write of no bytes is a success that never comes to the card`(framing: String) async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/framing", "\(framing)")
                write("trace", "on")
                tx = os.open(M + "/dma/tx", os.O_WRONLY)
                before = metric("tx_requests_total"), read("sim/received")
                for _ in range(3): assert os.write(tx, b"") == 0
                os.fsync(tx)
                os.close(tx)
                write("trace", "off")
                assert (metric("tx_requests_total"), read("sim/received")) == before
                assert b"FUSE_WRITE" not in read("trace")
                """
            )
        }
    }
}
