import CHardware
import PCIBus
import SimulatedCard
import Testing

@Suite struct WireTests {
    static func stream(_ position: Int, _ count: Int) -> [UInt8] {
        (position..<position + count).map {
            UInt8(truncatingIfNeeded: (UInt64($0 / 8) &* 0x9E37_79B9_7F4A_7C15) >> UInt64($0 % 8 * 8))
        }
    }

    @Test func `a sink counts, sums and drops`() throws {
        let rig = try Rig()
        try rig.set("wire", "sink")
        try rig.start()
        rig.fill(Rig.data, 300_000)
        var offset = 0
        for length in [1, 3, 4095, 65532, 65535, 4] {
            rig.addTx(length, length == 3 ? 0 : Bits.eop, at: Rig.data + offset)
            offset += (length + 3) & ~3
        }
        rig.startTx()
        #expect(eventually { rig.txDone(5) })
        var sent: [UInt8] = []
        offset = Rig.data
        for length in [1, 3, 4095, 65532, 65535, 4] {
            sent += rig.bytes(offset, length)
            offset += (length + 3) & ~3
        }
        let crc = chw_crc32c_reference(0, sent, sent.count)
        #expect(rig.get("received") == "bytes \(sent.count)\npackets 5\ncrc32c 0x\(hexadecimal(crc, digits: 8))\n")
        try rig.set("received", "clear")
        #expect(rig.get("received") == "bytes 0\npackets 0\ncrc32c 0x00000000\n")
        #expect(rig.flow == 0)
    }

    @Test func `a source is one stream over descriptors of every length and place`() throws {
        let rig = try Rig()
        try rig.set("wire", "source")
        try rig.start()
        var offset = 1 << 20
        var places: [(Int, Int)] = []
        for length in [4, 8, 4092, 12, 65532, 65528, 4, 65532, 65532] {
            rig.addRx(length, at: offset)
            places.append((offset, length))
            offset += length + 4
        }
        rig.startRx()
        #expect(eventually { rig.rxDone(places.count - 1) && rig.status & 0x40 == 0 })
        #expect(rig.flow == 2)
        var position = 0
        for (index, (offset, length)) in places.enumerated() {
            #expect(rig.word(1, index) == Bits.done | UInt32(length))
            #expect(rig.bytes(offset, length) == Self.stream(position, length))
            position += length
        }
        rig.addTx(10, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(0) })
        #expect(rig.get("received").hasPrefix("bytes 10\npackets 1\n"))
    }

    @Test func `a full receiver holds the transmitter, and reading releases it`() throws {
        let rig = try Rig(receiverMemory: 8192)
        try rig.start()
        rig.fill(Rig.data, 20_000)
        rig.addTx(20_000, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow == 3 })
        #expect(!rig.txDone(0))
        for index in 0..<6 { rig.addRx(4096, at: (1 << 20) + index * 4096) }
        rig.startRx()
        #expect(eventually { rig.rxDone(4) })
        #expect(rig.txDone(0))
        #expect(rig.bytes(1 << 20, 20_000) == rig.bytes(Rig.data, 20_000))
        #expect(rig.word(1, 4) == Bits.done | Bits.eop | 3616)
        #expect(eventually { rig.flow == 0 })
    }

    @Test func `another far end takes what the full one did not`() throws {
        let rig = try Rig(receiverMemory: 4096)
        try rig.start()
        rig.fill(Rig.data, 50_000)
        rig.addTx(50_000, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow == 3 })
        try rig.set("wire", "sink")
        #expect(eventually { rig.txDone(0) })
        #expect(rig.flow == 0)
        #expect(rig.get("received").hasPrefix("bytes 50000\npackets 1\n"))
    }

    @Test func `a packet cut off by the link ends in EEP, and its rest is dropped`() throws {
        let rig = try Rig(receiverMemory: 4096)
        try rig.start()
        rig.addTx(16_384, 0, at: Rig.data)
        rig.addTx(4, Bits.eop, at: Rig.data)
        rig.addTx(8, Bits.eop, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow & 1 != 0 })
        try rig.set("link", "down")
        #expect(rig.get("link") == "started\n")
        #expect(rig.status & 7 == 5)
        #expect(eventually { rig.txDone(1) })
        #expect(!rig.txDone(2))
        rig.addRx(8192, at: 1 << 20)
        rig.addRx(8192, at: 1 << 20)
        rig.startRx()
        try rig.set("link", "up")
        #expect(eventually { rig.rxDone(1) })
        #expect(rig.word(1, 0) == Bits.done | Bits.eep | 4096)
        #expect(rig.word(1, 1) == Bits.done | Bits.eop | 8)
    }

    @Test func `a packet half received when the link is lost ends in EEP at once`() throws {
        let rig = try Rig()
        try rig.set("wire", "source")
        try rig.start()
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        #expect(eventually { rig.rxDone(0) && rig.status & 0x40 == 0 })
        try rig.set("link", "down")
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        #expect(eventually { rig.rxDone(1) })
        #expect(rig.word(1, 1) == Bits.done | Bits.eep)
    }

    @Test(arguments: [
        ("unlimited", "unlimited"), ("40000000", "40000000"), ("40M", "40000000"), ("40MB/s", "40000000"),
        ("40 MB/s", "40000000"), ("5k", "5000"), ("2G", "2000000000"), ("7B/s", "7"),
    ])
    func `a rate is read with its unit`(text: String, value: String) throws {
        let rig = try Rig()
        try rig.set("rate", text)
        #expect(rig.get("rate") == value + "\n")
    }

    @Test(arguments: ["", "0", "-1", "fast", "M", "1.5M", "40m", "99999999999999999999", "2000G", "1 0"])
    func `what is no rate is refused`(text: String) throws {
        let rig = try Rig()
        #expect(throws: BusError.self) { try rig.set("rate", text) }
    }

    @Test(arguments: ["wire", "received", "fault", "link"])
    func `a word a control does not know is refused`(name: String) throws {
        let rig = try Rig()
        #expect(throws: BusError.self) { try rig.set(name, "what") }
        #expect(rig.control("iommu").write == nil)
        #expect(rig.function.controls.allSatisfy { !$0.summary.contains("\n") && !$0.summary.isEmpty })
    }

    @Test func `the clock paces the wire`() throws {
        let clock = Clock.stepped()
        let rig = try Rig(clock: clock)
        try rig.set("wire", "sink")
        try rig.set("rate", "1M")
        try rig.start()
        rig.addTx(10_000, at: Rig.data)
        rig.startTx()
        func received() -> Int { Int(rig.get("received").split(separator: "\n")[0].dropFirst(6))! }
        #expect(eventually { received() > 0 })
        for _ in 0..<1000 { sched_yield() }
        #expect(received() <= 1500)
        clock.advance(byNanoseconds: 3_000_000)
        #expect(eventually { received() >= 1500 })
        #expect(received() < 5000)
        #expect(
            eventually {
                clock.advance(byNanoseconds: 1_000_000)
                return rig.txDone(0)
            }
        )
        rig.function.close()
        clock.destroy()
    }
}
