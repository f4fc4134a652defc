import CHardware
import DriverCore
import PCIBus
import Synchronization

/// What the driver remembers of a transmit descriptor it gave to the card.
struct TransmitMark {
    /// The sequence number of the request this descriptor ends; 0 for one that does not end a request.
    var sequence: UInt64 = 0
    /// The open file the bytes came through.
    var stream: UnsafeMutablePointer<StreamRecord>?
    /// Which opening of that file.
    var generation: UInt64 = 0
    /// Bytes of the whole request.
    var byteCount = 0
    /// The memory to give back when the request is done.
    var storage = PayloadStorage.none
    /// Its index.
    var bufferIndex: UInt32 = 0
    /// The number, from 1 on, of the DMA transaction whose transfer this descriptor ends; 0 for none.
    var transaction: UInt8 = 0
    /// System DMA: the position in the stream behind the request.
    var end: UInt64 = 0
}

/// Bytes to the card: a ring of descriptors that the card reads through its IOMMU.
///
/// Writes are posted: a write is complete when its descriptors are in the ring, and its memory belongs to the ring until the
/// card has read it. One write at a time may wait for room; those behind it wait in the queue. The port's lock guards
/// everything.
struct TransmitChannel: ~Copyable {
    /// Descriptors in the ring.
    static var ringCount: Int { @_noLocks get { 512 } }
    /// Entries of the ring of the engine `common`, each with a slot of ``slotByteCount``: 4 MiB.
    static var slotCount: Int { @_noLocks get { 128 } }
    /// Bytes of a slot.
    static var slotByteCount: Int { @_noLocks get { 32 << 10 } }
    /// Receive buffers that may be in the ring: enough to keep the card busy while the next request arrives, few enough to
    /// stay in the processor's cache.
    static var maximumPostedBuffers: Int { @_noLocks get { 6 } }

    /// The first word of the channel: ThreadSanitizer takes an assignment through this pointer for a write to what the first
    /// word points at.
    let marks: UnsafeMutablePointer<TransmitMark>
    var context: ChannelContext?
    var ring: DescriptorRing?
    /// How bytes reach the card. Changed only while the channel is idle and held.
    var engine = DMAEngine.scatterGather
    /// The card takes the bytes of a packet from several runs of addresses.
    var isGathering = true
    /// The card reaches the memory of requests only through map registers.
    var isMemoryMapped = false
    /// For memory the card cannot reach.
    var mapping = TransmitMapping()
    /// For the engine `system`: where it is, and what loads its channel anew.
    var stream: SystemStream?
    var startStream: (() -> SystemStream?)?
    /// The slots of the engine `common`, one for each entry of its ring.
    var slots: CommonBuffer?
    /// Running counters: the next entry to fill, the oldest the card still has.
    var tail: UInt64 = 0
    var head: UInt64 = 0
    /// Sequence numbers of the last request accepted, and of the last the card has taken.
    var accepted: UInt64 = 0
    var done: UInt64 = 0
    var postedBuffers = 0

    /// Holds and delivers writes.
    var writes = IOQueue(.sequential)
    /// The write that waits for room.
    var current: UnsafeMutablePointer<RequestRecord>?
    /// fsync, close and synchronous writes that wait for a sequence number.
    var barriers = RequestList()
    /// Decided under the lock, completed outside.
    var decided = CompletionList()
    /// No descriptor may be filled while the ring is being taken back.
    var isHeld = true
    /// The card was removed or has left: how every request ends until it is started again.
    var refusal: (status: Status, cause: FailureCause)?
    /// What the card told that cannot be so, until its engines are reset.
    var fault: CardFault?

    var lastProgress: UInt64 = 0
    /// What the card's counter of bytes and that of bytes sent showed when the ring was started, and the most bytes that were seen
    /// to have been taken since the device was added, parts of requests included.
    var taken = (base: UInt32(0), sent: UInt64(0), seen: UInt64(0))
    var isTimerSet = false
    var call = 0
    /// What the service routine reads.
    let signals: UnsafeMutablePointer<InterruptSignals>
    /// Pollers that wait for room.
    var watchers = 0

    var plan = TransferPlan()
    var counters = TransmitCounters()

    init(signals: UnsafeMutablePointer<InterruptSignals>) {
        self.signals = signals
        marks = .allocate(capacity: Self.ringCount)
        marks.initialize(repeating: TransmitMark(), count: Self.ringCount)
    }

    deinit {
        marks.deallocate()
    }
}

// MARK: - The path of a write

extension TransmitChannel {
    /// Takes a write, barrier or close request. Does not wait.
    @_noLocks mutating func submit(_ record: UnsafeMutablePointer<RequestRecord>) {
        // What the card has done comes back first: its memory is used next, while it is in the processor's cache.
        reap()
        if let refusal, record.pointee.stream?.pointee.lost == nil {
            decided.add(record, refusal.status, cause: refusal.cause)
        } else if let loss = record.pointee.stream?.pointee.lost {
            record.pointee.lostBytes = loss.byteCount
            decided.add(record, loss.status, cause: loss.cause)
        } else if record.pointee.kind == .write {
            submitWrite(record)
        } else {
            submitBarrier(record)
        }
        settle()
    }

    @_noLocks private mutating func submitWrite(_ record: UnsafeMutablePointer<RequestRecord>) {
        if record.pointee.length == 0 {
            decided.add(record, .success)
            return
        }
        if record.pointee.flags.contains(.nonblocking), !canTakeNow(record) {
            decided.add(record, .deviceBusy, cause: .wouldBlock)
            return
        }
        record.pointee.waitingSince = context?.clock.now() ?? 0
        switch writes.submit(record) {
        case .deliver: deliver(record)
        case .waits: break
        case .cancelled: decided.add(record, .cancelled, cause: .interrupted)
        }
        setTimer()
    }

    /// Carries out delivered writes until one has to wait or there is none.
    @_noLocks mutating func deliver(_ first: UnsafeMutablePointer<RequestRecord>?) {
        var next = first
        while let record = next { next = evtWrite(record) ? writes.finished() : nil }
    }

    @_noLocks private func canTakeNow(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard current == nil, writes.wouldDeliver() else { return false }
        // With nothing before it, a write gets all the map registers there are.
        if mapping.isOn { return !isHeld && head == tail }
        return hasRoom(record)
    }

    @_noLocks private mutating func submitBarrier(_ record: UnsafeMutablePointer<RequestRecord>) {
        let target = record.pointee.stream?.pointee.lastAccepted ?? accepted
        if target <= done || record.pointee.flags.contains(.nonblocking) {
            decided.add(record, .success)
            return
        }
        waitForSequence(record, target)
    }

    /// Lets a request that the driver owns wait until the card has taken everything up to `target`.
    @_noLocks private mutating func waitForSequence(_ record: UnsafeMutablePointer<RequestRecord>, _ target: UInt64) {
        record.pointee.sequence = target
        record.pointee.waitingSince = context?.clock.now() ?? 0
        guard record.pointee.markCancelable() else {
            let bytes = record.pointee.accumulated
            // A signal came first; what was accepted of a synchronous write stays accepted.
            if bytes > 0 {
                decided.add(record, .success, information: bytes)
            } else {
                decided.add(record, .cancelled, cause: .interrupted)
            }
            return
        }
        barriers.append(record)
        setTimer()
    }

    /// Carries out one write (EvtIoWrite). False if it keeps it to wait for room.
    @_noLocks private mutating func evtWrite(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        if mapping.isOn {
            if wantMapping(record) { return false }
            decided.add(record, .cancelled, cause: .interrupted)
            return true
        }
        if hasRoom(record) {
            post(record)
            return true
        }
        guard record.pointee.markCancelable() else {
            decided.add(record, .cancelled, cause: .interrupted)
            return true
        }
        current = record
        return false
    }

    @_noLocks private func hasRoom(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard !isHeld, fault == nil, !mapping.isOn, let ring else { return false }
        if case .common = engine {
            let needed = slotsNeeded(record.pointee.length)
            return needed &+ slotsToSkip(ring, needed) <= ring.count &- Int(tail &- head)
        }
        if case .system = engine { return hasStreamRoom(record.pointee.length) }
        if record.pointee.storage == .receiveBuffer && postedBuffers >= Self.maximumPostedBuffers { return false }
        let fragment = SpaceWireLayout.fragmentByteCount
        let needed = (record.pointee.length &+ (fragment &- 1)) / fragment
        return needed <= ring.count &- Int(tail &- head)
    }

    /// Gives the bytes of a request to the card.
    @_noLocks private mutating func post(_ record: UnsafeMutablePointer<RequestRecord>) {
        if let loss = record.pointee.stream?.pointee.lost {
            // Bytes before these were lost while they waited: sent now, they would leave a hole.
            record.pointee.lostBytes = loss.byteCount
            decided.add(record, loss.status, cause: loss.cause)
            return
        }
        switch engine {
        case .scatterGather: postDirect(record)
        case .common: postCopy(record)
        case .system: postStream(record)
        }
    }

    /// Writes the scatter/gather list of a request into the descriptor table and rings the doorbell.
    @_noLocks private mutating func postDirect(_ record: UnsafeMutablePointer<RequestRecord>) {
        guard let context, let ring, let payload = record.pointee.payload else { return }
        let mdl = MemoryDescriptorList(virtualAddress: VirtualAddress(payload), byteCount: record.pointee.length)
        guard var list = context.arenaBuffer?.scatterGatherList(of: mdl) else {
            decided.add(record, .internalError)
            return
        }
        if tail == head { lastProgress = context.clock.now() }
        let first = tail
        var elements = 0
        while let element = list.element(maximum: SpaceWireLayout.fragmentByteCount) {
            let isLast = list.remaining == 0
            let flags =
                isLast ? SpaceWireLayout.Descriptor.eop | SpaceWireLayout.Descriptor.interrupt : 0
            // The first entry is enabled last: the card must not overtake the driver within a request.
            if tail == first {
                ring.prepare(tail, flags, length: element.byteCount, address: element.address)
            } else {
                ring.enable(tail, flags, length: element.byteCount, address: element.address)
            }
            (marks + (Int(truncatingIfNeeded: tail) & (Self.ringCount &- 1))).pointee.sequence = 0
            tail &+= 1
            elements &+= 1
        }
        if record.pointee.storage == .receiveBuffer { postedBuffers &+= 1 }
        accept(record, record.pointee.storage)
        ring.release(first)
        context.ring(SpaceWireLayout.Control.transmitStart)

        note(record, mdl, elements)
        // The memory belongs to the ring from here on.
        record.pointee.storage = .none
        decide(record)
    }

    /// Copies a request into the slots that belong to the next entries of the ring (common-buffer DMA). Its own memory is
    /// free at once.
    @_noLocks private mutating func postCopy(_ record: UnsafeMutablePointer<RequestRecord>) {
        guard let context, let ring, let slots, let payload = record.pointee.payload else { return }
        if tail == head { lastProgress = context.clock.now() }
        let length = record.pointee.length
        var skipped = slotsToSkip(ring, slotsNeeded(length))
        while skipped > 0 {
            // An entry without bytes and without an end does nothing.
            (marks + (Int(truncatingIfNeeded: tail) & (Self.ringCount &- 1))).pointee = TransmitMark()
            ring.enable(tail, 0, length: 0, address: slots.logicalAddress)
            tail &+= 1
            skipped &-= 1
        }
        let first = tail
        var offset = 0
        while offset < length {
            let count = min(length &- offset, Self.slotByteCount)
            let slot = slots.base + ring.place(tail) &* Self.slotByteCount
            chw_copy(slot, payload + offset, count)
            offset &+= count
            let flags = offset == length ? SpaceWireLayout.Descriptor.eop | SpaceWireLayout.Descriptor.interrupt : 0
            if tail == first {
                ring.prepare(tail, flags, length: count, address: slots.logical(slot))
            } else {
                ring.enable(tail, flags, length: count, address: slots.logical(slot))
            }
            marks[Int(truncatingIfNeeded: tail) & (Self.ringCount &- 1)].sequence = 0
            tail &+= 1
        }
        accept(record, .none)
        ring.release(first)
        context.ring(SpaceWireLayout.Control.transmitStart)
        note(
            record,
            MemoryDescriptorList(virtualAddress: VirtualAddress(payload), byteCount: length),
            Int(tail &- first)
        )
        decide(record)
    }

    /// Slots that a request fills.
    @_noLocks private func slotsNeeded(_ byteCount: Int) -> Int {
        (byteCount &+ (Self.slotByteCount &- 1)) / Self.slotByteCount
    }

    /// Slots at the end of the ring that a request cannot use: a card that does not gather takes a packet from one run of
    /// addresses, and that ends with the ring.
    @_noLocks private func slotsToSkip(_ ring: DescriptorRing, _ needed: Int) -> Int {
        let left = ring.count &- ring.place(tail)
        return isGathering || needed <= left ? 0 : left
    }

    /// Counts a request as accepted; the last entry filled ends it and gives back `storage`.
    @_noLocks mutating func accept(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ storage: PayloadStorage,
        byteCount: Int? = nil
    ) {
        accepted &+= 1
        let stream = record.pointee.stream
        marks[Int(truncatingIfNeeded: tail &- 1) & (Self.ringCount &- 1)] = TransmitMark(
            sequence: accepted,
            stream: stream,
            generation: stream?.pointee.opening() ?? 0,
            byteCount: byteCount ?? record.pointee.length,
            storage: storage,
            bufferIndex: record.pointee.bufferIndex
        )
        stream?.pointee.accept(accepted)
    }

    /// Ends a request that was accepted, or lets it wait for the card if it is synchronous.
    @_noLocks mutating func decide(_ record: UnsafeMutablePointer<RequestRecord>) {
        if record.pointee.flags.contains(.synchronous) {
            record.pointee.accumulated = record.pointee.length
            waitForSequence(record, accepted)
        } else {
            decided.add(record, .success, information: record.pointee.length)
        }
    }

    @_noLocks mutating func note(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ mdl: MemoryDescriptorList,
        _ elements: Int
    ) {
        var isBuffered = record.pointee.flags.contains(.buffered)
        var memory = isBuffered ? TransferPlan.Memory.system : .request
        if case .scatterGather = engine {
        } else {
            isBuffered = true
            memory = .commonBuffer
        }
        counters.requests &+= 1
        counters.acceptedBytes &+= UInt64(mdl.byteCount)
        if isBuffered { counters.bufferedRequests &+= 1 } else { counters.directRequests &+= 1 }
        plan.time = context?.clock.now() ?? 0
        plan.direction = .toDevice
        plan.isBuffered = isBuffered
        plan.memory = memory
        plan.engine = engine
        plan.byteCount = mdl.byteCount
        plan.pages = mdl.pageCount
        plan.transfers = 1
        plan.bouncedBytes = 0
        if !mapping.isOn { plan.mapRegisters = 0 }
        plan.elements = elements
    }

    /// Takes back what the card has done.
    @_noLocks mutating func reap() {
        guard let ring, let context, fault == nil else { return }
        let before = head
        if head != tail, case .system = engine { followStream() }
        while head != tail {
            let mark = marks[Int(truncatingIfNeeded: head) & (Self.ringCount &- 1)]
            guard isTaken(mark, ring) else { break }
            head &+= 1
            if mark.transaction != 0 { endTransfer(mark) }
            guard mark.sequence != 0 else { continue }
            done = mark.sequence
            counters.sentBytes &+= UInt64(mark.byteCount)
            counters.sentRequests &+= 1
            giveBack(mark)
        }
        if head != before { lastProgress = context.clock.now() }
    }

    @_noLocks mutating func giveBack(_ mark: TransmitMark) {
        if mark.storage == .receiveBuffer { postedBuffers &-= 1 }
        if mark.storage != .none { context?.arena.pointee.give(mark.storage, mark.bufferIndex) }
    }

    /// Lets everything happen that can happen now, and decides whether an interrupt is worth a wake-up.
    @_noLocks mutating func settle() {
        advance()
        // A transfer through map registers gives those back when it ends, whoever waits.
        let isAwaited = current != nil || !barriers.isEmpty || watchers > 0 || mapping.isOn && head != tail
        signals.pointee.transmitAwaited.store(isAwaited, ordering: .sequentiallyConsistent)
        if isAwaited {
            // The card may have finished before the word above was seen: look once more, or nobody would.
            chw_full_barrier()
            reap()
            advance()
        }
    }

    @_noLocks private mutating func advance() {
        askForMapping()
        while let record = current, hasRoom(record) {
            current = nil
            if record.pointee.claim() { post(record) }
            deliver(writes.finished())
        }
        var barrier = barriers.first
        while let record = barrier {
            barrier = barriers.next(after: record)
            guard record.pointee.sequence <= done, record.pointee.claim() else { continue }
            barriers.remove(record)
            decided.add(record, .success, information: record.pointee.accumulated)
        }
    }

    /// Takes out a request that a cancel has claimed, and ends it: with the bytes that were accepted of it, or with the failure it
    /// names. Does not wait.
    @_noLocks mutating func withdraw(_ record: UnsafeMutablePointer<RequestRecord>) {
        let bytes = record.pointee.accumulated
        if current == record {
            if mapping.isOn { cutCurrent(record) }
            current = nil
            deliver(writes.finished())
        } else if record.pointee.kind != .write || record.pointee.accumulated != 0 {
            barriers.remove(record)
        } else {
            writes.remove(record)
        }
        if bytes > 0 {
            decided.add(record, .success, information: bytes)
        } else {
            decided.add(record, record.pointee.status, cause: record.pointee.cause)
        }
        settle()
    }

    /// Whether a write would be taken now.
    @_noLocks mutating func isWritable() -> Bool {
        reap()
        settle()
        if mapping.isOn { return current == nil && !isHeld && writes.isStarted && head == tail }
        return current == nil && !isHeld && writes.isStarted && postedBuffers < Self.maximumPostedBuffers
            && (ring?.count ?? 0) &- Int(tail &- head) >= 32
    }

    /// Sets the timer to the next moment at which something could have taken too long. It is set once and looks again when
    /// it fires, rather than moved by every request.
    @_noLocks mutating func setTimer() {
        guard let context else { return }
        let now = context.clock.now()
        var earliest = UInt64.max
        let oldest = current ?? barriers.first
        if !isTimerSet, context.policy.transmitTimeout != 0, head != tail || oldest != nil {
            // The oldest wait counts from its beginning or from the last progress, whichever came later.
            let since = oldest?.pointee.waitingSince ?? lastProgress
            earliest = (since > lastProgress ? since : lastProgress) &+ context.policy.transmitTimeout
            if earliest <= now { earliest = now &+ context.policy.transmitTimeout }
            isTimerSet = true
        }
        var barrier = barriers.first
        while let record = barrier {
            barrier = barriers.next(after: record)
            guard record.pointee.kind == .close else { continue }
            // All closes linger equally long: the one that came first is the next to give up.
            let linger = record.pointee.waitingSince &+ context.policy.linger
            if linger < earliest { earliest = linger }
            break
        }
        // Nobody tells a driver that its card has left: while somebody waits, it looks.
        if oldest != nil, now &+ ChannelContext.lookInterval < earliest {
            earliest = now &+ ChannelContext.lookInterval
        }
        if earliest != .max { context.deferred.pointee.setTimer(call, earliest) }
    }
}
