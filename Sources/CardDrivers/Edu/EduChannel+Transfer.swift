import CHardware
import DriverCore
import PCIBus

// One transfer after the other: which is next, how it is begun, and what its end means.
extension EduChannel {
    /// What a look at the engine found.
    enum Finding {
        /// Nothing is wrong.
        case fine
        /// A transfer has ended and moved nothing. The channel waits for ``resolve(_:_:)``.
        case nothingMoved
        /// A transfer does not end. The channel waits for ``abandon()``.
        case stuck
    }

    /// Begins the next transfer, if one can begin: bytes that are there go out first.
    @_noLocks mutating func pump() {
        guard case .idle = phase, !isHeld, let context else { return }
        if head == tail {
            head = 0
            tail = 0
        }
        if head < tail, beginDrain(context) { return }
        beginLoad(context)
    }

    @_noLocks private mutating func beginLoad(_ context: EduContext) {
        let room = room()
        guard room > 0, let record = current, let payload = record.pointee.payload, record.pointee.claim() else {
            return
        }
        let left = record.pointee.length &- record.pointee.accumulated
        moving = left < room ? left : room
        chw_copy(context.outgoing, payload + record.pointee.accumulated, moving)
        phase = .load
        start(context, context.outgoing, fromCard: false)
        record.pointee.driverContext.0 = record.pointee.driverContext.0 &+ 1
    }

    /// Asks the card for the bytes it was given. Every byte of the memory they go to differs from what is to come.
    private mutating func beginVerify(_ context: EduContext) {
        let outgoing = context.outgoing.assumingMemoryBound(to: UInt8.self)
        let incoming = context.incoming.assumingMemoryBound(to: UInt8.self)
        for index in 0..<moving { incoming[index] = ~outgoing[index] }
        phase = .verify
        start(context, context.incoming, fromCard: true)
        current?.pointee.driverContext.0 &+= 1
    }

    /// Serves the oldest reader; false if there is none to serve now.
    @_noLocks private mutating func beginDrain(_ context: EduContext) -> Bool {
        while let record = readers.oldest {
            // One that a cancel has claimed is taken out by the canceller.
            guard record.pointee.claim() else { return false }
            readers.remove(record)
            guard takeMemory(record, context) else {
                finishRead(record, .insufficientResources, .outOfBuffers)
                continue
            }
            reader = record
            let wanted = limit(record) &- record.pointee.accumulated
            moving = wanted < tail &- head ? wanted : tail &- head
            isSecondTry = false
            drain(context, mark: 0xa5)
            return true
        }
        return false
    }

    /// A read returns at most what a system buffer holds: the next one gets the rest.
    @_noLocks private func limit(_ record: UnsafeMutablePointer<RequestRecord>) -> Int {
        let most = PayloadArena.systemByteCount
        return record.pointee.length < most ? record.pointee.length : most
    }

    @_noLocks private func takeMemory(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ context: EduContext
    ) -> Bool {
        if case .systemBuffer = record.pointee.storage { return true }
        guard let index = context.arena.pointee.takeSystemBuffer() else { return false }
        record.pointee.storage = .systemBuffer
        record.pointee.bufferIndex = index
        record.pointee.payload = context.arena.pointee.systemBuffer(index)
        return true
    }

    @_noLocks private mutating func drain(_ context: EduContext, mark: UInt8) {
        self.mark = mark
        let incoming = context.incoming.assumingMemoryBound(to: UInt8.self)
        var index = 0
        while index < moving {
            incoming[index] = mark
            index &+= 1
        }
        phase = .drain
        start(context, context.incoming, fromCard: true)
        reader?.pointee.driverContext.0 &+= 1
    }

    /// Programs the engine: `moving` bytes between memory and the place the phase says. It never reaches beyond the buffer,
    /// since neither `tail` plus what a load moves nor `head` plus what a drain moves does.
    @_noLocks private mutating func start(
        _ context: EduContext,
        _ memory: UnsafeMutableRawPointer,
        fromCard: Bool
    ) {
        var offset = tail
        if case .drain = phase { offset = head }
        precondition(moving > 0 && offset &+ moving <= EduLayout.bufferByteCount)
        let card = EduLayout.bufferAddress &+ UInt32(truncatingIfNeeded: offset)
        let logical = UInt32(truncatingIfNeeded: context.buffer.logical(memory).value)
        let window = context.window
        window.store32(fromCard ? card : logical, EduLayout.source)
        window.store32(fromCard ? logical : card, EduLayout.destination)
        window.store32(UInt32(truncatingIfNeeded: moving), EduLayout.count)
        startedAt = context.clock.now()
        counters.transfers &+= 1
        chw_dma_write_barrier()
        var command = EduLayout.Command.start | EduLayout.Command.interrupt
        if fromCard { command |= EduLayout.Command.fromCard }
        window.store32(command, EduLayout.command)
    }

    // MARK: Ends

    /// Looks at the engine and at the clock. Dispatch level.
    mutating func look() -> Finding {
        guard let context else { return .fine }
        var finding = Finding.fine
        switch phase {
        case .idle, .failed: break
        case .load, .verify, .drain:
            if context.window.load32(EduLayout.command) & EduLayout.Command.start == 0 {
                chw_dma_read_barrier()
                finding = end(context)
            } else if context.clock.now() >= startedAt &+ Self.patience {
                finding = .stuck
            }
        case .abandoned:
            if context.window.load32(EduLayout.command) & EduLayout.Command.start == 0 { phase = .idle }
        }
        expire(context)
        pump()
        setTimer()
        return finding
    }

    /// The transfer has ended.
    private mutating func end(_ context: EduContext) -> Finding {
        switch phase {
        case .load:
            beginVerify(context)
        case .verify:
            guard memcmp(context.outgoing, context.incoming, moving) == 0 else { return failure() }
            endLoad(context)
        case .drain:
            let incoming = context.incoming.assumingMemoryBound(to: UInt8.self)
            if (0..<moving).contains(where: { incoming[$0] != mark }) {
                endDrain(context)
            } else if isSecondTry {
                return failure()
            } else {
                // Data that looks like the mark, or none: data does not change with the mark.
                isSecondTry = true
                drain(context, mark: ~mark)
            }
        default: break
        }
        return .fine
    }

    private mutating func failure() -> Finding {
        phase = .failed
        counters.failures += 1
        return .nothingMoved
    }

    private mutating func endLoad(_ context: EduContext) {
        phase = .idle
        guard let record = current else { return }
        tail += moving
        record.pointee.accumulated = record.pointee.accumulated + moving
        counters.sentBytes += UInt64(moving)
        lastProgress = context.clock.now()
        let isDone = record.pointee.accumulated == record.pointee.length
        let isEnough = record.pointee.flags.contains(.nonblocking) && room() == 0
        if isDone || isEnough || !record.pointee.markCancelable() {
            current = nil
            finishWrite(record, .cancelled, .interrupted)
            take(writes.finished())
        }
    }

    private mutating func endDrain(_ context: EduContext) {
        phase = .idle
        guard let record = reader, let payload = record.pointee.payload else { return }
        reader = nil
        chw_copy(payload + record.pointee.accumulated, context.incoming, moving)
        record.pointee.accumulated = record.pointee.accumulated + moving
        head += moving
        lastProgress = context.clock.now()
        lastArrival = lastProgress
        let isPacket = framing == .packet
        if isPacket { lastEnd = head == tail ? .eop : .more }
        let isDone = record.pointee.accumulated == limit(record) || record.pointee.flags.contains(.nonblocking)
        if isPacket || isDone || !record.pointee.markCancelable() {
            finishRead(record, .cancelled, .interrupted)
        } else {
            // More may come within the gather time.
            readers.putBack(record)
        }
    }
}
