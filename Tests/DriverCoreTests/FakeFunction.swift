import CHardware
import DriverCore
import PCIBus

/// What happened, in order, from any thread.
final class Trace: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var lines: [String] = []

    deinit { lock.destroy() }

    func add(_ line: String) { lock.locked { lines.append(line) } }
    var all: [String] { lock.locked { lines } }
    func clear() { lock.locked { lines = [] } }
}

/// The memory behind a BAR, which counts how it is reached.
final class FakeBAR {
    var bytes: [UInt8]
    /// `r4@10=…` and `w4@10=…`, one for each access.
    var accesses: [String] = []
    /// What every read answers instead of the memory.
    var constant: UInt64?
    /// Called in the middle of each read, when the value has been taken.
    var reading: (() -> Void)?

    init(byteCount: Int) { bytes = [UInt8](repeating: 0x5a, count: byteCount) }

    var window: RegisterWindow {
        var raw = chw_window()
        raw.byte_count = UInt64(bytes.count)
        raw.context = Unmanaged.passUnretained(self).toOpaque()
        raw.load = { context, offset, width in
            Unmanaged<FakeBAR>.fromOpaque(context!).takeUnretainedValue().load(Int(offset), Int(width))
        }
        raw.store = { context, offset, width, value in
            Unmanaged<FakeBAR>.fromOpaque(context!).takeUnretainedValue().store(Int(offset), Int(width), value)
        }
        return RegisterWindow(raw)
    }

    private func load(_ offset: Int, _ width: Int) -> UInt64 {
        accesses.append("r\(width)@\(offset)")
        let value = (0..<width).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
        reading?()
        if let constant { return width == 8 ? constant : constant & (1 << UInt64(8 * width) - 1) }
        return value
    }

    private func store(_ offset: Int, _ width: Int, _ value: UInt64) {
        accesses.append("w\(width)@\(offset)=\(String(value, radix: 16))")
        for index in 0..<width { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
    }
}

/// A function that writes down what is asked of it and fails where it is told to.
final class FakeFunction: PCIFunction, @unchecked Sendable {  // used by one thread at a time, but for what is guarded
    let trace = Trace()
    let address = PCIAddress(bus: 3, device: 0, function: 0)
    let busName = "fake"
    let configurationSize = 256
    var configuration = [UInt8](repeating: 0, count: 256)
    var bars: [Int: FakeBAR] = [:]
    var baseAddressRegisters: [BaseAddressRegister] = []
    var logicalAddressRanges = [LogicalAddress(0)...LogicalAddress(0xffff_ffff)]
    var interruptVectors: [InterruptKind: Int] = [.msix: 4]
    let controls: [BusControl] = []
    /// `step` fails always, `step 2` the second time.
    var failing: Set<String> = []
    private var counts: [String: Int] = [:]
    var sink: InterruptSink?
    var memories: [UnsafeMutableRawPointer] = []
    var mappings: [UInt64: Int] = [:]
    var mappedBARs: [Int] = []
    /// Ways to say that the same words are read twice.
    var vendorReads: Int {
        get { guardian.locked { vendorReadCount } }
        set { guardian.locked { vendorReadCount = newValue } }
    }
    private var vendorReadCount = 0
    /// What the platform grants.
    var mapRegisterLimit: Int?

    init(vendor: UInt16 = 0x1234, device: UInt16 = 0x5678, bars sizes: [Int: Int] = [0: 4096, 2: 256]) {
        put(vendor, at: 0)
        put(device, at: 2)
        for (index, size) in sizes.sorted(by: { $0.key < $1.key }) { addBAR(index, size) }
    }

    func addBAR(_ index: Int, _ size: Int, kind: BaseAddressRegister.Kind = .memory32) {
        bars[index] = FakeBAR(byteCount: size)
        let address = PhysicalAddress(0xe000_0000 + UInt64(index) << 20)
        baseAddressRegisters.append(
            BaseAddressRegister(
                index: index,
                kind: kind,
                isPrefetchable: false,
                address: address,
                byteCount: UInt64(size)
            )
        )
        put(UInt16(truncatingIfNeeded: address.value >> 16), at: 0x12 + 4 * index)
    }

    func put(_ value: UInt16, at offset: Int) {
        configuration[offset] = UInt8(truncatingIfNeeded: value)
        configuration[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }

    /// A power management capability at 0x40.
    func addPowerManagement() {
        put(0x10, at: ConfigurationSpace.status)
        configuration[ConfigurationSpace.capabilitiesPointer] = 0x40
        put(0x0001, at: 0x40)
    }

    var powerState: UInt8 { configuration[0x44] & 3 }

    /// The base addresses and the command register but for bus mastering.
    var header: [UInt8] { Array(configuration[0x10..<0x28]) + [configuration[4] & ~4] }

    /// Nobody answers from here on. Any thread, as ``comeBack(forgetful:)``.
    func leave() { guardian.locked { isAbsent = true } }

    /// Somebody answers again; if `forgetful` as after power-on: no base addresses, nothing decoded.
    func comeBack(forgetful: Bool = false) {
        guardian.locked {
            isAbsent = false
            guard forgetful else { return }
            for offset in 0x10..<0x28 { configuration[offset] = 0 }
            put(0, at: ConfigurationSpace.command)
        }
    }

    /// Guards the configuration where two threads are at it.
    private let guardian = Lock()
    private var isAbsent = false

    deinit {
        guardian.destroy()
        for memory in memories { memory.deallocate() }
    }

    var command: UInt16 { UInt16(configuration[4]) | UInt16(configuration[5]) << 8 }

    /// Counts a step and fails it if told to.
    private func step(_ name: String) throws(BusError) {
        counts[name, default: 0] += 1
        if failing.contains(name) || failing.contains("\(name) \(counts[name]!)") {
            throw BusError(EIO, "\(name) was told to fail")
        }
    }

    func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        guardian.lock()
        defer { guardian.unlock() }
        if isAbsent { return UInt32(truncatingIfNeeded: width.allOnes) }
        try Self.check(offset, width)
        if offset == 0 { vendorReadCount += 1 }
        return (0..<width.byteCount).reduce(0) { $0 | UInt32(configuration[offset + $1]) << UInt32(8 * $1) }
    }

    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        guardian.lock()
        defer { guardian.unlock() }
        if isAbsent { return }
        try Self.check(offset, width)
        let before = command
        for index in 0..<width.byteCount {
            configuration[offset + index] = UInt8(truncatingIfNeeded: value >> UInt32(8 * index))
        }
        guard offset == ConfigurationSpace.command, (before ^ command) & 4 != 0 else { return }
        trace.add(command & 4 != 0 ? "master on" : "master off")
    }

    private static func check(_ offset: Int, _ width: AccessWidth) throws(BusError) {
        guard offset >= 0, offset <= 256 - width.byteCount, offset % width.byteCount == 0 else {
            throw BusError(EINVAL, "\(width.byteCount) bytes at \(offset) of configuration space")
        }
    }

    func map(bar index: Int) throws(BusError) -> RegisterWindow {
        try step("map")
        trace.add("map \(index)")
        mappedBARs.append(index)
        return bars[index]!.window
    }

    func unmap(bar index: Int) {
        trace.add("unmap \(index)")
        if let place = mappedBARs.lastIndex(of: index) { mappedBARs.remove(at: place) }
    }

    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try step("allocateMemory")
        let size = Page.roundedUp(byteCount)
        let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: Page.size)
        memset(base, 0, size)
        memories.append(base)
        return DMAMemory(base: base, byteCount: size, frames: nil)
    }

    func freeMemory(_ memory: DMAMemory) {
        guard let index = memories.firstIndex(of: memory.base) else { preconditionFailure("freed twice") }
        memories.remove(at: index)
        memory.base.deallocate()
    }

    func mapDMA(_ base: UnsafeMutableRawPointer, byteCount: Int, at logical: LogicalAddress, access: DMAAccess)
        throws(BusError)
    {
        try step("mapDMA")
        mappings[logical.value] = byteCount
    }

    func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        try step("unmapDMA")
        guard mappings.removeValue(forKey: logical.value) == byteCount else {
            throw BusError(EINVAL, "nothing is mapped at \(logical)")
        }
    }

    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        try step("connect")
        trace.add("connect \(kind.rawValue) \(count)")
        self.sink = sink
    }

    func disconnectInterrupts() {
        trace.add("disconnect")
        sink = nil
    }

    func resetFunction() throws(BusError) {
        trace.add("reset")
        try step("reset")
    }

    var eventSink: (@Sendable (FunctionEvent) -> Void)?
    func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) { eventSink = sink }

    func release() { trace.add("release") }

    /// Called at each look for the card.
    var looked: (() -> Void)?

    func reclaim() throws(BusError) {
        trace.add("reclaim")
        looked?()
        try step("reclaim")
    }

    func close() { trace.add("close") }
}
