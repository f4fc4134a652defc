import CHardware
import PCIBus
import SimulatedCard
import Synchronization
import Testing

/// Bits the tests use, written down independently of the model.
enum Bits {
    static let en: UInt32 = 1 << 16
    static let wrap: UInt32 = 1 << 17
    static let ie: UInt32 = 1 << 18
    static let done: UInt32 = 1 << 19
    static let eop: UInt32 = 1 << 20
    static let eep: UInt32 = 1 << 21
    static let linkStart: UInt32 = 1 << 2
    static let autostart: UInt32 = 1 << 3
    static let linkDisable: UInt32 = 1 << 4
    static let startRx: UInt32 = 1 << 6
    static let startTx: UInt32 = 1 << 7
    static let cancel: UInt32 = 1 << 8
    static let interrupts: UInt32 = 0x3e00
}

/// A small driver: one card, one arena mapped for it, a table for each direction.
final class Rig: @unchecked Sendable {  // the tests say which thread touches what
    static let logicalBase: UInt32 = 0x0010_0000
    static let arenaBytes = 4 << 20
    static let tableBytes = 8 << 10
    static let data = 64 << 10

    let function: any PCIFunction
    let bar0: RegisterWindow
    let bar2: RegisterWindow
    let bar4: RegisterWindow
    let arena: DMAMemory
    var control: UInt32 = 0
    var txIndex = 0
    var rxIndex = 0

    init(receiverMemory: Int = 64 << 20, clock: Clock = .monotonic()) throws {
        let bus = SimulatedBus(SimulatedBus.Configuration(receiverMemory: receiverMemory, clock: clock))
        function = try bus.open(PCIAddress(bus: 1, device: 0, function: 0))
        bar0 = try function.map(bar: 0)
        bar2 = try function.map(bar: 2)
        bar4 = try function.map(bar: 4)
        arena = try function.allocateMemory(byteCount: Self.arenaBytes)
        try function.mapDMA(
            arena.base,
            byteCount: Self.arenaBytes,
            at: LogicalAddress(UInt64(Self.logicalBase)),
            access: [.read, .write]
        )
    }

    deinit {
        function.close()
    }

    /// Bus mastering on, tables set, link started.
    func start(_ bits: UInt32 = Bits.linkStart) throws {
        try function.changeCommand(set: .busMaster)
        control = bits
        bar0.store32(control, 0)
        bar0.store32(Self.logicalBase, 0x14)
        bar0.store32(Self.logicalBase + UInt32(Self.tableBytes), 0x10)
        txIndex = 0
        rxIndex = 0
    }

    var status: UInt32 { bar0.load32(4) }
    var flow: UInt32 { bar0.load32(0x10c) }

    func startTx() { bar0.store32(control | Bits.startTx, 0) }
    func startRx() { bar0.store32(control | Bits.startRx, 0) }

    // MARK: Descriptors

    func words(_ table: Int, _ index: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        (arena.base + table * Self.tableBytes + index * 8).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    func put(_ table: Int, _ index: Int, _ flags: UInt32, _ length: Int, at offset: Int) {
        let words = words(table, index)
        words[1].store(Self.logicalBase + UInt32(offset), ordering: .relaxed)
        words[0].store(flags | UInt32(length), ordering: .releasing)
    }

    func word(_ table: Int, _ index: Int) -> UInt32 { words(table, index)[0].load(ordering: .acquiring) }

    func addTx(_ length: Int, _ flags: UInt32 = Bits.eop, at offset: Int) {
        put(0, txIndex, Bits.en | flags, length, at: offset)
        txIndex = flags & Bits.wrap != 0 ? 0 : (txIndex + 1) % 1024
    }

    func addRx(_ length: Int, _ flags: UInt32 = 0, at offset: Int) {
        put(1, rxIndex, Bits.en | flags, length, at: offset)
        rxIndex = flags & Bits.wrap != 0 ? 0 : (rxIndex + 1) % 1024
    }

    func txDone(_ index: Int) -> Bool { word(0, index) & Bits.done != 0 }
    func rxDone(_ index: Int) -> Bool { word(1, index) & Bits.done != 0 }

    // MARK: Data

    func fill(_ offset: Int, _ count: Int, seed: UInt8 = 1) {
        let bytes = (arena.base + offset).assumingMemoryBound(to: UInt8.self)
        for index in 0..<count { bytes[index] = UInt8(truncatingIfNeeded: index &* 7 &+ index >> 8) &+ seed }
    }

    func bytes(_ offset: Int, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: arena.base + offset, count: count))
    }

    // MARK: Controls

    func control(_ name: String) -> BusControl { function.controls.first { $0.name == name }! }
    func set(_ name: String, _ text: String) throws { try control(name).write!(text) }
    func get(_ name: String) -> String { control(name).read() }
}

/// Waits until a condition holds, at most a minute: the machine may be busy.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 60_000_000_000
    while !condition() {
        if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
        sched_yield()
    }
    return true
}

/// Runs a call that must be refused, and tells its errno.
func refusal(_ body: () throws(BusError) -> Void) -> CInt {
    do { try body() } catch { return error.code }
    return 0
}
