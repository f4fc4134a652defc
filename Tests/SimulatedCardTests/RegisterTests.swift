import PCIBus
import SimulatedCard
import Testing

@Suite struct RegisterTests {
    @Test(
        arguments: [
            (0x00, 0x0a00_0000), (0x04, 0x4000), (0x08, 9), (0x0c, 0), (0x10, 0), (0x14, 0), (0x18, 0),
            (0x100, 0x5350_5743),
            (0x104, 0x0001_0000), (0x108, 0), (0x10c, 0), (0x3fffc, 0), (0x24000, 0),
        ] as [(UInt64, UInt32)]
    )
    func `after power-on the registers are`(offset: UInt64, value: UInt32) throws {
        let rig = try Rig()
        #expect(rig.bar0.load32(offset) == value)
        #expect(rig.get("link") == "off\n")
    }

    @Test(
        arguments: [
            (0x00, 0x0a00_3e3c), (0x08, 0xff), (0x10, 0xffff_fff8), (0x14, 0xffff_fff8), (0x100, 0x5350_5743),
            (0x108, 0xffff_ffff), (0x3000, 0),
        ] as [(UInt64, UInt32)]
    )
    func `only bits that exist keep what is written`(offset: UInt64, value: UInt32) throws {
        let rig = try Rig()
        rig.bar0.store32(offset == 0 ? 0xffff_fe3c : .max, offset)
        #expect(rig.bar0.load32(offset) == value)
    }

    @Test(arguments: AccessWidth.allCases)
    func `memory windows take every width at every lane`(width: AccessWidth) throws {
        let rig = try Rig()
        for base: UInt64 in [0x20000, 0x22000, 0x23ff8] {
            for lane in stride(from: 0, to: 8, by: width.byteCount) {
                rig.bar0.store(0, base, .quad)
                rig.bar0.store(0x8877_6655_4433_2211, base + UInt64(lane), width)
                let value = 0x8877_6655_4433_2211 & width.allOnes
                #expect(rig.bar0.load(base + UInt64(lane), width) == value)
                #expect(rig.bar0.load(base, .quad) == value << UInt64(lane * 8))
            }
        }
    }

    @Test func `registers are read in lanes, and written in words only`() throws {
        let rig = try Rig()
        rig.bar0.store32(0x4433_2211, 0x108)
        #expect(rig.bar0.load(0x109, .byte) == 0x22)
        #expect(rig.bar0.load(0x10a, .word) == 0x4433)
        #expect(rig.bar0.load(0x108, .quad) == 0x4433_2211)
        rig.bar0.store(0xff, 0x108, .byte)
        rig.bar0.store(0xffff, 0x10a, .word)
        #expect(rig.bar0.load32(0x108) == 0x4433_2211)
        rig.bar0.store(0x0102_0300_0405_0600, 0x10, .quad)
        #expect(rig.bar0.load32(0x10) == 0x0405_0600)
        #expect(rig.bar0.load32(0x14) == 0x0102_0300)
    }

    @Test func `the configuration registers of BAR2`() throws {
        let rig = try Rig()
        #expect(rig.bar2.load32(0x0c) == 1)
        #expect(rig.bar2.load32(0x10) == 100_000_000)
        for offset: UInt64 in stride(from: 0x10, to: 0x40, by: 4) {
            rig.bar2.store32(UInt32(offset) * 3, offset)
            #expect(rig.bar2.load32(offset) == UInt32(offset) * 3)
        }
        rig.bar2.store32(.max, 0)
        #expect(rig.bar2.load32(0) == 0x5350_0001)
        #expect(rig.bar2.load32(0x40) == 0)
    }

    @Test func `the link follows its control bits at once`() throws {
        let rig = try Rig()
        rig.bar0.store32(Bits.autostart, 0)
        #expect(rig.status & 3 == 3)
        rig.bar0.store32(0, 0)
        #expect(rig.status & 3 == 3)
        rig.bar0.store32(Bits.linkDisable | Bits.linkStart, 0)
        #expect(rig.status & 3 == 0)
        rig.bar0.store32(Bits.linkStart, 0)
        #expect(rig.get("link") == "run\n")
        rig.bar0.store32(Bits.linkStart | 1, 0)
        #expect(rig.status == 0x4000)
    }

    @Test func `sticky bits stay until a 1 is written to them`() throws {
        let rig = try Rig()
        try rig.start()
        try rig.set("link", "down")
        rig.bar0.store32(1 << 16 | 5 << 8, 0x0c)
        #expect(rig.status & 0x407 == 0x005)
        try rig.set("link", "up")
        rig.bar0.store32(1 << 16 | 6 << 8, 0x0c)
        #expect(rig.status & 0x407 == 0x407)
        rig.bar0.store32(0, 4)
        #expect(rig.status & 0x404 == 0x404)
        rig.bar0.store32(0x400, 4)
        #expect(rig.status & 0x404 == 0x004)
        rig.bar0.store32(0xffff_ffff, 4)
        #expect(rig.status & 0x407 == 0x003)
    }

    @Test func `a time-code comes back, and the next one is counted`() throws {
        let rig = try Rig()
        try rig.start()
        rig.bar0.store32(1 << 16 | 63 << 8, 0x0c)
        #expect(rig.bar0.load32(0x0c) == 63)
        rig.bar0.store32(7 << 8, 0x0c)
        #expect(rig.bar0.load32(0x0c) == 63 | 7 << 8)
    }
}
