import CHardware
public import PCIBus

/// What one map register maps: a piece of a buffer within one page, at least one byte of it.
public struct MapRegister: Equatable, Sendable {
    /// Where the card finds the piece.
    public var logicalAddress: LogicalAddress
    /// Bytes of the piece, 1…``PCIBus/Page/size``.
    public var byteCount: Int
}

/// Registers that follow each other, handed out for one transfer (MapRegisterBase).
public struct MapRegisterBase: Equatable, Sendable {
    /// The first register.
    public let first: Int
    /// How many.
    public let count: Int
    fileprivate let serial: UInt64
}

/// The map registers of an adapter: pages the card can reach, through which memory it cannot reach is copied.
///
/// Registers are handed out in runs, first come first served: a small request does not overtake a large one that waits for
/// registers to become free. Any thread; callbacks run with no lock held.
public final class MapRegisterFile: @unchecked Sendable {  // guarded by `lock`
    private struct Waiter {
        var count: Int
        var grant: @Sendable (MapRegisterBase) -> Void
    }

    /// Registers there are.
    public let count: Int
    private let buffer: CommonBuffer
    private let lock = Lock()
    private var isTaken: [Bool]
    private var waiting: [Waiter] = []
    private var held: [UInt64: MapRegisterBase] = [:]
    private var serial: UInt64 = 0
    private var isServing = false

    /// Makes one register of each page of a common buffer.
    public init(buffer: CommonBuffer) {
        self.buffer = buffer
        count = buffer.memory.byteCount / Page.size
        isTaken = [Bool](repeating: false, count: count)
    }

    deinit { lock.destroy() }

    /// Hands `count` registers to `grant`: before this returns if they are free and nobody waits, else when they become free,
    /// on the thread that frees them. A call from within a callback waits until that returns.
    ///
    /// ``Status/insufficientResources`` for more registers than there are, ``Status/invalidParameter`` for none; `grant` is
    /// not called then.
    public func allocate(_ count: Int, _ grant: @escaping @Sendable (MapRegisterBase) -> Void) -> Status {
        guard count > 0 else { return .invalidParameter }
        guard count <= self.count else { return .insufficientResources }
        lock.locked { waiting.append(Waiter(count: count, grant: grant)) }
        serve()
        return .success
    }

    /// Takes registers back and serves who waits (FreeMapRegisters). Throws ``Status/invalidParameter`` for registers that
    /// are not out.
    public func free(_ base: MapRegisterBase) throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard held[base.serial] == base else {
                throw StatusError(.invalidParameter, "map registers \(base.first)… are not out, or were freed already")
            }
            held[base.serial] = nil
            for index in base.first..<base.first + base.count { isTaken[index] = false }
        }
        serve()
    }

    /// Where a run of registers lies for this process.
    func memory(_ base: MapRegisterBase) -> UnsafeMutableRawPointer { buffer.base + base.first * Page.size }

    /// Where a run of registers lies for the card.
    func logical(_ base: MapRegisterBase) -> LogicalAddress { buffer.logical(memory(base)) }

    /// Whether a run of registers is out.
    func isHeld(_ base: MapRegisterBase) -> Bool { lock.locked { held[base.serial] == base } }

    /// Registers nobody has.
    public var freeCount: Int { lock.locked { isTaken.count { !$0 } } }

    /// Requests that wait for registers.
    public var waitingCount: Int { lock.locked { waiting.count } }

    /// Runs of registers that are out.
    public var heldCount: Int { lock.locked { held.count } }

    /// Serves the oldest requests as far as registers are free. One thread at a time does so, in a loop, so that the order is
    /// kept and a callback that frees its registers at once leads to no deeper call.
    private func serve() {
        lock.lock()
        guard !isServing else {
            lock.unlock()
            return
        }
        isServing = true
        while let waiter = waiting.first, let base = take(waiter.count) {
            waiting.removeFirst()
            lock.unlock()
            waiter.grant(base)
            lock.lock()
        }
        isServing = false
        lock.unlock()
    }

    private func take(_ count: Int) -> MapRegisterBase? {
        var first = 0
        var run = 0
        for index in isTaken.indices {
            if isTaken[index] {
                run = 0
                first = index + 1
                continue
            }
            run += 1
            guard run == count else { continue }
            for taken in first...index { isTaken[taken] = true }
            serial += 1
            let base = MapRegisterBase(first: first, count: count, serial: serial)
            held[serial] = base
            return base
        }
        return nil
    }
}

/// A buffer as the card may reach it now, until it is put back (what GetScatterGatherList hands to AdapterListControl).
public struct MappedTransfer: Sendable {
    /// The buffer.
    public let mdl: MemoryDescriptorList
    /// Which way the bytes go.
    public let direction: TransferPlan.Direction
    /// The runs the card is to be given.
    public let list: ScatterGatherList
    /// The registers in use; nil for memory in a common buffer.
    public let base: MapRegisterBase?
    fileprivate let registers: MapRegisterFile?

    /// What each register in use maps.
    public var mapRegisters: [MapRegister] {
        guard let base, let registers else { return [] }
        var pieces: [MapRegister] = []
        var offset = mdl.byteOffset
        let start = registers.logical(base)
        let end = mdl.byteOffset + mdl.byteCount
        while offset < end {
            let count = min(Page.size - offset % Page.size, end - offset)
            pieces.append(MapRegister(logicalAddress: start.advanced(by: UInt64(offset)), byteCount: count))
            offset += count
        }
        return pieces
    }

    /// Copies the first `byteCount` bytes the card has written into the buffer (FlushAdapterBuffers): the buffer does not have
    /// them before. Does nothing for a transfer to the card, or in a common buffer.
    public func flush(byteCount: Int) {
        guard case .fromDevice = direction, let base, let registers, let buffer = mdl.virtualAddress.pointer else {
            return
        }
        let count = max(0, min(byteCount, mdl.byteCount))
        chw_copy(buffer, registers.memory(base) + mdl.byteOffset, count)
    }
}

extension DMAAdapter {
    /// Makes the card reach a buffer (GetScatterGatherList) and hands `callback` the runs: at once for memory in a common
    /// buffer, which needs no map register; else when the map registers are there, with the bytes of a transfer to the card
    /// copied into them. The offset in the page is kept. Any thread, as long as no common buffer is made or freed.
    ///
    /// ``Status/invalidParameter`` for an empty buffer or one that cannot be, ``Status/insufficientResources`` when the buffer
    /// touches more pages than there are registers; `callback` is never called then.
    public func getScatterGatherList(
        _ mdl: MemoryDescriptorList,
        _ direction: TransferPlan.Direction,
        _ callback: @escaping @Sendable (MappedTransfer) -> Void
    ) -> Status {
        guard mdl.byteCount > 0, let memory = mdl.virtualAddress.pointer,
            !mdl.virtualAddress.value.addingReportingOverflow(UInt(mdl.byteCount)).overflow
        else { return .invalidParameter }
        if let list = commonBufferList(of: mdl) {
            callback(MappedTransfer(mdl: mdl, direction: direction, list: list, base: nil, registers: nil))
            return .success
        }
        guard let registers = mapRegisters else { return .insufficientResources }
        let source = UInt(bitPattern: memory)
        return registers.allocate(mdl.pageCount) { base in
            let start = registers.memory(base) + mdl.byteOffset
            if case .toDevice = direction, let source = UnsafeRawPointer(bitPattern: source) {
                chw_copy(start, source, mdl.byteCount)
                chw_dma_write_barrier()
            }
            let logical = registers.logical(base).advanced(by: UInt64(mdl.byteOffset))
            let list = ScatterGatherList(start: logical, byteCount: mdl.byteCount)
            callback(MappedTransfer(mdl: mdl, direction: direction, list: list, base: base, registers: registers))
        }
    }

    /// Ends a transfer (PutScatterGatherList): the first `byteCount` bytes the card has written, all of them by default, are
    /// copied into the buffer, and the registers go to who waits. Throws ``Status/invalidParameter`` the second time.
    public func putScatterGatherList(_ transfer: MappedTransfer, byteCount: Int? = nil) throws(StatusError) {
        guard let base = transfer.base, let registers = transfer.registers else { return }
        guard registers === mapRegisters, registers.isHeld(base) else {
            throw StatusError(
                .invalidParameter,
                "this scatter/gather list was put back already, or is another adapter's"
            )
        }
        chw_dma_read_barrier()
        transfer.flush(byteCount: byteCount ?? transfer.mdl.byteCount)
        try registers.free(base)
    }
}
