import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The option that keeps processors awake.
    @Suite(
        .enabled(if: access(WakeLatency.device, R_OK | W_OK) == 0, "needs /dev/cpu_dma_latency and its owner"),
        .timeLimit(.minutes(1))
    )
    struct LatencyTests {
        private static let target = """
            def target():
                with open("/dev/cpu_dma_latency", "rb", buffering=0) as device: return struct.unpack("=i", device.read(4))[0]
            def becomes(number):
                end = time.monotonic() + 20
                while target() != number:
                    assert time.monotonic() < end, target()
                    time.sleep(0.05)

            """

        @Test func `processors wake in time while a file that reaches the card is open, and a second longer`()
            async throws
        {
            let card = try MountedCard("latency=777")
            await card.check(
                Self.target + """
                    assert target() > 777
                    for name in "state", "offset", "dma/plan", "metrics.prom":
                        fd = opened(name); assert target() > 777, name; os.close(fd)
                    files = [("regs/scratch", os.O_RDONLY), ("regs/0x20000", os.O_WRONLY), ("bar0", os.O_RDONLY),
                             ("resource0", os.O_RDWR), ("dma/tx", os.O_WRONLY), ("dma/rx", os.O_RDONLY),
                             ("interrupts/log", os.O_RDONLY)]
                    for name, flags in files[:1] + files[-1:]:
                        fd = opened(name, flags); assert target() == 777, name
                        start = time.monotonic(); os.close(fd); becomes(2000000000)
                        assert time.monotonic() - start > 0.9, time.monotonic() - start
                    for name, flags in files:
                        fd = opened(name, flags); assert target() == 777, name
                        other = opened(name, flags); os.close(fd); assert target() == 777, name
                        os.close(other)
                    """
            )
            card.end()
            let after = await shell(
                "python3 -c 'import struct; print(struct.unpack(\"=i\", open(\"/dev/cpu_dma_latency\", \"rb\").read(4))[0] > 777)'"
            )
            #expect(after.text == "True\n")
        }

        @Test func `zero is a number, and without the option nothing is asked`() async throws {
            let without = try MountedCard()
            await without.check(Self.target + "fd = opened(\"bar0\"); assert target() == 2000000000")
            let zero = try MountedCard("latency=0")
            await zero.check(
                Self.target + "fd = opened(\"bar0\"); assert target() == 0; os.close(fd); becomes(2000000000)"
            )
        }
    }
}
