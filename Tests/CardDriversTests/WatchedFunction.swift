import CHardware
import PCIBus
import Synchronization

/// A function whose memory can be looked at as its card sees it: everything goes to the function behind it, and where each
/// logical address lies is kept.
final class WatchedFunction: PCIFunction, @unchecked Sendable {  // guarded by `lock`; `behind` is constant
    private let behind: any PCIFunction
    private let lock = Lock()
    private var mapped: [UInt64: UnsafeMutableRawBufferPointer] = [:]

    init(_ behind: any PCIFunction) { self.behind = behind }

    deinit { lock.destroy() }

    /// The memory the card reaches now, by the logical address at which it begins.
    var mappings: [(start: UInt64, bytes: UnsafeMutableRawBufferPointer)] {
        lock.locked { mapped.map { ($0.key, $0.value) } }
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
    func map(bar index: Int) throws(BusError) -> RegisterWindow { try behind.map(bar: index) }
    func unmap(bar index: Int) { behind.unmap(bar: index) }
    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try behind.allocateMemory(byteCount: byteCount)
    }
    func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try behind.allocateSharedMemory(byteCount: byteCount)
    }
    func freeMemory(_ memory: DMAMemory) { behind.freeMemory(memory) }
    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        try behind.connectInterrupts(kind, count: count, to: sink)
    }
    func disconnectInterrupts() { behind.disconnectInterrupts() }
    func resetFunction() throws(BusError) { try behind.resetFunction() }
    func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) { behind.setEventSink(sink) }
    func release() { behind.release() }
    func reclaim() throws(BusError) { try behind.reclaim() }
    func close() { behind.close() }
}
