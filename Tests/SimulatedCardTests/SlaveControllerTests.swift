import CHardware
import PCIBus
import SimulatedCard
import Testing

/// The machine's slave DMA controller, and a card that is served by it.
@Suite struct SlaveControllerTests {
    private static let slave: UInt64 = 0x110
    private static let send: UInt64 = 0x114
    private static let credit: UInt64 = 0x118
    private static let packet: UInt64 = 0x11c
    private static let out = LogicalAddress(UInt64(Rig.logicalBase) + 0x4_0000)
    private static let into = LogicalAddress(UInt64(Rig.logicalBase) + 0x8_0000)

    private func waits(_ condition: () -> Bool) -> Bool {
        let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 10_000_000_000
        while !condition() {
            if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
            sched_yield()
        }
        return true
    }

    /// A rig whose engines are served by channels of `byteCount` bytes.
    private func rig(_ byteCount: Int, automatic: Bool = true) throws -> (Rig, SlaveDMAChannel, SlaveDMAChannel) {
        let rig = try Rig()
        try rig.start()
        let channels = rig.function.slaveDMAChannels
        try #require(channels.count == 2)
        rig.bar0.store32(3, Self.slave)
        #expect(rig.bar0.load32(Self.slave) == 3)
        channels[0].program(
            Self.out,
            byteCount: byteCount,
            SlaveDMAMode(isToDevice: true, isAutoInitialized: automatic)
        )
        channels[1].program(
            Self.into,
            byteCount: byteCount,
            SlaveDMAMode(isToDevice: false, isAutoInitialized: automatic)
        )
        rig.bar0.store32(Bits.linkStart | Bits.startRx | Bits.startTx, 0)
        return (rig, channels[0], channels[1])
    }

    @Test func `a channel counts down, starts anew at the end, and stops when it is masked`() throws {
        let (rig, out, into) = try rig(4096)
        let from = rig.arena.base + 0x4_0000
        let to = rig.arena.base + 0x8_0000
        for index in 0..<4096 {
            from.storeBytes(of: UInt8(truncatingIfNeeded: index &* 7), toByteOffset: index, as: UInt8.self)
        }
        #expect(out.counter() == 4096 && into.counter() == 4096)
        rig.bar0.store32(4095, Self.credit)
        rig.bar0.store32(3000 | 1 << 31, Self.send)
        #expect(waits { into.counter() == 1096 && out.counter() == 1096 })
        #expect(memcmp(from, to, 3000) == 0)
        #expect(waits { rig.bar0.load32(Self.slave) == 3 && rig.function.controls.contains { $0.name == "wire" } })
        var packet: UInt32 = 0
        #expect(
            waits {
                packet = rig.bar0.load32(Self.packet)
                return packet != 0
            }
        )
        #expect(packet == 3000 | 1 << 31)
        // Across the end of the round.
        rig.bar0.store32(3000, Self.credit)
        rig.bar0.store32(2000, Self.send)
        #expect(waits { out.counter() == 4096 - 904 && into.counter() == 4096 - 904 })
        #expect(memcmp(from, to, 4096) == 0)
        out.mask()
        rig.bar0.store32(100, Self.send)
        usleep(20_000)
        #expect(out.counter() == 4096 - 904)
    }

    @Test func `a receiver delivers no more than it may`() throws {
        let (rig, _, into) = try rig(8192)
        rig.bar0.store32(100, Self.credit)
        rig.bar0.store32(1000 | 1 << 31, Self.send)
        #expect(waits { into.counter() == 8192 - 100 })
        usleep(20_000)
        #expect(into.counter() == 8192 - 100 && rig.bar0.load32(Self.packet) == 0)
        rig.bar0.store32(900, Self.credit)
        #expect(waits { into.counter() == 8192 - 1000 })
    }

    @Test func `a channel that does not start anew masks itself at the end`() throws {
        let (rig, out, _) = try rig(1000, automatic: false)
        rig.bar0.store32(10_000, Self.credit)
        rig.bar0.store32(1500, Self.send)
        #expect(waits { out.counter() == 0 })
        usleep(20_000)
        #expect(out.counter() == 0)
    }

    @Test func `a reset of the core takes it from the controller, and forgets what it was told`() throws {
        let (rig, out, _) = try rig(4096)
        out.mask()
        rig.bar0.store32(5, Self.send)
        #expect(rig.bar0.load32(Self.send) == 511)
        rig.bar0.store32(1, 0)
        #expect(rig.bar0.load32(Self.slave) == 0 && rig.bar0.load32(Self.send) == 512)
    }
}
