import CHardware
import PCIBus
import SimulatedCard
import Testing

@Suite struct ConfigurationTests {
    @Test(
        arguments: [
            (0x00, AccessWidth.word, 0x10ee), (0x02, .word, 0x5350), (0x08, .long, 0x0280_0001), (0x0e, .byte, 0),
            (0x2c, .word, 0x10ee), (0x2e, .word, 1), (0x34, .byte, 0x40), (0x3d, .byte, 1), (0x3c, .byte, 16),
            (0x04, .word, 2), (0x06, .word, 0x10), (0x13, .byte, 0xd0), (0x100, .long, 0x0001_0003),
        ] as [(Int, AccessWidth, UInt32)]
    )
    func `the header says what the card is`(offset: Int, width: AccessWidth, value: UInt32) throws {
        let rig = try Rig()
        #expect(try rig.function.readConfiguration(offset, width) == value)
    }

    @Test func `the capabilities form a chain`() throws {
        let rig = try Rig()
        #expect(try rig.function.capability(ConfigurationSpace.Capability.powerManagement) == 0x40)
        #expect(try rig.function.capability(ConfigurationSpace.Capability.express) == 0x60)
        #expect(try rig.function.capability(ConfigurationSpace.Capability.msix) == 0xb0)
        #expect(try rig.function.capability(ConfigurationSpace.Capability.msi) == 0x50)
        #expect(try rig.function.readConfiguration(0xb2, .word) == 3)
        #expect(try rig.function.readConfiguration(0x62, .word) == 2)
    }

    @Test(
        arguments: [
            (0x10, 0xfffc_0004), (0x14, 0xffff_ffff), (0x18, 0xffff_f000), (0x1c, 0), (0x20, 0xffff_f000), (0x24, 0),
            (0x30, 0),
        ] as [(Int, UInt32)]
    )
    func `writing all ones to a BAR shows its size`(offset: Int, mask: UInt32) throws {
        let rig = try Rig()
        let old = try rig.function.readConfiguration(offset, .long)
        try rig.function.writeConfiguration(.max, offset, .long)
        #expect(try rig.function.readConfiguration(offset, .long) == mask)
        try rig.function.writeConfiguration(old, offset, .long)
        #expect(try rig.function.readConfiguration(offset, .long) == old)
        #expect(rig.bar0.load32(0x100) == 0x5350_5743)
    }

    @Test func `a BAR that was moved away does not answer where it was`() throws {
        let rig = try Rig()
        try rig.function.writeConfiguration(0x8000_0000, 0x10, .long)
        #expect(rig.bar0.load32(0x100) == 0xffff_ffff)
        #expect(rig.bar2.load32(0) != 0xffff_ffff)
    }

    @Test(arguments: [
        (-4, AccessWidth.long), (4096, .byte), (1, .word), (2, .long), (0, .quad), (4094, .long),
    ])
    func `accesses of other widths and places are refused`(offset: Int, width: AccessWidth) throws {
        let rig = try Rig()
        let read = refusal { () throws(BusError) in _ = try rig.function.readConfiguration(offset, width) }
        let write = refusal { () throws(BusError) in try rig.function.writeConfiguration(0, offset, width) }
        #expect(read == EINVAL)
        #expect(write == EINVAL)
    }

    @Test(arguments: [0x00, 0x08, 0x2c, 0x34, 0x60, 0x64, 0x6c, 0x100, 0x104, 0xb4])
    func `what is not writable keeps its value`(offset: Int) throws {
        let rig = try Rig()
        let old = try rig.function.readConfiguration(offset, .long)
        try rig.function.writeConfiguration(~old, offset, .long)
        #expect(try rig.function.readConfiguration(offset, .long) == old)
    }

    /// The bits that PCI 3.0, PCI Power Management 1.2, PCI Express 2.0 and the card's BARs let be written; all others keep their
    /// value. (Bit 15 of the device control register starts a reset and never reads 1.)
    private static let writableBits: [Int: UInt32] = [
        0x04: 0x0546, 0x0c: 0xff, 0x10: 0xfffc_0000, 0x14: .max, 0x18: 0xffff_f000, 0x20: 0xffff_f000, 0x3c: 0xff,
        0x44: 0x3, 0x50: 0x0071_0000, 0x54: ~3, 0x58: .max, 0x5c: 0xffff, 0x68: 0x7fff, 0x70: 0xc8, 0x88: 0x1f,
        0x90: 0xf, 0xb0: 0xc000_0000,
    ]

    @Test func `of all of configuration space, the bits that can be written are those of the specifications`() throws {
        let rig = try Rig()
        for offset in stride(from: 0, to: rig.function.configurationSize, by: 4) {
            let old = try rig.function.readConfiguration(offset, .long)
            let ones: UInt32 = offset == 0x68 ? ~(1 << 15) : .max
            try rig.function.writeConfiguration(ones, offset, .long)
            let high = try rig.function.readConfiguration(offset, .long)
            try rig.function.writeConfiguration(0, offset, .long)
            let low = try rig.function.readConfiguration(offset, .long)
            #expect(high ^ low == Self.writableBits[offset] ?? 0, "0x\(String(offset, radix: 16))")
            try rig.function.writeConfiguration(old, offset, .long)
            #expect(try rig.function.readConfiguration(offset, .long) == old, "0x\(String(offset, radix: 16))")
        }
    }

    @Test func `without memory decoding nobody answers`() throws {
        let rig = try Rig()
        rig.bar0.store32(5, 0x108)
        try rig.function.changeCommand(clear: .memorySpace)
        #expect(rig.bar0.load32(0x108) == 0xffff_ffff)
        #expect(rig.bar0.load(0x108, .quad) == .max)
        #expect(rig.bar2.load(0, .word) == 0xffff)
        rig.bar0.store32(6, 0x108)
        try rig.function.changeCommand(set: .memorySpace)
        #expect(rig.bar0.load32(0x108) == 5)
    }

    @Test func `in D3hot the BARs do not answer, and the way back resets the card`() throws {
        let rig = try Rig()
        try rig.start()
        rig.bar0.store32(5, 0x108)
        try rig.function.writeConfiguration(3, 0x44, .word)
        #expect(rig.bar0.load32(0x108) == 0xffff_ffff)
        #expect(try rig.function.readConfiguration(0x00, .word) == 0x10ee)
        try rig.function.writeConfiguration(0, 0x44, .word)
        #expect(rig.bar0.load32(0x108) == 0)
        #expect(rig.status == 0x4000)
        #expect(rig.bar2.load32(0x0c) == 4)
    }

    @Test func `a power state the card lacks is not taken`() throws {
        let rig = try Rig()
        try rig.function.writeConfiguration(1, 0x44, .word)
        #expect(try rig.function.readConfiguration(0x44, .word) == 0)
    }

    @Test func `a second opening of an address is refused until the first is closed`() throws {
        let bus = SimulatedBus()
        let address = PCIAddress(bus: 3, device: 0, function: 0)
        let first = try bus.open(address)
        #expect(refusal { () throws(BusError) in _ = try bus.open(address) } == EBUSY)
        first.close()
        first.close()
        let second = try bus.open(address)
        #expect(second.busName == "simulated")
        #expect(try first.readConfiguration(0, .word) == 0xffff)
        second.close()
    }
}
