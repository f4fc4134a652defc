import CHardware
import PCIBus
import SimulatedCard
import Testing

@Suite struct FaultTests {
    @Test(arguments: ["hang-tx", "hang-rx"])
    func `an engine that hangs shows running and not blocked, until the fault is lifted`(fault: String) throws {
        let rig = try Rig()
        try rig.start()
        try rig.set("fault", fault)
        rig.addTx(4, at: Rig.data)
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        if fault == "hang-rx" { #expect(eventually { rig.txDone(0) }) }
        for _ in 0..<1000 { sched_yield() }
        #expect(rig.status & (fault == "hang-tx" ? 0x80 : 0x40) != 0)
        #expect(rig.flow == 0)
        #expect(!rig.rxDone(0))
        #expect(rig.get("fault") == fault + "\n")
        try rig.set("fault", "none")
        #expect(eventually { rig.rxDone(0) })
    }

    @Test func `a hanging engine is freed by a DMA reset`() throws {
        let rig = try Rig()
        try rig.start()
        try rig.set("fault", "hang-tx")
        rig.addTx(4, at: Rig.data)
        rig.startTx()
        rig.bar0.store32(rig.control | 2, 0)
        #expect(rig.status & 0x80 == 0)
        #expect(rig.word(0, 0) & Bits.en != 0)
    }

    @Test func `eep spoils one packet`() throws {
        let rig = try Rig()
        try rig.start()
        try rig.set("fault", "eep")
        for index in 0..<2 {
            rig.addTx(4, at: Rig.data)
            rig.addRx(64, at: (1 << 20) + 64 * index)
        }
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(1) })
        #expect(rig.word(1, 0) == Bits.done | Bits.eep | 4)
        #expect(rig.word(1, 1) == Bits.done | Bits.eop | 4)
        #expect(rig.get("fault") == "none\n")
    }

    @Test(arguments: [("gone", UInt64.max), ("zeros", 0)])
    func `a card that is gone answers nothing, and comes back reset`(fault: String, answer: UInt64) throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        try rig.start(Bits.linkStart | Bits.interrupts)
        let before = counter.count(2)
        rig.bar0.store32(7, 0x108)
        try rig.set("fault", fault)
        #expect(try rig.function.readConfiguration(0, .long) == UInt32(truncatingIfNeeded: answer))
        #expect(try rig.function.readConfiguration(0, .byte) == UInt32(truncatingIfNeeded: answer & 0xff))
        #expect(rig.bar0.load(0x100, .quad) == answer)
        #expect(rig.bar2.load(0, .word) == answer & 0xffff)
        rig.bar0.store32(1 << 16, 0x0c)
        rig.addTx(4, at: Rig.data)
        rig.startTx()
        for _ in 0..<100 { sched_yield() }
        #expect(!rig.txDone(0))
        #expect(counter.count(2) == before)
        #expect(refusal { () throws(BusError) in try rig.function.resetFunction() } == ENODEV)
        try rig.set("fault", "none")
        #expect(try rig.function.readConfiguration(4, .word) == 2)
        #expect(rig.bar0.load32(0x108) == 0)
        #expect(rig.status == 0x4000)
        rig.function.disconnectInterrupts()
    }

    @Test(arguments: ["platform", "capability"])
    func `a function level reset leaves a card as after power-on, with its configuration`(how: String) throws {
        let rig = try Rig(receiverMemory: 4096)
        try rig.start()
        rig.bar0.store32(0x1234, 0x108)
        rig.bar0.store32(0x5678, 0x20000)
        rig.bar2.store32(9, 0x14)
        rig.addTx(8192, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow & 1 != 0 })
        if how == "platform" {
            try rig.function.resetFunction()
        } else {
            try rig.function.writeConfiguration(0x8000 | 0x2810, 0x68, .word)
        }
        #expect(rig.status == 0x4000)
        #expect(rig.bar0.load32(0) == 0x0a00_0000)
        #expect(rig.bar0.load32(0x14) == 0)
        #expect(rig.bar0.load32(0x108) == 0)
        #expect(rig.bar0.load32(0x20000) == 0x5678)
        #expect(rig.bar2.load32(0x14) == 0)
        #expect(rig.bar2.load32(0x0c) == 2)
        #expect(try rig.function.readConfiguration(4, .word) == 2)
        #expect(rig.word(0, 0) & Bits.en != 0)
        try rig.set("wire", "loopback")
        try rig.start()
        rig.addTx(4, at: Rig.data)
        rig.addRx(64, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { rig.rxDone(0) })
    }

    @Test func `closing ends engines that wait`() throws {
        let rig = try Rig(receiverMemory: 4096)
        try rig.start()
        rig.addTx(8192, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.flow & 1 != 0 })
        rig.function.close()
        #expect(rig.bar0.load32(0x100) == 0xffff_ffff)
        rig.function.close()
    }
}
