import CHardware
import PCIBus
import SimulatedCard
import Synchronization
import Testing

@Suite struct HammerTests {
    /// One direction of a loop that never ends: refills what is done, checks what came.
    @Test func `data stays right while everything around it changes`() throws {
        let rig = try Rig(receiverMemory: 256 << 10)
        let counter = Counter()
        counter.window.store(UInt(bitPattern: Unmanaged.passUnretained(rig).toOpaque()), ordering: .releasing)
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        try rig.start(Bits.linkStart | Bits.interrupts)
        let word = UnsafeMutablePointer<Atomic<Bool>>.allocate(capacity: 1)
        word.initialize(to: Atomic(false))
        let stop = Shared(word)
        let noise = Thread(name: "noise") {
            var round: UInt64 = 0
            while !stop.word.pointee.load(ordering: .acquiring) {
                round += 1
                rig.bar0.store32(UInt32(truncatingIfNeeded: round), 0x108)
                rig.bar0.store(round, 0x20000 + round % 1024 * 8, .quad)
                _ = rig.bar0.load32(4)
                _ = rig.flow
                try? rig.set("rate", round % 2 == 0 ? "unlimited" : "900M")
                _ = rig.get("received")
                try? rig.function.changeCommand(clear: .busMaster)
                try? rig.function.changeCommand(set: .busMaster)
                let page = LogicalAddress(0x5000_0000)
                try? rig.function.mapDMA(rig.arena.base, byteCount: 4096, at: page, access: .read)
                try? rig.function.unmapDMA(at: page, byteCount: 4096)
            }
        }
        let size = 12_000
        for round in 0..<200 {
            let tx = rig.txIndex
            let rx = rig.rxIndex
            for packet in 0..<8 {
                rig.fill(Rig.data + packet * size, size, seed: UInt8(truncatingIfNeeded: round &+ packet))
                rig.addTx(size - packet, Bits.eop | Bits.ie, at: Rig.data + packet * size)
                rig.addRx(size + 4, Bits.ie, at: (1 << 20) + packet * (size + 4))
            }
            rig.startRx()
            rig.startTx()
            try #require(eventually { rig.rxDone((rx + 7) % 1024) && rig.txDone((tx + 7) % 1024) })
            for packet in 0..<8 {
                let same = memcmp(
                    rig.arena.base + (1 << 20) + packet * (size + 4),
                    rig.arena.base + Rig.data + packet * size,
                    size - packet
                )
                #expect(same == 0)
                #expect(
                    rig.word(1, (rx + packet) % 1024) & 0x3f_ffff == Bits.done | Bits.eop | Bits.ie
                        | UInt32(size - packet)
                )
            }
        }
        word.pointee.store(true, ordering: .releasing)
        noise.join()
        rig.function.disconnectInterrupts()
        word.deallocate()
        #expect(counter.overlaps.load(ordering: .relaxed) == 0)
        #expect(counter.count(0) > 0)
        #expect(counter.count(1) > 0)
    }

    @Test func `resets, cancels, faults and unmapping in the middle of transfers end them`() throws {
        let rig = try Rig(receiverMemory: 64 << 10)
        let extra = try rig.function.allocateMemory(byteCount: 256 << 10)
        let place = LogicalAddress(0x6000_0000)
        for round in 0..<300 {
            try rig.function.mapDMA(extra.base, byteCount: extra.byteCount, at: place, access: [.read, .write])
            try rig.start(Bits.linkStart)
            let far = Int(0x6000_0000 - Rig.logicalBase)
            for index in 0..<4 {
                rig.addTx(65_000, at: far)
                rig.addRx(32_000, at: far + (128 << 10) + 4 * index)
            }
            rig.startRx()
            rig.startTx()
            for _ in 0..<round % 50 { chw_pause() }
            switch round % 7 {
            case 0: rig.bar0.store32(rig.control | 1, 0)
            case 1: rig.bar0.store32(rig.control | 2, 0)
            case 2: rig.bar0.store32(rig.control | Bits.cancel, 0)
            case 3: try rig.function.resetFunction()
            case 4:
                try rig.set("link", "down")
                try rig.set("link", "up")
            case 5:
                try rig.set("wire", "source")
                try rig.set("wire", "loopback")
            default: break
            }
            try rig.function.unmapDMA(at: place, byteCount: extra.byteCount)
            // Nothing may write here any more.
            memset(extra.base, 0x5a, extra.byteCount)
            for _ in 0..<20 { chw_pause() }
            #expect(
                (0..<64).allSatisfy {
                    extra.base.load(fromByteOffset: (128 << 10) + $0 * 8, as: UInt64.self) == 0x5a5a_5a5a_5a5a_5a5a
                }
            )
            rig.bar0.store32(rig.control | 1, 0)
            try rig.set("wire", "loopback")
            #expect(rig.status == 0x4000)
            for index in 0..<8 {
                rig.put(0, index, 0, 0, at: 0)
                rig.put(1, index, 0, 0, at: 0)
            }
        }
    }
}
