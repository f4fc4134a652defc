import CHardware
import PCIBus
import SimulatedCard
import Testing

@Suite struct EngineTests {
    static let lengths = [1, 3, 4, 5, 4095, 4096, 4097, 65532, 65535]

    @Test(arguments: lengths, [0, 4, 4092])
    func `a packet comes back byte by byte`(length: Int, offset: Int) throws {
        let rig = try Rig()
        try rig.start()
        let from = Rig.data + offset
        let to = (1 << 20) + offset
        rig.fill(from, length)
        rig.addTx(length, at: from)
        rig.addRx(65532, at: to)
        rig.addRx(65532, at: to + 65532)
        rig.startRx()
        rig.startTx()
        let spill = length >= 65532
        #expect(eventually { rig.rxDone(spill ? 1 : 0) })
        #expect(rig.bytes(to, length) == rig.bytes(from, length))
        #expect(rig.word(0, 0) == Bits.done | Bits.eop)
        if spill {
            #expect(rig.word(1, 0) == Bits.done | 65532)
            #expect(rig.word(1, 1) == Bits.done | Bits.eop | UInt32(length - 65532))
        } else {
            #expect(rig.word(1, 0) == Bits.done | Bits.eop | UInt32(length))
        }
        #expect(rig.bar0.load32(0x14) == Rig.logicalBase + 8)
        #expect(rig.bar0.load32(0x10) == Rig.logicalBase + 8192 + (spill ? 16 : 8))
        #expect(rig.status & 0x6000 == 0x6000)
        let crc = rig.bytes(from, length).withUnsafeBytes { chw_crc32c_reference(0, $0.baseAddress!, length) }
        #expect(rig.get("received") == "bytes \(length)\npackets 1\ncrc32c 0x\(hexadecimal(crc, digits: 8))\n")
    }

    @Test func `the last word of a packet is written whole, and nothing behind it`() throws {
        let rig = try Rig()
        try rig.start()
        rig.fill(Rig.data, 5)
        rig.fill(1 << 20, 16, seed: 100)
        let before = rig.bytes(1 << 20, 16)
        rig.addTx(5, Bits.eep, at: Rig.data)
        rig.addRx(4096, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(0) })
        #expect(rig.word(1, 0) == Bits.done | Bits.eep | 5)
        #expect(rig.bytes(1 << 20, 8) == rig.bytes(Rig.data, 5) + [1, 1, 1])
        #expect(rig.bytes((1 << 20) + 8, 8) == Array(before[8...]))
    }

    @Test func `a packet that exactly fills a descriptor ends in the next one, with length 0`() throws {
        let rig = try Rig()
        try rig.start()
        rig.addTx(64, at: Rig.data)
        rig.addRx(64, at: 1 << 20)
        rig.addRx(64, at: 2 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(1) })
        #expect(rig.word(1, 0) == Bits.done | 64)
        #expect(rig.word(1, 1) == Bits.done | Bits.eop)
    }

    @Test func `length 0 sends only the marker, and without a marker nothing`() throws {
        let rig = try Rig()
        try rig.start()
        rig.addTx(0, Bits.eop, at: Rig.data)
        rig.addTx(0, 0, at: Rig.data)
        rig.addTx(0, Bits.eep, at: Rig.data)
        for index in 0..<3 { rig.addRx(64, at: (1 << 20) + index * 64) }
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(1) && rig.txDone(2) })
        #expect(rig.word(1, 0) == Bits.done | Bits.eop)
        #expect(rig.word(1, 1) == Bits.done | Bits.eep)
        #expect(!rig.rxDone(2))
        #expect(rig.word(0, 1) == Bits.done)
    }

    @Test func `a packet may span descriptors on both sides`() throws {
        let rig = try Rig()
        try rig.start()
        rig.fill(Rig.data, 10_000)
        rig.addTx(3001, 0, at: Rig.data)
        rig.addTx(1, 0, at: Rig.data + 3004)
        rig.addTx(6995, Bits.eop, at: Rig.data + 3008)
        for index in 0..<3 { rig.addRx(4000, at: (1 << 20) + index * 4000) }
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(2) })
        let sent = rig.bytes(Rig.data, 3001) + rig.bytes(Rig.data + 3004, 1) + rig.bytes(Rig.data + 3008, 6995)
        #expect(rig.bytes(1 << 20, 9997) == sent)
        #expect(rig.word(1, 2) == Bits.done | Bits.eop | 1997)
    }

    @Test func `a disabled descriptor stops an engine, and a start goes on behind it`() throws {
        let rig = try Rig()
        try rig.start()
        rig.startTx()
        #expect(eventually { rig.status & 0x80 == 0 })
        rig.startRx()
        #expect(rig.status & 0x40 != 0)
        rig.addTx(4, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(0) && rig.status & 0xc0 == 0 })
        #expect(rig.flow == 2)
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        #expect(eventually { rig.rxDone(0) })
        #expect(rig.word(1, 0) == Bits.done | Bits.eop | 4)
        #expect(eventually { rig.flow == 0 })
        rig.addTx(8, at: Rig.data)
        rig.addRx(64, at: 1 << 20)
        rig.startTx()
        #expect(eventually { rig.rxDone(1) })
    }

    @Test func `tables wrap by themselves and where a descriptor says so`() throws {
        let rig = try Rig()
        try rig.start()
        for round in 0..<2500 {
            let wraps = round >= 1500 && round % 3 == 2
            let index = rig.txIndex
            let target = rig.rxIndex
            rig.addTx(4, Bits.eop | (wraps ? Bits.wrap : 0), at: Rig.data)
            rig.addRx(8, wraps ? Bits.wrap : 0, at: 1 << 20)
            rig.startRx()
            rig.startTx()
            try #require(eventually { rig.rxDone(target) && rig.txDone(index) })
            #expect(rig.word(1, target) & Bits.wrap == (wraps ? Bits.wrap : 0))
            #expect(rig.bar0.load32(0x14) & 0x1fff == UInt32(rig.txIndex * 8))
            #expect(rig.bar0.load32(0x10) & 0x1fff == UInt32(rig.rxIndex * 8))
        }
    }

    @Test func `many packets of one byte arrive in order`() throws {
        let rig = try Rig()
        try rig.start()
        rig.fill(Rig.data, 4000)
        for index in 0..<1000 {
            rig.addTx(1, at: Rig.data + index * 4)
            rig.addRx(4, at: (1 << 20) + index * 4)
        }
        rig.startTx()
        rig.startRx()
        #expect(eventually { rig.rxDone(999) })
        #expect((0..<1000).allSatisfy { rig.bytes((1 << 20) + $0 * 4, 1) == rig.bytes(Rig.data + $0 * 4, 1) })
        #expect((0..<1000).allSatisfy { rig.word(1, $0) == Bits.done | Bits.eop | 1 })
        #expect(rig.get("received").contains("packets 1000\n"))
    }

    @Test func `a receive length of 0 words is 16384 words`() throws {
        let rig = try Rig()
        try rig.start()
        rig.fill(Rig.data, 65535)
        rig.addTx(65535, 0, at: Rig.data)
        rig.addTx(1, Bits.eop, at: Rig.data)
        rig.addRx(0, at: 1 << 20)
        rig.addRx(64, at: 2 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(1) })
        #expect(rig.word(1, 0) == Bits.done)
        #expect(rig.bytes(1 << 20, 65535) == rig.bytes(Rig.data, 65535))
    }

    @Test func `cancelling ends the transmitter without touching its descriptor`() throws {
        let rig = try Rig(receiverMemory: 4096)
        try rig.start()
        rig.addTx(8192, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow == 3 })
        rig.bar0.store32(rig.control | Bits.cancel, 0)
        #expect(rig.status & 0x80 == 0)
        #expect(rig.bar0.load32(0) & Bits.cancel == 0)
        #expect(rig.word(0, 0) & (Bits.en | Bits.done) == Bits.en)
        #expect(rig.bar0.load32(0x14) == Rig.logicalBase)
        #expect(rig.flow == 2)
    }

    @Test func `without bus mastering nothing moves, and with it everything goes on`() throws {
        let rig = try Rig()
        try rig.start()
        try rig.function.changeCommand(clear: .busMaster)
        rig.addTx(100, at: Rig.data)
        rig.addRx(200, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        for _ in 0..<1000 { sched_yield() }
        #expect(rig.status & 0xc0 == 0xc0)
        #expect(!rig.txDone(0))
        try rig.function.changeCommand(set: .busMaster)
        #expect(eventually { rig.rxDone(0) })
    }

    @Test func `with the link off nothing is sent`() throws {
        let rig = try Rig()
        try rig.start(0)
        rig.addTx(100, at: Rig.data)
        rig.startTx()
        for _ in 0..<1000 { sched_yield() }
        #expect(rig.status & 0x83 == 0x80)
        #expect(rig.flow == 0)
        rig.bar0.store32(Bits.linkStart, 0)
        #expect(eventually { rig.txDone(0) })
    }

    @Test(arguments: ["table", "data", "second page", "direction"])
    func `an access without translation is an AHB error that stops the card's bus master`(what: String) throws {
        let rig = try Rig()
        try rig.start()
        let end = Rig.arenaBytes
        var logical = Rig.logicalBase + UInt32(end)
        switch what {
        case "table":
            rig.bar0.store32(0x7000_0000, 0x14)
            logical = 0x7000_0000
        case "data": rig.addTx(100, at: end)
        case "second page": rig.addTx(1000, at: end - 400)
        default:
            try rig.function.mapDMA(rig.arena.base, byteCount: 4096, at: LogicalAddress(0x4000_0000), access: .write)
            rig.addTx(4, at: Int(0x4000_0000 - Rig.logicalBase))
            logical = 0x4000_0000
        }
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.status & 0x100 != 0 })
        #expect(rig.status & 0xc0 == 0)
        #expect(
            rig.get("iommu")
                == "mapped_bytes \(Rig.arenaBytes + (what == "direction" ? 4096 : 0))\nfaults 1\n"
                + "last_fault 0x\(hexadecimal(logical, digits: 8)) read\n"
        )
        #expect(rig.get("received").hasPrefix("bytes \(what == "second page" ? 400 : 0)\n"))
        rig.bar0.store32(.max, 4)
        rig.startTx()
        #expect(rig.status & 0x180 == 0x100)
        rig.bar0.store32(rig.control | 2, 0)
        #expect(rig.status & 0x1c0 == 0)
        try rig.start()
        rig.bar0.store32(Rig.logicalBase, 0x14)
        rig.addTx(4, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(0) })
    }

    @Test func `a receive buffer that is not mapped is a write fault`() throws {
        let rig = try Rig()
        try rig.start()
        rig.addTx(100, at: Rig.data)
        rig.addRx(200, at: Rig.arenaBytes)
        rig.startTx()
        rig.startRx()
        #expect(eventually { rig.status & 0x100 != 0 })
        #expect(rig.get("iommu").hasSuffix(" write\n"))
    }

    @Test func `a DMA reset forgets descriptors and keeps the pointers`() throws {
        let rig = try Rig()
        try rig.start()
        rig.addTx(100, 0, at: Rig.data)
        rig.addRx(200, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.txDone(0) && rig.flow == 0 })
        rig.bar0.store32(rig.control | 2, 0)
        #expect(rig.status & 0xc0 == 0)
        #expect(rig.bar0.load32(0x14) == Rig.logicalBase + 8)
        #expect(rig.bar0.load32(0x10) == Rig.logicalBase + 8192)
        #expect(rig.word(1, 0) == Bits.en | 200)
    }
}
