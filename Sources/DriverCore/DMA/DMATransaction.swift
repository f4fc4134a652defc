import PCIBus

/// What kind of engine a card has (WDF_DMA_PROFILE).
public enum DMAProfile: CaseIterable, Sendable {
    case packet, scatterGather, packet64, scatterGather64, scatterGatherDuplex, scatterGather64Duplex

    /// Whether one transfer may be made of several runs.
    public var hasScatterGather: Bool {
        switch self {
        case .packet, .packet64: false
        default: true
        }
    }

    /// Bits of an address, unless the card says otherwise.
    public var addressWidth: Int {
        switch self {
        case .packet, .scatterGather, .scatterGatherDuplex: 32
        default: 64
        }
    }

    /// A card of this kind. `addressWidth` overrides the profile's: 24…63 bits, for a profile of 32 bits at most that.
    /// Throws ``Status/invalidParameter`` for another width.
    public func description(
        maximumLength: Int,
        alignment: Int = 1,
        addressWidth width: Int? = nil
    ) throws(StatusError) -> DeviceDescription {
        guard (24...min(63, addressWidth)).contains(width ?? 32) else {
            throw StatusError(.invalidParameter, "\(width ?? 0) bits of address for the profile \(self)")
        }
        return DeviceDescription(
            addressWidth: width ?? addressWidth,
            scatterGather: hasScatterGather,
            maximumLength: maximumLength,
            alignment: alignment
        )
    }
}

/// What the transactions of a card have in common (WDFDMAENABLER).
public final class DMAEnabler: @unchecked Sendable {  // constant but for a number set before the first transaction
    /// The adapter behind it.
    public let adapter: DMAAdapter
    /// The most bytes of one transfer (WdfDmaEnablerGetFragmentLength): what the card can do, or a page less than the map
    /// registers cover, since a buffer need not begin on a page.
    public let maximumFragmentLength: Int
    /// The most runs of one transfer (WdfDmaEnablerSetMaximumScatterGatherElements).
    public var maximumElements = Int.max

    /// Makes an enabler. ``Status/insufficientResources`` for an adapter with a single map register, since a buffer of two
    /// bytes can need two.
    public init(_ adapter: DMAAdapter) throws(StatusError) {
        try LevelRule.createEnabler.check()
        guard adapter.mapRegisterCount > 1 else {
            throw StatusError(
                .insufficientResources,
                "\(adapter.mapRegisterCount) map registers are too few for DMA transactions"
            )
        }
        self.adapter = adapter
        maximumFragmentLength = min(
            adapter.description.maximumLength,
            (adapter.mapRegisterCount - 1) * Page.size
        )
    }
}

/// One I/O request on its way through a card in one or more transfers (WDFDMATRANSACTION).
///
/// The transaction asks for what each transfer needs and calls the driver's routine to program the card; the driver tells it
/// what the card did, and it goes on with the rest. Routines run at dispatch level, with no lock held.
public final class DMATransaction: @unchecked Sendable {  // guarded by `lock`
    /// Where a transaction is.
    public enum State: Sendable {
        case created, reserved, initialized, transfer, transferCompleted, transferFailed, released
    }

    /// Programs the card for one transfer (EvtProgramDma).
    public typealias ProgramDMA = @Sendable (DMATransaction, MappedScatterGatherList) -> Void

    /// What became of a transfer that was told to be completed: the last one or not, and how the transaction stands.
    public struct Completion: Equatable, Sendable {
        /// No transfer follows.
        public var isDone: Bool
        /// ``Status/moreProcessingRequired`` while the next transfer is being made, else how it ended.
        public var status: Status
    }

    private let enabler: DMAEnabler
    private let lock = Lock()
    private var phase = State.created
    private var buffer: (mdl: MDL, offset: Int, byteCount: Int, direction: TransferPlan.Direction)?
    private var program: ProgramDMA?
    private var list: MappedScatterGatherList?
    private var isCancelled = false
    /// Which use of the transaction this is: registers that come for one that was taken back belong to no other.
    private var use: UInt64 = 0
    private var requiresSingleTransfer = false
    private var reserved: Int?
    private var done = 0
    private var current = 0
    private var count = 0
    private var bounced = 0

    /// Makes a transaction of nothing.
    public init(_ enabler: DMAEnabler) { self.enabler = enabler }

    deinit { lock.destroy() }

    /// Where it is.
    public var state: State { lock.locked { phase } }
    /// Bytes the card has moved (WdfDmaTransactionGetBytesTransferred).
    public var bytesTransferred: Int { lock.locked { done } }
    /// Bytes of the transfer under way (WdfDmaTransactionGetCurrentDmaTransferLength).
    public var currentTransferLength: Int { lock.locked { current } }
    /// Transfers begun.
    public var transferCount: Int { lock.locked { count } }
    /// Bytes copied because the card cannot reach them.
    public var bouncedBytes: Int { lock.locked { bounced } }

    /// Bytes that are not in a transfer yet, the one under way not counted.
    public var remaining: Int { lock.locked { (buffer?.byteCount ?? 0) - done - current } }

    /// Which way the bytes of a request go. ``Status/invalidParameter`` for a request without bytes.
    public static func direction(of kind: RequestKind) throws(StatusError) -> TransferPlan.Direction {
        switch kind {
        case .read: return .fromDevice
        case .write: return .toDevice
        case .barrier, .close: throw StatusError(.invalidParameter, "\(kind) has no bytes to transfer")
        }
    }

    /// Puts a limit on the map registers of each transfer (WdfDmaTransactionAllocateResources).
    /// ``Status/notEnoughMapRegisters`` for more than the adapter has.
    public func reserve(mapRegisters: Int) throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard phase == .created || phase == .released else { throw wrong("reserved for") }
            guard mapRegisters > 0, mapRegisters <= enabler.adapter.mapRegisterCount else {
                throw StatusError(.notEnoughMapRegisters, "\(mapRegisters) map registers are asked for")
            }
            reserved = mapRegisters
            phase = .reserved
        }
    }

    /// Says what is to be moved, and how the card is programmed (WdfDmaTransactionInitialize).
    ///
    /// ``Status/invalidParameter`` for no bytes or such that do not lie in the chain, ``Status/invalidDeviceState`` unless the
    /// transaction is new or released.
    public func initialize(
        _ mdl: MDL,
        from offset: Int = 0,
        byteCount: Int,
        _ direction: TransferPlan.Direction,
        singleTransfer: Bool = false,
        program: @escaping ProgramDMA
    ) throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard phase == .created || phase == .reserved || phase == .released else { throw wrong("initialized") }
            guard enabler.adapter.parts(mdl, from: offset, byteCount: byteCount) != nil else {
                throw StatusError(.invalidParameter, "\(byteCount) bytes at \(offset) do not lie in the MDL")
            }
            buffer = (mdl, offset, byteCount, direction)
            self.program = program
            requiresSingleTransfer = singleTransfer
            isCancelled = false
            use += 1
            done = 0
            current = 0
            count = 0
            bounced = 0
            phase = .initialized
        }
    }

    /// Begins (WdfDmaTransactionExecute): the routine is called before this returns if map registers are there, else when they
    /// are.
    ///
    /// ``Status/invalidDeviceRequest`` unless the transaction is initialized, ``Status/tooManyTransfers``,
    /// ``Status/tooFragmented``, ``Status/insufficientResources``: then it must be released.
    public func execute() throws(StatusError) {
        try LevelRule.executeTransaction.check()
        try lock.locked { () throws(StatusError) in
            guard phase == .initialized else {
                throw StatusError(
                    .invalidDeviceRequest,
                    "a transaction that is \(phase) is executed",
                    misuse: .transactionState
                )
            }
            // Before the card is programmed: the routine may see the end of everything before this returns.
            phase = .transfer
        }
        let status = stage()
        guard status.isSuccess else {
            throw StatusError(status, "the transfer cannot be made (\(status.name))")
        }
    }

    /// Asks for what the next transfer needs.
    private func stage() -> Status {
        let (use, next) = lock.locked {
            () -> (UInt64, (mdl: MDL, offset: Int, byteCount: Int, direction: TransferPlan.Direction)?) in
            guard let buffer else { return (self.use, nil) }
            let offset = buffer.offset + done
            let left = buffer.byteCount - done
            let length = pieceLength(buffer.mdl, offset, left)
            current = length
            count += 1
            return (self.use, (buffer.mdl, offset, length, buffer.direction))
        }
        guard let next else { return fail(.internalError) }
        if next.byteCount == 0 { return fail(.tooFragmented) }
        if lock.locked({ requiresSingleTransfer && next.byteCount < (buffer?.byteCount ?? 0) }) {
            return fail(.tooManyTransfers)
        }
        let status = ExecutionLevel.dispatch.run {
            enabler.adapter.getScatterGatherList(
                next.mdl,
                from: next.offset,
                byteCount: next.byteCount,
                next.direction
            ) { [self] in grant($0, use) }
        }
        if !status.isSuccess { return fail(status) }
        return lock.locked { phase == .transferFailed && !isCancelled ? .tooFragmented : .success }
    }

    private func fail(_ status: Status) -> Status {
        lock.locked {
            phase = .transferFailed
            current = 0
        }
        return status
    }

    /// The most of `left` bytes from `offset` on that one transfer takes. The lock is held.
    private func pieceLength(_ mdl: MDL, _ offset: Int, _ left: Int) -> Int {
        let adapter = enabler.adapter
        let available = min(reserved ?? .max, adapter.mapRegisters?.count ?? 0, adapter.mapRegisterCount)
        var fits = 0
        var tooLong = min(left, enabler.maximumFragmentLength) + 1
        // What a range needs never falls when it grows.
        while tooLong - fits > 1 {
            let middle = tooLong - fits == 2 ? fits + 1 : fits + (tooLong - fits) / 2
            if adapter.mapRegistersNeeded(mdl, from: offset, byteCount: middle) <= available {
                fits = middle
            } else {
                tooLong = middle
            }
        }
        // The next transfer has to begin where the card can begin.
        return fits == left ? fits : fits - (offset + fits) % adapter.description.alignment
    }

    /// The memory of a transfer is reachable: programs the card. Dispatch level.
    private func grant(_ list: MappedScatterGatherList, _ use: UInt64) {
        let program: ProgramDMA? = lock.locked {
            guard use == self.use, !isCancelled, phase == .transfer else { return nil }
            guard list.elements.count <= enabler.maximumElements else {
                phase = .transferFailed
                current = 0
                return nil
            }
            self.list = list
            bounced += list.bouncedBytes
            return self.program
        }
        guard let program else {
            try? enabler.adapter.putScatterGatherList(list, transferred: 0)
            return
        }
        program(self, list)
    }

    /// The card has made the transfer, or `length` bytes of it (WdfDmaTransactionDmaCompleted, …WithLength): the rest follows,
    /// and 0 bytes are tried again. ``Status/invalidParameter`` for more than the transfer had,
    /// ``Status/invalidDeviceState`` when no transfer is under way; nothing has changed then.
    public func dmaCompleted(length: Int? = nil) throws(StatusError) -> Completion {
        try LevelRule.completeTransfer.check()
        try finishTransfer(length)
        let isDone = lock.locked {
            guard let buffer, done < buffer.byteCount else {
                phase = .transferCompleted
                return true
            }
            return false
        }
        if isDone { return Completion(isDone: true, status: .success) }
        let status = stage()
        return status.isSuccess
            ? Completion(isDone: false, status: .moreProcessingRequired) : Completion(isDone: true, status: status)
    }

    /// The card has made `length` bytes of the transfer and no more are to follow: an underrun or an abort
    /// (WdfDmaTransactionDmaCompletedFinal). Errors as ``dmaCompleted(length:)``.
    public func dmaCompletedFinal(length: Int) throws(StatusError) -> Completion {
        try LevelRule.completeTransaction.check()
        try finishTransfer(length)
        lock.locked { phase = .transferCompleted }
        return Completion(isDone: true, status: .success)
    }

    private func finishTransfer(_ length: Int?) throws(StatusError) {
        let (list, count) = try lock.locked { () throws(StatusError) -> (MappedScatterGatherList, Int) in
            guard phase == .transfer, let list = self.list else { throw wrong("completed") }
            let count = length ?? current
            guard count >= 0, count <= current else {
                throw StatusError(.invalidParameter, "\(count) bytes are completed of a transfer of \(current)")
            }
            self.list = nil
            done += count
            current = 0
            return (list, count)
        }
        try ExecutionLevel.dispatch.run { () throws(StatusError) in
            try enabler.adapter.putScatterGatherList(list, transferred: count)
        }
    }

    /// Takes the transaction back while it waits for map registers (WdfDmaTransactionCancel). False once the card may have
    /// been programmed: the driver then stops the card and tells ``dmaCompletedFinal(length:)``.
    public func cancel() -> Bool {
        lock.locked {
            guard phase == .transfer, list == nil, !isCancelled, current > 0 else { return false }
            isCancelled = true
            phase = .transferFailed
            current = 0
            return true
        }
    }

    /// Makes the transaction free for another request (WdfDmaTransactionRelease). A second call does nothing.
    /// ``Status/invalidDeviceState`` while a transfer is under way.
    public func release() throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard phase != .transfer else { throw wrong("released") }
            phase = .released
            reserved = nil
            buffer = nil
            program = nil
        }
    }

    private func wrong(_ what: String) -> StatusError {
        StatusError(.invalidDeviceState, "a transaction that is \(phase) cannot be \(what)", misuse: .transactionState)
    }
}
