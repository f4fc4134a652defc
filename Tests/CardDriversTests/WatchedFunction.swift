import CHardware
import Glibc
import PCIBus

/// A function whose memory can be looked at as its card sees it, and whose interrupts can be followed: everything goes to the
/// function behind it; where each logical address lies is kept, and what a service routine writes into BAR0.
final class WatchedFunction: PCIFunction, @unchecked Sendable {  // guarded by `lock`; `behind` is constant
    private let behind: any PCIFunction
    private let lock = Lock()
    private var mapped: [UInt64: UnsafeMutableRawBufferPointer] = [:]
    private var window = RegisterWindow.none
    private var sink: InterruptSink?
    /// The vectors that are being served, by thread.
    private var serving: [pthread_t: UInt32] = [:]
    private var written: [Store] = []

    /// A write into BAR0 by a service routine.
    struct Store: Hashable {
        var vector: UInt32
        var offset: UInt64
        var value: UInt64
    }

    init(_ behind: any PCIFunction) { self.behind = behind }

    deinit { lock.destroy() }

    /// The memory the card reaches now, by the logical address at which it begins.
    var mappings: [(start: UInt64, bytes: UnsafeMutableRawBufferPointer)] {
        lock.locked { mapped.map { ($0.key, $0.value) } }
    }

    /// What service routines have written into BAR0.
    var stores: [Store] { lock.locked { written } }

    func map(bar index: Int) throws(BusError) -> RegisterWindow {
        let window = try behind.map(bar: index)
        guard index == 0 else { return window }
        lock.locked { self.window = window }
        var raw = chw_window()
        raw.byte_count = window.byteCount
        raw.context = Unmanaged.passUnretained(self).toOpaque()
        raw.load = { context, offset, width in
            guard let context, let width = AccessWidth(rawValue: width) else { return .max }
            let function = Unmanaged<WatchedFunction>.fromOpaque(context).takeUnretainedValue()
            return function.lock.locked { function.window }.load(offset, width)
        }
        raw.store = { context, offset, width, value in
            guard let context, let width = AccessWidth(rawValue: width) else { return }
            let function = Unmanaged<WatchedFunction>.fromOpaque(context).takeUnretainedValue()
            let window = function.lock.locked {
                if let vector = function.serving[pthread_self()] {
                    function.written.append(Store(vector: vector, offset: offset, value: value))
                }
                return function.window
            }
            window.store(value, offset, width)
        }
        return RegisterWindow(raw)
    }

    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        lock.locked { self.sink = sink }
        let watching = InterruptSink(context: Unmanaged.passUnretained(self).toOpaque()) { context, vector in
            let function = Unmanaged<WatchedFunction>.fromOpaque(context).takeUnretainedValue()
            let sink = function.lock.locked {
                function.serving[pthread_self()] = vector
                return function.sink
            }
            defer { function.lock.locked { _ = function.serving.removeValue(forKey: pthread_self()) } }
            return sink.map { $0.routine($0.context, vector) } ?? false
        }
        try behind.connectInterrupts(kind, count: count, to: watching)
    }

    func mapDMA(_ base: UnsafeMutableRawPointer, byteCount: Int, at logical: LogicalAddress, access: DMAAccess)
        throws(BusError)
    {
        try behind.mapDMA(base, byteCount: byteCount, at: logical, access: access)
        lock.locked { mapped[logical.value] = UnsafeMutableRawBufferPointer(start: base, count: byteCount) }
    }

    func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        lock.locked { mapped[logical.value] = nil }
        try behind.unmapDMA(at: logical, byteCount: byteCount)
    }

    var address: PCIAddress { behind.address }
    var busName: String { behind.busName }
    var configurationSize: Int { behind.configurationSize }
    var baseAddressRegisters: [BaseAddressRegister] { behind.baseAddressRegisters }
    var logicalAddressRanges: [ClosedRange<LogicalAddress>] { behind.logicalAddressRanges }
    var mapRegisterLimit: Int? { behind.mapRegisterLimit }
    var slaveDMAChannels: [SlaveDMAChannel] { behind.slaveDMAChannels }
    var interruptVectors: [InterruptKind: Int] { behind.interruptVectors }
    var controls: [BusControl] { behind.controls }

    func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        try behind.readConfiguration(offset, width)
    }
    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        try behind.writeConfiguration(value, offset, width)
    }
    func unmap(bar index: Int) { behind.unmap(bar: index) }
    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try behind.allocateMemory(byteCount: byteCount)
    }
    func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try behind.allocateSharedMemory(byteCount: byteCount)
    }
    func freeMemory(_ memory: DMAMemory) { behind.freeMemory(memory) }
    func disconnectInterrupts() { behind.disconnectInterrupts() }
    func resetFunction() throws(BusError) { try behind.resetFunction() }
    func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) { behind.setEventSink(sink) }
    func release() { behind.release() }
    func reclaim() throws(BusError) { try behind.reclaim() }
    func close() { behind.close() }
}
