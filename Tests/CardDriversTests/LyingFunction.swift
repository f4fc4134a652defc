import CHardware
import PCIBus
import Synchronization

/// True the first time it is asked.
final class Once: Sendable {
    private let wasAsked = Atomic<Bool>(false)
    var isFirst: Bool { !wasAsked.exchange(true, ordering: .relaxed) }
}

/// A card behind a bus that changes what the driver reads: configuration space, BARs, registers, the counters of the slave DMA
/// controller, the descriptors in memory. What is not lied about is the card's own answer.
final class LyingFunction: PCIFunction, @unchecked Sendable {  // guarded by `lock`; `card` is constant
    /// What is changed, and how; each gets the truth.
    struct Lies {
        var configuration: (@Sendable (_ offset: Int, _ truth: UInt32) -> UInt32)?
        var register: (@Sendable (_ offset: UInt64, _ truth: UInt64) -> UInt64)?
        var counter: (@Sendable (_ channel: Int, _ truth: UInt32) -> UInt32)?
        var bars: (@Sendable ([BaseAddressRegister]) -> [BaseAddressRegister])?
        var vectors: [InterruptKind: Int]?
        var channels: Int?
    }

    /// A channel of the slave DMA controller whose counter lies.
    private struct Channel {
        var function: Unmanaged<LyingFunction>
        var index: Int
        var inner: SlaveDMAChannel
    }

    private let card: any PCIFunction
    private let lock = Lock()
    private var lies = Lies()
    private var window = RegisterWindow.none
    private var sink: InterruptSink?
    /// What the card reaches, by logical address.
    private var mappings: [UInt64: (base: UnsafeMutableRawPointer, byteCount: Int)] = [:]
    /// Where the tables of descriptors are: those to receive, those to send.
    private var tables: [UInt64: UInt64] = [:]
    private let channels: UnsafeMutablePointer<Channel>

    init(_ card: any PCIFunction) {
        self.card = card
        channels = .allocate(capacity: 2)
        for (index, inner) in card.slaveDMAChannels.prefix(2).enumerated() {
            (channels + index).initialize(to: Channel(function: .passUnretained(self), index: index, inner: inner))
        }
    }

    deinit {
        channels.deallocate()
        lock.destroy()
    }

    // MARK: What a test does

    /// Changes what is lied about.
    func lie(_ change: (inout Lies) -> Void) { lock.locked { change(&lies) } }

    /// The truth from here on.
    func tellTruth() { lie { $0 = Lies() } }

    /// Writes the first word of a descriptor, as the card does when it has finished it; nothing while there is no table.
    func finish(receiving: Bool, _ entry: Int, _ word: UInt32) {
        lock.locked {
            guard let table = tables[receiving ? 0x10 : 0x14] else { return }
            let logical = table & ~0x1fff + UInt64(8 * entry)
            for (start, memory) in mappings where logical >= start && logical - start < UInt64(memory.byteCount) {
                let place = memory.base + Int(logical - start)
                place.assumingMemoryBound(to: Atomic<UInt32>.self)[0].store(word, ordering: .releasing)
            }
        }
    }

    /// Interrupts as the card would, with any vector. Whether the driver claimed it.
    func interrupt(_ vector: UInt32) -> Bool {
        guard let sink = lock.locked({ sink }) else { return false }
        return chw_serve(sink.routine, sink.context, vector)
    }

    // MARK: The function

    var address: PCIAddress { card.address }
    var busName: String { card.busName }
    var configurationSize: Int { card.configurationSize }
    var logicalAddressRanges: [ClosedRange<LogicalAddress>] { card.logicalAddressRanges }
    var mapRegisterLimit: Int? { card.mapRegisterLimit }
    var controls: [BusControl] { card.controls }

    var baseAddressRegisters: [BaseAddressRegister] {
        let bars = card.baseAddressRegisters
        return lock.locked { lies.bars }?(bars) ?? bars
    }

    var interruptVectors: [InterruptKind: Int] { lock.locked { lies.vectors } ?? card.interruptVectors }

    var slaveDMAChannels: [SlaveDMAChannel] {
        let count = lock.locked { lies.channels } ?? card.slaveDMAChannels.count
        return (0..<count).map { index in
            SlaveDMAChannel(
                context: UnsafeMutableRawPointer(channels + index),
                counter: { context in
                    let channel = context.assumingMemoryBound(to: Channel.self).pointee
                    let truth = UInt32(channel.inner.counter())
                    return channel.function._withUnsafeGuaranteedRef { function in
                        function.lock.locked { function.lies.counter }?(channel.index, truth) ?? truth
                    }
                },
                order: { context, address, byteCount, mode in
                    let inner = context.assumingMemoryBound(to: Channel.self).pointee.inner
                    guard byteCount > 0 else { return inner.mask() }
                    inner.program(
                        LogicalAddress(address),
                        byteCount: Int(byteCount),
                        SlaveDMAMode(isToDevice: mode & 1 != 0, isAutoInitialized: mode & 2 != 0)
                    )
                }
            )
        }
    }

    func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        let truth = try card.readConfiguration(offset, width)
        guard let lie = lock.locked({ lies.configuration }) else { return truth }
        return lie(offset, truth) & UInt32(truncatingIfNeeded: width.allOnes)
    }

    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        try card.writeConfiguration(value, offset, width)
    }

    func map(bar index: Int) throws(BusError) -> RegisterWindow {
        let inner = try card.map(bar: index)
        guard index == 0 else { return inner }
        lock.locked { window = inner }
        var raw = chw_window()
        raw.byte_count = inner.byteCount
        raw.context = Unmanaged.passUnretained(self).toOpaque()
        raw.load = { context, offset, width in
            Unmanaged<LyingFunction>.fromOpaque(context!)._withUnsafeGuaranteedRef { $0.load(offset, width) }
        }
        raw.store = { context, offset, width, value in
            Unmanaged<LyingFunction>.fromOpaque(context!)._withUnsafeGuaranteedRef { $0.store(offset, width, value) }
        }
        return RegisterWindow(raw)
    }

    private func load(_ offset: UInt64, _ width: UInt32) -> UInt64 {
        let (window, lie) = lock.locked { (self.window, lies.register) }
        // The driver knows how long the BAR is: beyond it there is nothing.
        precondition(offset < window.byteCount && UInt64(width) <= window.byteCount - offset)
        guard let width = AccessWidth(rawValue: width) else { preconditionFailure("an access of \(width) bytes") }
        let truth = window.load(offset, width)
        return (lie?(offset, truth) ?? truth) & width.allOnes
    }

    private func store(_ offset: UInt64, _ width: UInt32, _ value: UInt64) {
        let window = lock.locked {
            if offset == 0x10 || offset == 0x14 { tables[offset] = value }
            return self.window
        }
        precondition(offset < window.byteCount && UInt64(width) <= window.byteCount - offset)
        guard let width = AccessWidth(rawValue: width) else { preconditionFailure("an access of \(width) bytes") }
        window.store(value, offset, width)
    }

    func unmap(bar index: Int) { card.unmap(bar: index) }

    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory { try card.allocateMemory(byteCount: byteCount) }

    func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try card.allocateSharedMemory(byteCount: byteCount)
    }

    func freeMemory(_ memory: DMAMemory) { card.freeMemory(memory) }

    func mapDMA(_ base: UnsafeMutableRawPointer, byteCount: Int, at logical: LogicalAddress, access: DMAAccess)
        throws(BusError)
    {
        try card.mapDMA(base, byteCount: byteCount, at: logical, access: access)
        lock.locked { mappings[logical.value] = (base, byteCount) }
    }

    func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        lock.locked { mappings[logical.value] = nil }
        try card.unmapDMA(at: logical, byteCount: byteCount)
    }

    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        try card.connectInterrupts(kind, count: count, to: sink)
        lock.locked { self.sink = sink }
    }

    func disconnectInterrupts() {
        lock.locked { sink = nil }
        card.disconnectInterrupts()
    }

    func resetFunction() throws(BusError) { try card.resetFunction() }
    func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) { card.setEventSink(sink) }
    func release() { card.release() }
    func reclaim() throws(BusError) { try card.reclaim() }
    func close() { card.close() }
}
