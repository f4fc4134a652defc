import CHardware
import PCIBus
import SimulatedCard
import Synchronization
import Testing

/// Counts calls of each vector, and calls that overlap.
final class Counter: Sendable {
    let calls: Counts = .init()
    let inside: Counts = .init()
    let overlaps = Atomic<Int>(0)
    let isOpen = Atomic<Bool>(true)
    let late = Atomic<Int>(0)
    /// Written back to the status register by the routine.
    let window = Atomic<UInt>(0)

    var sink: InterruptSink {
        InterruptSink(context: Unmanaged.passUnretained(self).toOpaque()) { context, vector in
            let counter = Unmanaged<Counter>.fromOpaque(context).takeUnretainedValue()
            counter.enter(Int(vector))
            return true
        }
    }

    /// Four atomic counters.
    struct Counts: @unchecked Sendable {  // atomics
        private let words: UnsafeMutablePointer<Atomic<Int>>
        init() {
            words = .allocate(capacity: 4)
            for index in 0..<4 { (words + index).initialize(to: Atomic(0)) }
        }
        subscript(index: Int) -> UnsafeMutablePointer<Atomic<Int>> { words + index }
        func destroy() {
            words.deinitialize(count: 4)
            words.deallocate()
        }
    }

    deinit {
        calls.destroy()
        inside.destroy()
    }

    private func enter(_ vector: Int) {
        if !isOpen.load(ordering: .acquiring) { late.wrappingAdd(1, ordering: .relaxed) }
        if inside[vector].pointee.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue != 1 {
            overlaps.wrappingAdd(1, ordering: .relaxed)
        }
        if let rig = UnsafeRawPointer(bitPattern: window.load(ordering: .acquiring)) {
            let rig = Unmanaged<Rig>.fromOpaque(rig).takeUnretainedValue()
            rig.bar0.store32(rig.status & 0x3c3c, 4)
        }
        calls[vector].pointee.wrappingAdd(1, ordering: .releasing)
        inside[vector].pointee.wrappingSubtract(1, ordering: .acquiringAndReleasing)
    }

    func count(_ vector: Int) -> Int { calls[vector].pointee.load(ordering: .acquiring) }
}

@Suite struct InterruptTests {
    @Test func `each vector has its reason`() throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        try rig.start(Bits.linkStart | Bits.interrupts)
        #expect(counter.count(2) == 1)
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.addRx(64, Bits.ie, at: 1 << 20)
        rig.startRx()
        rig.startTx()
        #expect(eventually { counter.count(0) == 1 && counter.count(1) == 1 })
        rig.bar0.store32(1 << 16, 0x0c)
        #expect(counter.count(2) == 2)
        rig.bar0.store32(0x7000_0000, 0x14)
        rig.startTx()
        #expect(eventually { counter.count(3) == 1 })
        #expect((0..<4).map(counter.count) == [1, 1, 2, 1])
        rig.function.disconnectInterrupts()
    }

    @Test func `a message comes on the rising edge only`() throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        try rig.start(Bits.linkStart | 1 << 12)
        for index in 0..<3 {
            rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
            rig.startTx()
            #expect(eventually { rig.txDone(index) })
        }
        #expect(eventually { counter.count(0) == 1 })
        rig.bar0.store32(1 << 12, 4)
        rig.addTx(4, Bits.eop, at: Rig.data)
        rig.addTx(4, Bits.eop | Bits.ie, at: Rig.data)
        rig.startTx()
        #expect(eventually { counter.count(0) == 2 })
        rig.control = Bits.linkStart
        rig.bar0.store32(rig.control, 0)
        rig.bar0.store32(rig.control | 1 << 12, 0)
        #expect(counter.count(0) == 3)
        rig.function.disconnectInterrupts()
    }

    @Test(arguments: ["vector", "function", "master"])
    func `a message that may not leave is pending, and leaves later`(how: String) throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        try rig.start(Bits.linkStart | Bits.interrupts)
        func hold(_ on: Bool) throws {
            switch how {
            case "vector": rig.bar4.store32(on ? 1 : 0, 0x2c)
            case "function": try rig.function.writeConfiguration(on ? 0xc003 : 0x8003, 0xb2, .word)
            default:
                if on {
                    try rig.function.changeCommand(clear: .busMaster)
                } else {
                    try rig.function.changeCommand(set: .busMaster)
                }
            }
        }
        let before = counter.count(2)
        try hold(true)
        rig.bar0.store32(1 << 16, 0x0c)
        #expect(rig.bar4.load(0x800, .quad) == 4)
        #expect(counter.count(2) == before)
        try hold(false)
        #expect(counter.count(2) == before + 1)
        #expect(rig.bar4.load32(0x800) == 0)
        // A reason that is gone takes its message with it.
        rig.bar0.store32(1 << 10, 4)
        try hold(true)
        rig.bar0.store32(1 << 16, 0x0c)
        rig.bar0.store32(1 << 10, 4)
        #expect(rig.bar4.load32(0x800) == 0)
        try hold(false)
        #expect(counter.count(2) == before + 1)
        rig.function.disconnectInterrupts()
    }

    @Test func `a message to elsewhere does not arrive`() throws {
        let rig = try Rig()
        let counter = Counter()
        try rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
        rig.bar4.store32(0x1000, 0x20)
        try rig.start(Bits.linkStart | Bits.interrupts)
        #expect(counter.count(2) == 0)
        rig.function.disconnectInterrupts()
    }

    @Test func `connecting has its rules`() throws {
        let rig = try Rig()
        let counter = Counter()
        func connect(_ kind: InterruptKind, _ count: Int) -> CInt {
            refusal { () throws(BusError) in
                try rig.function.connectInterrupts(kind, count: count, to: counter.sink)
            }
        }
        #expect(connect(.msi, 3) == EINVAL)
        #expect(connect(.intx, 2) == EINVAL)
        #expect(connect(.msix, 0) == EINVAL)
        #expect(connect(.msix, 5) == EINVAL)
        #expect(connect(.msix, 2) == 0)
        #expect(rig.bar4.load32(0x1c) == 0)
        #expect(rig.bar4.load32(0x2c) == 1)
        #expect(try rig.function.readConfiguration(0xb2, .word) == 0x8003)
        #expect(connect(.msix, 2) == EBUSY)
        rig.function.disconnectInterrupts()
        rig.function.disconnectInterrupts()
        #expect(try rig.function.readConfiguration(0xb2, .word) == 3)
        #expect(connect(.msix, 4) == 0)
        rig.function.disconnectInterrupts()
    }

    @Test func `after disconnecting no call comes, and no two overlap for a vector`() throws {
        let rig = try Rig()
        let counter = Counter()
        counter.window.store(UInt(bitPattern: Unmanaged.passUnretained(rig).toOpaque()), ordering: .releasing)
        try rig.start(Bits.linkStart | Bits.interrupts)
        withExtendedLifetime(rig) {
            let word = UnsafeMutablePointer<Atomic<Bool>>.allocate(capacity: 1)
            word.initialize(to: Atomic(false))
            let shared = Shared(word)
            let threads = (0..<2).map { number in
                Thread(name: "ticks-\(number)") {
                    while !shared.word.pointee.load(ordering: .acquiring) { rig.bar0.store32(1 << 16, 0x0c) }
                }
            }
            for _ in 0..<100 {
                counter.isOpen.store(true, ordering: .releasing)
                try? rig.function.connectInterrupts(.msix, count: 4, to: counter.sink)
                let seen = counter.count(2)
                _ = eventually { counter.count(2) > seen + 3 }
                rig.function.disconnectInterrupts()
                counter.isOpen.store(false, ordering: .releasing)
            }
            word.pointee.store(true, ordering: .releasing)
            for thread in threads { thread.join() }
            word.deallocate()
        }
        #expect(counter.late.load(ordering: .relaxed) == 0)
        #expect(counter.overlaps.load(ordering: .relaxed) == 0)
    }
}

/// A word that outlives the threads that share it.
struct Shared: @unchecked Sendable {  // the word is atomic
    let word: UnsafeMutablePointer<Atomic<Bool>>
    init(_ word: UnsafeMutablePointer<Atomic<Bool>>) { self.word = word }
}
