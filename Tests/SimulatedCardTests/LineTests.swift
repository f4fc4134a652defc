import CHardware
import PCIBus
import SimulatedCard
import Synchronization
import Testing

/// A routine for the line as a driver would write it: reads the status, clears what it finds, and says whether it was this
/// card.
private final class LineRoutine: Sendable {
    let window: RegisterWindow
    let claimed = Atomic<Int>(0)
    let declined = Atomic<Int>(0)
    let events = Atomic<Int>(0)

    init(_ rig: Rig) { window = rig.bar0 }

    var sink: InterruptSink {
        InterruptSink(context: Unmanaged.passUnretained(self).toOpaque()) { context, vector in
            Unmanaged<LineRoutine>.fromOpaque(context).takeUnretainedValue().serve(vector)
        }
    }

    private func serve(_ vector: UInt32) -> Bool {
        #expect(vector == 0)
        let status = window.load32(4)
        let causes = status & 0x3c3c
        if causes != 0 { window.store32(causes, 4) }
        let isMine = causes != 0 || events.exchange(0, ordering: .relaxed) != 0
        if isMine {
            claimed.wrappingAdd(1, ordering: .sequentiallyConsistent)
        } else {
            declined.wrappingAdd(1, ordering: .sequentiallyConsistent)
        }
        return isMine
    }
}

@Suite struct LineTests {
    @Test func `the line is pulled as long as there is a reason, and each reason is served`() throws {
        let rig = try Rig()
        let routine = LineRoutine(rig)
        try rig.function.connectInterrupts(.intx, count: 1, to: routine.sink)
        // The first change of the link has no bit in the status register.
        routine.events.store(1, ordering: .relaxed)
        try rig.start(Bits.linkStart | Bits.interrupts)
        #expect(routine.claimed.load(ordering: .relaxed) == 1)
        for index in 0..<20 {
            rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
            rig.addRx(64, Bits.ie, at: 1 << 20)
            rig.startRx()
            rig.startTx()
            #expect(eventually { rig.txDone(index) && rig.rxDone(index) })
        }
        #expect(eventually { rig.status & 0x3c3c == 0 })
        let claimed = routine.claimed.load(ordering: .relaxed)
        #expect(claimed > 20 && rig.get("line").hasSuffix("unclaimed 0\n"))
        rig.function.disconnectInterrupts()
    }

    @Test func `another function on the line is declined, and its own routine serves it`() throws {
        let rig = try Rig()
        let line = rig.control("line")
        #expect(refusal { () throws(BusError) in try line.write!("neighbour") } == EBUSY)
        let routine = LineRoutine(rig)
        try rig.function.connectInterrupts(.intx, count: 1, to: routine.sink)
        for _ in 0..<3 { try rig.set("line", "neighbour") }
        #expect(routine.claimed.load(ordering: .relaxed) == 0 && routine.declined.load(ordering: .relaxed) == 3)
        #expect(rig.get("line") == "declined 3\nunclaimed 0\n")
        rig.function.disconnectInterrupts()
    }

    @Test func `Interrupt Disable keeps the pin from the line, and the status shows the reason all the same`() throws {
        let rig = try Rig()
        let routine = LineRoutine(rig)
        try rig.function.connectInterrupts(.intx, count: 1, to: routine.sink)
        routine.events.store(1, ordering: .relaxed)
        try rig.start(Bits.linkStart | Bits.interrupts)
        let before = routine.claimed.load(ordering: .relaxed)
        try rig.function.changeCommand(set: .interruptDisable)
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(0) })
        #expect(eventually { (try? rig.function.readConfiguration(ConfigurationSpace.status, .word))! & 8 != 0 })
        #expect(routine.claimed.load(ordering: .relaxed) == before)
        try rig.function.changeCommand(clear: .interruptDisable)
        #expect(routine.claimed.load(ordering: .relaxed) == before + 1)
        #expect(try rig.function.readConfiguration(ConfigurationSpace.status, .word) & 8 == 0)
        rig.function.disconnectInterrupts()
    }

    @Test func `a reason from before the connection pulls the line at once, one from after it nobody`() throws {
        let rig = try Rig()
        let routine = LineRoutine(rig)
        try rig.start(Bits.linkStart | Bits.interrupts)
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(0) })
        try rig.function.connectInterrupts(.intx, count: 1, to: routine.sink)
        #expect(routine.claimed.load(ordering: .relaxed) == 1)
        rig.function.disconnectInterrupts()
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.startTx()
        #expect(eventually { rig.txDone(1) })
        #expect(routine.claimed.load(ordering: .relaxed) == 1)
    }

    @Test func `a level nobody claims is left alone rather than served for ever`() throws {
        let rig = try Rig()
        let refusing = InterruptSink(context: UnsafeMutableRawPointer(bitPattern: 8)!) { _, _ in false }
        try rig.function.connectInterrupts(.intx, count: 1, to: refusing)
        try rig.start(Bits.linkStart | Bits.interrupts)
        #expect(rig.get("line").hasSuffix("unclaimed 1\n"))
        rig.function.disconnectInterrupts()
    }

    @Test(arguments: [1, 2, 4])
    func `messages of MSI share the vectors that were granted`(count: Int) throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msi, count: count, to: counter.sink)
        try rig.start(Bits.linkStart | Bits.interrupts)
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.addRx(64, Bits.ie, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { (0..<4).map(counter.count).reduce(0, +) == 3 })
        // Link 2, transmitter 0, receiver 1.
        let expected = [1: [3, 0, 0, 0], 2: [2, 1, 0, 0], 4: [1, 1, 1, 0]][count]
        #expect((0..<4).map(counter.count) == expected)
        #expect(try rig.function.readConfiguration(0x52, .word) & 0x71 == UInt32(1 | count.trailingZeroBitCount << 4))
        rig.function.disconnectInterrupts()
        #expect(try rig.function.readConfiguration(0x52, .word) & 1 == 0)
    }

    @Test func `a message of MSI waits for bus mastering`() throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msi, count: 4, to: counter.sink)
        rig.bar0.store32(Bits.linkStart | Bits.interrupts, 0)
        #expect(counter.count(2) == 0)
        try rig.function.changeCommand(set: .busMaster)
        #expect(counter.count(2) == 1)
        rig.function.disconnectInterrupts()
    }

    @Test func `kinds and counts the card lacks are refused, and only one kind at a time is connected`() throws {
        let rig = try Rig()
        let counter = Counter()
        for (kind, count) in [(InterruptKind.intx, 2), (.intx, 0), (.msi, 3), (.msi, 8), (.msix, 5)] {
            #expect(
                refusal { () throws(BusError) in
                    try rig.function.connectInterrupts(kind, count: count, to: counter.sink)
                } == EINVAL
            )
        }
        try rig.function.connectInterrupts(.msi, count: 4, to: counter.sink)
        #expect(
            refusal { () throws(BusError) in try rig.function.connectInterrupts(.intx, count: 1, to: counter.sink) }
                == EBUSY
        )
        rig.function.disconnectInterrupts()
        try rig.function.connectInterrupts(.intx, count: 1, to: LineRoutine(rig).sink)
        rig.function.disconnectInterrupts()
    }
}
