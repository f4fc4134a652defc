import CHardware
import Glibc
import PCIBus
import Synchronization
import Testing

@testable import DriverCore

@Suite struct RegisterSpaceTests {
    let function: FakeFunction
    let device: Device

    init() throws {
        function = FakeFunction(bars: [0: 4096, 2: 256, 4: 64])
        function.addPowerManagement()
        device = try makeDevice(function)
        try device.start()
        function.bars.values.forEach { $0.accesses = [] }
        function.vendorReads = 0
    }

    private var registers: UnsafeMutablePointer<RegisterSpace> { device.registers }

    private func read(_ bar: Int, _ offset: UInt64, _ width: AccessWidth) -> (RegisterFault, UInt64) {
        var value: UInt64 = 0
        let fault = registers.pointee.read(bar: bar, offset: offset, width: width, into: &value)
        return (fault, value)
    }

    @Test(arguments: [
        (0, 0, AccessWidth.long, RegisterFault.none), (0, 4092, .long, .none), (0, 4095, .byte, .none),
        (0, 4088, .quad, .none),
        (0, 4096, .long, .outOfRange), (0, 4096, .byte, .outOfRange), (0, 0xffff_ffff_ffff_fffc, .long, .outOfRange),
        (0, 0x1_0000_0000, .long, .outOfRange), (0, 1, .word, .misaligned), (0, 2, .long, .misaligned),
        (0, 4, .quad, .misaligned),
        (0, 4094, .long, .misaligned), (1, 0, .long, .noBAR), (3, 0, .byte, .noBAR), (-1, 0, .long, .noBAR),
        (6, 0, .long, .noBAR),
        (4, 60, .long, .none), (4, 64, .long, .outOfRange), (4, 56, .quad, .none),
    ])
    func `an access is refused before it is made, or made once`(
        bar: Int,
        offset: UInt64,
        width: AccessWidth,
        fault: RegisterFault
    ) {
        #expect(read(bar, offset, width).0 == fault)
        #expect(function.bars.values.flatMap(\.accesses) == (fault == .none ? ["r\(width.rawValue)@\(offset)"] : []))
        if bar == 0 && offset != 8 {
            function.bars[0]!.accesses = []
            #expect(registers.pointee.write(bar: bar, offset: offset, width: width, 0x11) == fault)
            #expect(function.bars[0]!.accesses == (fault == .none ? ["w\(width.rawValue)@\(offset)=11"] : []))
        }
    }

    @Test(arguments: AccessWidth.allCases)
    func `a value has exactly the bits of its width`(width: AccessWidth) {
        #expect(registers.pointee.write(bar: 0, offset: 64, width: width, 0xf1e2_d3c4_b5a6_9788) == .none)
        let expected = 0xf1e2_d3c4_b5a6_9788 & width.allOnes
        #expect(read(0, 64, width) == (.none, expected))
        #expect(function.bars[0]!.bytes[64 + width.byteCount] == 0x5a)
    }

    @Test(arguments: AccessWidth.allCases, [0, UInt64.max])
    func `all ones and zero are believed only when the vendor ID is there`(width: AccessWidth, value: UInt64) {
        function.bars[0]!.constant = value
        #expect(read(0, 64, width) == (.none, value & width.allOnes))
        #expect(function.vendorReads == 1 && function.bars[0]!.accesses.count == 1)
        function.bars[0]!.constant = 0x1234_5678_9abc_def1
        function.vendorReads = 0
        #expect(read(0, 64, width).0 == .none && function.vendorReads == 0)
        function.bars[0]!.constant = value
        function.put(0xffff, at: 0)
        #expect(read(0, 64, width).0 == .gone)
        // That is how the framework learns of it.
        #expect(eventually { device.state == (.surpriseRemoved, .d3) })
        #expect(read(0, 64, width).0 == .gone)
    }

    @Test func `a suspicious value of a card that does not decode, or sleeps, says so`() {
        function.bars[0]!.constant = .max
        function.put(0, at: ConfigurationSpace.command)
        #expect(read(0, 0, .long).0 == .decodingOff)
        function.put(3, at: 0x44)
        #expect(read(0, 0, .long).0 == .asleep)
    }

    @Test func `a write asks behind itself whether anybody took it`() throws {
        #expect(
            registers.pointee.write(bar: 2, offset: 0, width: .long, 1) == .protectedBAR && function.vendorReads == 0
        )
        #expect(registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == .none && function.vendorReads == 1)
        function.put(3, at: 0x44)
        #expect(registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == .asleep)
        #expect(
            registers.pointee.write(bar: 0, offset: 64, from: [UInt8](repeating: 0, count: 16), byteCount: 16)
                == .asleep
        )
        function.leave()
        #expect(registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == .gone)
    }

    @Test func `all ones of a BAR that was moved are not believed, and other values are not doubted`() {
        function.put(0xd000, at: ConfigurationSpace.baseAddress0 + 2)
        #expect(read(0, 64, .long) == (.none, 0x5a5a_5a5a))
        function.bars[0]!.constant = .max
        #expect(read(0, 64, .long).0 == .moved)
        #expect(registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == .moved)
        #expect(read(4, 0, .long).0 == .none, "only what was moved is doubted")
        function.put(0xe000, at: ConfigurationSpace.baseAddress0 + 2)
        #expect(read(0, 64, .long) == (.none, 0xffff_ffff))
        function.put(0xd000, at: ConfigurationSpace.baseAddress0 + 4 * 4 + 2)
        #expect(registers.pointee.write(bar: 4, offset: 0, width: .long, 1) == .moved)
    }

    @Test func `a register that never reads 0 or all ones spares configuration space`() throws {
        final class Marked: FakeDriver {
            override class var registerMap: RegisterMap {
                RegisterMap(registers: [], window: 0..<4096, protectedBARs: [], presence: 128)
            }
        }
        let function = FakeFunction()
        let device = try makeDevice(function, drivers: [Marked.self])
        try device.start()
        let bar = function.bars[0]!
        (bar.accesses, function.vendorReads) = ([], 0)
        #expect(device.registers.pointee.write(bar: 2, offset: 64, width: .word, 1) == .none)
        #expect(bar.accesses == ["r4@128"] && function.vendorReads == 0)
        #expect(
            device.registers.pointee.write(bar: 0, offset: 64, from: [UInt8](repeating: 7, count: 12), byteCount: 12)
                == .none
        )
        #expect(bar.accesses.count == 5 && bar.accesses.last == "r4@128")
        for (value, isThere) in [(0, true), (UInt64.max, true), (0, false)] {
            bar.constant = value
            if !isThere { function.leave() }
            #expect(device.registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == (isThere ? .none : .gone))
        }
    }

    @Test func `a card that left is found while somebody waits, and is not looked for otherwise`() throws {
        let function = FakeFunction()
        let clock = Clock.stepped()
        let device = try makeDevice(function, clock: clock)
        defer {
            device.close()
            clock.destroy()
        }
        try device.start()
        function.vendorReads = 0
        func step() {
            clock.advance(byNanoseconds: 300_000_000)
            device.deferred.pointee.clockMoved()
        }
        for _ in 0..<3 { step() }
        usleep(20_000)
        #expect(function.vendorReads == 0)
        device.watchPresence(true)
        step()
        #expect(eventually { function.vendorReads > 0 } && device.state == (.started, .d0))
        function.leave()
        #expect(
            eventually {
                step()
                return device.state == (.surpriseRemoved, .d3)
            }
        )
        device.watchPresence(false)
    }

    @Test(arguments: [
        (8, 4, RegisterFault.driverOwned), (8, 1, .driverOwned), (11, 1, .driverOwned), (12, 4, .none), (4, 4, .none),
        (8, 8, .driverOwned), (0, 8, .none), (0, 12, .driverOwned), (0, 8, .none), (12, 12, .none),
    ])
    func `a write that touches a register of the driver is refused whole`(
        offset: UInt64,
        byteCount: Int,
        fault: RegisterFault
    ) {
        let bytes = [UInt8](repeating: 0x77, count: byteCount)
        let before = function.bars[0]!.bytes
        #expect(registers.pointee.write(bar: 0, offset: offset, from: bytes, byteCount: byteCount) == fault)
        #expect((function.bars[0]!.bytes == before) == (fault != .none))
        registers.pointee.allow(protectedBARs: false, driverOwned: true)
        #expect(registers.pointee.write(bar: 0, offset: offset, from: bytes, byteCount: byteCount) == .none)
    }

    @Test func `reads of a register of the driver are anybody's`() {
        #expect(read(0, 8, .long).0 == .none)
    }

    @Test func `a protected BAR is read and not written, unless it is allowed`() {
        #expect(read(2, 0, .long).0 == .none)
        let bytes = [UInt8](repeating: 1, count: 16)
        #expect(registers.pointee.write(bar: 2, offset: 0, width: .long, 1) == .protectedBAR)
        #expect(registers.pointee.write(bar: 2, offset: 0, from: bytes, byteCount: 16) == .protectedBAR)
        #expect(registers.pointee.modify(bar: 2, offset: 0, width: .long, 1, mask: 1) == .protectedBAR)
        #expect(function.bars[2]!.accesses == ["r4@0"])
        registers.pointee.allow(protectedBARs: true, driverOwned: false)
        #expect(registers.pointee.write(bar: 2, offset: 0, width: .long, 1) == .none)
    }

    @Test func `modify is one load and one store, of the bits of the mask only`() {
        function.bars[0]!.bytes.replaceSubrange(64..<68, with: [0x44, 0x33, 0x22, 0x11])
        #expect(registers.pointee.modify(bar: 0, offset: 64, width: .long, 0xffff_ffff, mask: 0x0000_ff00) == .none)
        #expect(function.bars[0]!.accesses == ["r4@64", "w4@64=1122ff44"])
        function.bars[0]!.accesses = []
        #expect(registers.pointee.modify(bar: 0, offset: 8, width: .long, 1, mask: 1) == .driverOwned)
        #expect(function.bars[0]!.accesses.isEmpty)
        function.bars[0]!.constant = .max
        function.put(0xffff, at: 0)
        #expect(registers.pointee.modify(bar: 0, offset: 64, width: .long, 1, mask: 1) == .gone)
        #expect(function.bars[0]!.accesses == ["r4@64"])
    }

    @Test(arguments: [
        (1, ["r1@64"]), (2, ["r2@64"]), (4, ["r4@64"]), (8, ["r8@64"]), (12, ["r4@64", "r4@68", "r4@72"]),
        (16, ["r4@64", "r4@68", "r4@72", "r4@76"]), (3, []), (5, []), (6, []), (7, []), (10, []), (0, []), (-4, []),
    ])
    func `a run is one natural access, or ascending ones of 32 bits`(byteCount: Int, accesses: [String]) {
        let isLegal = !accesses.isEmpty
        var bytes = [UInt8](repeating: 0, count: 16)
        for index in 0..<16 { function.bars[0]!.bytes[64 + index] = UInt8(index + 1) }
        let fault = registers.pointee.read(bar: 0, offset: 64, into: &bytes, byteCount: byteCount)
        #expect((fault == .none) == isLegal && function.bars[0]!.accesses == accesses)
        if isLegal { #expect(Array(bytes.prefix(byteCount)) == (1...byteCount).map { UInt8($0) }) }
        if !isLegal { #expect(fault == .misaligned) }
    }

    @Test func `a run must lie in the BAR whole`() {
        var bytes = [UInt8](repeating: 0, count: 64)
        #expect(registers.pointee.read(bar: 0, offset: 4084, into: &bytes, byteCount: 12) == .none)
        #expect(registers.pointee.read(bar: 0, offset: 4088, into: &bytes, byteCount: 12) == .outOfRange)
        #expect(registers.pointee.write(bar: 0, offset: 4088, from: bytes, byteCount: 12) == .outOfRange)
        #expect(registers.pointee.read(bar: 0, offset: 66, into: &bytes, byteCount: 12) == .misaligned)
        #expect(function.bars[0]!.accesses.count == 3)
    }

    @Test func `a card that is stopped answers not-in-D0, and answers again when it is started`() throws {
        try device.stop()
        #expect(read(0, 0, .long).0 == .notInD0)
        #expect(registers.pointee.write(bar: 0, offset: 0, width: .long, 1) == .notInD0)
        #expect(function.bars[0]!.accesses.isEmpty)
        try device.start()
        #expect(read(0, 0, .long).0 == .none)
        registers.pointee.close(gone: true)
        #expect(read(0, 0, .long).0 == .gone)
    }

    @Test(arguments: [(UInt8(0x5a), 0), (0, 1), (0xff, 1)])
    func `a run asks once whether the card is there, if any word of it is suspicious`(byte: UInt8, questions: Int) {
        function.bars[0]!.bytes.replaceSubrange(72..<76, with: [byte, byte, byte, byte])
        var bytes = [UInt8](repeating: 1, count: 16)
        #expect(registers.pointee.read(bar: 0, offset: 64, into: &bytes, byteCount: 16) == .none)
        #expect(function.vendorReads == questions && bytes == Array(function.bars[0]!.bytes[64..<80]))
        #expect(function.bars[0]!.accesses == ["r4@64", "r4@68", "r4@72", "r4@76"])
    }

    @Test func `a stop takes nothing away while an access is under way`() throws {
        let bar = try #require(function.bars[0])
        let (inside, early) = (Cancellation(), Cancellation())
        defer { bar.reading = nil }  // it holds the function, which holds the BAR
        bar.reading = { [function, registers] in
            inside.cancel()
            // The stop refuses new accesses; then it must wait for this one.
            #expect(eventually { registers.pointee.look() == .notInD0 })
            let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 50_000_000
            while chw_clock_nanoseconds(CLOCK_MONOTONIC) < end, !early.isCancelled {
                if function.trace.all.contains("suspendIO") { early.cancel() }
                sched_yield()
            }
        }
        function.trace.clear()
        let stopping = Thread(name: "stop") { [device] in
            #expect(eventually { inside.isCancelled })
            #expect(status { () throws(StatusError) in try device.stop() } == .success)
        }
        #expect(read(0, 16, .long).0 == .none)
        stopping.join()
        #expect(!early.isCancelled && function.trace.all.contains("unmap 0"))
    }

    @Test(arguments: ["a masked write", "a store", "a store of many words"])
    func `what another thread stores is not lost between the load and the store of a masked write`(other: String) {
        let bar = function.bars[0]!
        for index in 60..<84 { bar.bytes[index] = 0 }
        let registers = Shared(registers)
        let hasStored = Atomic<Bool>(false)
        nonisolated(unsafe) var thread: Thread?  // set in the load of this thread only
        let isFirst = Atomic<Bool>(true)
        bar.reading = {
            guard isFirst.exchange(false, ordering: .relaxed) else { return }
            thread = Thread(name: "other") {
                let space = registers.value
                switch other {
                case "a masked write":
                    _ = space.pointee.modify(bar: 0, offset: 64, width: .long, 0xff00, mask: 0xff00)
                case "a store": _ = space.pointee.write(bar: 0, offset: 64, width: .long, 0xff00)
                default:
                    let words = [0, 0, 0xff00] as [UInt32]
                    _ = words.withUnsafeBytes {
                        space.pointee.write(bar: 0, offset: 56, from: $0.baseAddress!, byteCount: 12)
                    }
                }
                hasStored.store(true, ordering: .releasing)
            }
            // Time for the other to do what must not happen here; that it waits can only be seen by waiting.
            for _ in 0..<20 where !hasStored.load(ordering: .acquiring) { usleep(1000) }
        }
        #expect(self.registers.pointee.modify(bar: 0, offset: 64, width: .long, 1, mask: 1) == .none)
        thread?.join()
        #expect(read(0, 64, .long).1 & 0xff00 == 0xff00, "a store got lost")
        #expect(other == "a masked write" ? read(0, 64, .long).1 == 0xff01 : true)
    }
}

private struct Shared: @unchecked Sendable {  // the space does its own locking
    let value: UnsafeMutablePointer<RegisterSpace>
    init(_ value: UnsafeMutablePointer<RegisterSpace>) { self.value = value }
}
