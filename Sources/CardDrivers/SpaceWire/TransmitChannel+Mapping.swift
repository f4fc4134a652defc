import DriverCore
import PCIBus
import Synchronization

/// The part of a transmit channel for a card that cannot reach the memory of requests: each goes through map registers in
/// one or more transfers of a DMA transaction. Under the lock of the port.
struct TransmitMapping {
    /// How far the current write is.
    enum Phase {
        /// There is none, or it has not been looked at.
        case wanted
        /// Its transaction waits for map registers, or for a transfer to end.
        case begun
    }

    /// Whether requests have to be mapped.
    var isOn = false
    var phase = Phase.wanted
    /// The mapper uses the memory of the current write: no signal takes it.
    var isPinned = false
    /// The deferred call that makes transfers.
    var call = 0
    /// The transaction of the current write.
    var slot = 0
    /// The most map registers a transfer of the current write has used.
    var mapRegisters = 0
    /// Transactions whose transfer the card has ended, a bit for each.
    var ended: UInt32 = 0
    /// Transactions that are to end with their present transfer.
    var cut: UInt32 = 0
}

extension TransmitChannel {
    /// Keeps a write that has to be mapped and asks for its transaction. False if it was cancelled.
    @_noLocks mutating func wantMapping(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard record.pointee.markCancelable() else { return false }
        current = record
        mapping.phase = .wanted
        askForMapping()
        return true
    }

    /// Has the current write looked at, if there is one that can be.
    @_noLocks func askForMapping() {
        guard mapping.isOn, current != nil, !isHeld else { return }
        if case .wanted = mapping.phase { context?.deferred.pointee.queue(mapping.call) }
    }

    /// The card has ended the transfer of a transaction.
    @_noLocks mutating func endTransfer(_ mark: TransmitMark) {
        mapping.ended |= 1 &<< UInt32(mark.transaction &- 1)
        context?.deferred.pointee.queue(mapping.call)
    }

    /// A write that was begun will not go on: the bytes the card has are a packet of their own, and the transaction ends with
    /// its present transfer. The write is not the current one any more.
    @_noLocks mutating func cutCurrent(_ record: UnsafeMutablePointer<RequestRecord>) {
        current = nil
        context?.deferred.pointee.queue(mapping.call)
        if case .begun = mapping.phase { mapping.cut |= 1 &<< UInt32(mapping.slot) }
        mapping.phase = .wanted
        guard record.pointee.accumulated > 0, let ring, let context else { return }
        // The card may come to this end only after the driver has been told of the transfer before: a barrier that waits for it
        // has to be told too.
        let flags = SpaceWireLayout.Descriptor.eop | SpaceWireLayout.Descriptor.interrupt
        signals.pointee.transmitAwaited.store(true, ordering: .sequentiallyConsistent)
        ring.enable(tail, flags, length: 0, address: ring.logicalAddress)
        tail &+= 1
        accept(record, .none, byteCount: record.pointee.accumulated)
        counters.requests &+= 1
        counters.acceptedBytes &+= UInt64(record.pointee.accumulated)
        // While the ring is taken back, what is in it will be counted as lost.
        if !isHeld { context.ring(SpaceWireLayout.Control.transmitStart) }
    }
}

// What the transmitter's mapper does, on the deferred thread.
extension TransmitChannel {
    /// A write that is to be mapped.
    struct MappingJob {
        var payload: UnsafeMutableRawPointer
        var byteCount: Int
    }

    /// Takes the current write out of the reach of signals while its memory is used; false if a signal has it.
    mutating func pinCurrent() -> Bool {
        guard let record = current else { return true }
        mapping.isPinned = record.pointee.claim()
        return mapping.isPinned
    }

    /// Lets signals at the current write again.
    mutating func unpinCurrent() {
        guard mapping.isPinned, let record = current else { return }
        mapping.isPinned = false
        if record.pointee.markCancelable() { return }
        let bytes = record.pointee.accumulated
        cutCurrent(record)
        if bytes > 0 {
            decided.add(record, .success, information: bytes)
        } else {
            decided.add(record, .cancelled, cause: .interrupted)
        }
        deliver(writes.finished())
    }

    /// The current write, if it has no transaction yet; it gets the one with this number.
    mutating func beginMapping(_ slot: Int) -> MappingJob? {
        guard let record = current, !isHeld, case .wanted = mapping.phase, let payload = record.pointee.payload,
            mapping.isPinned || record.pointee.claim()
        else { return nil }
        mapping.isPinned = true
        if let loss = record.pointee.stream?.pointee.lost {
            // Bytes before these were lost while they waited: sent now, they would leave a hole.
            record.pointee.lostBytes = loss.byteCount
            refuseCurrent(loss.status, loss.cause)
            return nil
        }
        mapping.slot = slot
        mapping.phase = .begun
        if record.pointee.accumulated == 0 { mapping.mapRegisters = 0 }
        // A write that was held in its middle goes on there.
        let offset = record.pointee.accumulated
        return MappingJob(payload: payload + offset, byteCount: record.pointee.length - offset)
    }

    /// Ends the current write with a failure.
    mutating func refuseCurrent(_ status: Status, _ cause: FailureCause) {
        guard let record = current else { return }
        current = nil
        mapping.isPinned = false
        mapping.phase = .wanted
        decided.add(record, status, cause: cause)
        deliver(writes.finished())
    }

    /// Writes the list of one transfer into the ring (EvtProgramDma). The write is accepted with its last transfer, when all
    /// its bytes are in map registers. False if nobody wants the transfer any more.
    mutating func program(_ list: MappedScatterGatherList, slot: Int, transaction: DMATransaction) -> Bool {
        guard let record = current, case .begun = mapping.phase, mapping.slot == slot, let ring, let context
        else { return false }
        if isHeld {
            mapping.phase = .wanted
            return false
        }
        if tail == head { lastProgress = context.clock.now() }
        let isLast = record.pointee.accumulated + list.byteCount == record.pointee.length
        let first = tail
        var left = list.byteCount
        for var element in list.elements {
            while element.byteCount > 0 {
                let count = min(element.byteCount, SpaceWireLayout.fragmentByteCount)
                left -= count
                var flags: UInt32 = 0
                if left == 0 { flags = SpaceWireLayout.Descriptor.interrupt }
                if left == 0, isLast { flags |= SpaceWireLayout.Descriptor.eop }
                marks[Int(truncatingIfNeeded: tail) & (Self.ringCount - 1)] = TransmitMark()
                if tail == first {
                    ring.prepare(tail, flags, length: count, address: element.address)
                } else {
                    ring.enable(tail, flags, length: count, address: element.address)
                }
                element.address = element.address.advanced(by: UInt64(count))
                element.byteCount -= count
                tail += 1
            }
        }
        record.pointee.accumulated = record.pointee.accumulated + list.byteCount
        mapping.mapRegisters = max(mapping.mapRegisters, list.mapRegisterCount)
        record.pointee.driverContext.0 = record.pointee.driverContext.0 + UInt64(tail - first)
        if isLast { accept(record, .none) }
        marks[Int(truncatingIfNeeded: tail - 1) & (Self.ringCount - 1)].transaction = UInt8(slot + 1)
        signals.pointee.transmitAwaited.store(true, ordering: .sequentiallyConsistent)
        ring.release(first)
        context.ring(SpaceWireLayout.Control.transmitStart)
        record.pointee.waitingSince = context.clock.now()
        setTimer()
        guard isLast, let payload = record.pointee.payload else { return true }
        let mdl = MemoryDescriptorList(virtualAddress: VirtualAddress(payload), byteCount: record.pointee.length)
        note(record, mdl, Int(record.pointee.driverContext.0))
        plan.transfers = transaction.transferCount
        plan.bouncedBytes = transaction.bouncedBytes
        plan.mapRegisters = mapping.mapRegisters
        record.pointee.driverContext = (0, 0)
        record.pointee.accumulated = 0
        current = nil
        mapping.isPinned = false
        mapping.phase = .wanted
        decide(record)
        deliver(writes.finished())
        return true
    }

    /// The oldest work for the mapper: a transaction whose transfer has ended, and whether it is to end with that.
    mutating func takeEnded() -> (slot: Int, isCut: Bool)? {
        guard mapping.ended != 0 else { return nil }
        let slot = mapping.ended.trailingZeroBitCount
        mapping.ended &= ~(1 << UInt32(slot))
        let isCut = mapping.cut & 1 << UInt32(slot) != 0
        mapping.cut &= ~(1 << UInt32(slot))
        return (slot, isCut)
    }

    /// Transactions that are to end although nothing of theirs is with the card.
    mutating func takeCut(_ isWithCard: (Int) -> Bool) -> Int? {
        for slot in 0..<32 where mapping.cut & 1 << UInt32(slot) != 0 && !isWithCard(slot) {
            mapping.cut &= ~(1 << UInt32(slot))
            return slot
        }
        return nil
    }

    /// The ring was taken back: every transaction ends, and the write that was being mapped fails.
    mutating func abandonMappings(_ status: Status, _ cause: FailureCause) {
        guard mapping.isOn, let record = current else { return }
        var isBegun = record.pointee.accumulated > 0
        if case .begun = mapping.phase { isBegun = true }
        if isBegun, record.pointee.claim() {
            record.pointee.accumulated = 0
            refuseCurrent(status, cause)
        }
    }
}
