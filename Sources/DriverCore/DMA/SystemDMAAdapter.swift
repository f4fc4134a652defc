public import PCIBus

/// A channel of a slave DMA controller in a driver's hands: common-buffer system DMA in auto-initialise mode.
///
/// The calls come in one order and no other: ``allocateAdapterChannel(mapRegisters:control:)``, whose routine answers
/// ``AllocationAction/keepObject``; ``mapTransfer(_:base:length:direction:)``, once; ``readDMACounter()`` while the driver fills
/// or empties the buffer behind the controller; ``flushAdapterBuffers()``; ``freeAdapterChannel()``. Any thread.
public final class SystemDMAAdapter: @unchecked Sendable {  // guarded by `lock`; the rest is constant
    /// Where the channel is.
    public enum State: Sendable {
        /// Nobody has it.
        case free
        /// The routine of the first request runs, or waits for the other.
        case allocating
        /// A driver has it; nothing is mapped.
        case owned
        /// The controller serves the device.
        case mapped
        /// The controller is masked, and every byte is where it belongs.
        case flushed
    }

    /// The channel, for reading its counter on the data path.
    public let channel: SlaveDMAChannel
    private let lock = Lock()
    private var phase = State.free
    private var waiting: [@Sendable () -> AllocationAction] = []
    private var reach: @Sendable (MDL) -> LogicalAddress?

    /// Makes an adapter of a channel (IoGetDmaAdapter for a subordinate device). `adapter` is that of the function, whose
    /// common buffers the controller reaches.
    public init(channel: SlaveDMAChannel, adapter: DMAAdapter) {
        self.channel = channel
        reach = { [weak adapter] mdl in
            guard let adapter, let run = adapter.reach(mdl, mdl.virtualAddress, mdl.byteCount),
                run.byteCount == mdl.byteCount
            else { return nil }
            return run.address
        }
    }

    deinit {
        if phase == .mapped { channel.mask() }
        lock.destroy()
    }

    /// Where the channel is.
    public var state: State { lock.locked { phase } }

    /// Asks for the channel (AllocateAdapterChannel): `control` runs at dispatch level when it is free, first come first
    /// served. It must answer ``AllocationAction/keepObject``: a slave device needs its channel until all is moved; another
    /// answer gives the channel back at once.
    ///
    /// ``Status/success`` whether it ran or waits, ``Status/invalidDeviceState`` at another level than dispatch.
    public func allocateAdapterChannel(control: @escaping @Sendable () -> AllocationAction) -> Status {
        do throws(StatusError) { try LevelRule.allocateAdapterChannel.check() } catch { return error.status }
        lock.locked { waiting.append(control) }
        serve()
        return .success
    }

    private func serve() {
        while true {
            let next: (@Sendable () -> AllocationAction)? = lock.locked {
                guard phase == .free, !waiting.isEmpty else { return nil }
                phase = .allocating
                return waiting.removeFirst()
            }
            guard let next else { return }
            let action = next()
            lock.locked { if phase == .allocating { phase = action == .keepObject ? .owned : .free } }
        }
    }

    /// Lets the controller serve the device from a common buffer (MapTransfer), round and round. Once for each allocation: the
    /// driver then follows ``readDMACounter()``. There is no address to be had: it means nothing to a slave device.
    ///
    /// ``Status/invalidDeviceState`` unless the channel is owned and nothing is mapped, ``Status/invalidParameter`` for a buffer
    /// the controller cannot reach in one run or of more than 16 MiB; nothing has changed then.
    public func mapTransfer(_ mdl: MDL, direction: TransferPlan.Direction) throws(StatusError) {
        try LevelRule.mapTransfer.check()
        try lock.locked { () throws(StatusError) in
            guard phase == .owned || phase == .allocating else { throw wrong("mapped") }
            guard mdl.isResident else { throw StatusError(.invalidDeviceState, "the pages of the MDL are not locked") }
            guard mdl.next == nil, mdl.byteCount <= 16 << 20, let address = reach(mdl) else {
                throw StatusError(.invalidParameter, "\(mdl.virtualAddress) is no common buffer of up to 16 MiB")
            }
            channel.program(
                address,
                byteCount: mdl.byteCount,
                SlaveDMAMode(isToDevice: direction == .toDevice, isAutoInitialized: true)
            )
            phase = .mapped
        }
    }

    /// Bytes left until the controller is at the end of the buffer (ReadDmaCounter): the length at the start of each round.
    /// ``Status/invalidDeviceState`` while nothing is mapped.
    public func readDMACounter() throws(StatusError) -> Int {
        try LevelRule.readDMACounter.check()
        return try lock.locked { () throws(StatusError) in
            guard phase == .mapped else { throw wrong("asked for its counter") }
            return channel.counter()
        }
    }

    /// Stops the controller; what it has taken or delivered is where it belongs (FlushAdapterBuffers).
    /// ``Status/invalidDeviceState`` while nothing is mapped.
    public func flushAdapterBuffers() throws(StatusError) {
        try LevelRule.flushAdapterBuffers.check()
        try lock.locked { () throws(StatusError) in
            guard phase == .mapped else { throw wrong("flushed") }
            channel.mask()
            phase = .flushed
        }
    }

    /// Gives the channel to who waits (FreeAdapterChannel). ``Status/invalidDeviceState`` before it was flushed, and when it is
    /// not held, as the second time.
    public func freeAdapterChannel() throws(StatusError) {
        try LevelRule.freeAdapterChannel.check()
        try lock.locked { () throws(StatusError) in
            guard phase == .flushed || phase == .owned else { throw wrong("freed") }
            phase = .free
        }
        serve()
    }

    private func wrong(_ what: String) -> StatusError {
        StatusError(.invalidDeviceState, "a channel that is \(phase) cannot be \(what)")
    }
}
