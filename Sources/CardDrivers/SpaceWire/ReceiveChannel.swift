import CHardware
import DriverCore
import PCIBus
import Synchronization

/// What the driver knows of a slot of the receive ring that the card has filled.
struct ReceiveSlot {
    /// Bytes the card wrote.
    var length = 0
    /// Where they are in the ring's memory.
    var offset = 0
    /// The end marker behind them.
    var end = PacketEnd.none
    /// Replies that are being made straight from this slot.
    var users = 0

    @_noLocks init() {}
}

/// Bytes from the card: a ring of slots in one common buffer, which the card fills ahead of the readers.
///
/// Counters run on for ever and name the slots: `released ≤ head ≤ filled ≤ posted`. Slots before `head` have been read,
/// those up to `filled` hold data, those up to `posted` are with the card. `lock` guards everything but the atomics.
struct ReceiveChannel: ~Copyable {
    /// Slots in the ring; with ``slotByteCount`` 4 MiB, enough for the card to run ahead of a reader of megabytes.
    static var slotCount: Int { @_noLocks get { 128 } }
    /// Bytes of a slot: eight pages, which divides a megabyte, so that a long stream fills replies without a seam.
    static var slotByteCount: Int { @_noLocks get { 32 << 10 } }
    /// When fewer slots than this are left to the card, short pieces are copied out of the ring for a reader that waits.
    static var scarceSlots: UInt64 { @_noLocks get { 32 } }

    /// The first word of the channel: ThreadSanitizer takes an assignment through this pointer for a write to what the first
    /// word points at.
    let slots: UnsafeMutablePointer<ReceiveSlot>
    var context: ChannelContext?
    var ring: DescriptorRing?
    var data: CommonBuffer?
    var posted: UInt64 = 0
    var filled: UInt64 = 0
    var head: UInt64 = 0
    var released: UInt64 = 0
    /// Bytes of the slot at `head` that have been read.
    var headOffset = 0
    /// Bytes in the ring nobody has read.
    var available = 0
    /// A packet of which a part has been read.
    var isPacketOpen = false
    var isHeld = true
    /// The card was removed or has left: how every request ends until it is started again.
    var refusal: (status: Status, cause: FailureCause)?
    /// What the card told that cannot be so; nothing is taken from it while this is set.
    var fault: CardFault?
    /// What the ring holds is to be read after a sleep.
    var keepsUnread = false
    /// The packet that comes in was cut by a command: what comes of it still is not a packet. In packet framing it is discarded.
    var isArrivalCut = false
    /// A packet of which a part was read, or the stream, was cut: the next read is told.
    var isCutUntold = false
    /// What the card's counter of bytes and that of bytes that arrived showed when the ring was started.
    var stored = (base: UInt32(0), arrived: UInt64(0))

    /// How bytes come from the card. Changed only while the channel is idle and held.
    var engine = DMAEngine.scatterGather
    /// For the engine `system`: where it is, and what loads its channel anew.
    var stream: SystemStream?
    var startStream: (() -> SystemStream?)?
    /// System DMA: the position behind the last slot, and where the packet there began.
    var chunked: UInt64 = 0
    var packetStart: UInt64 = 0
    var framing = Framing.stream
    /// Readers that wait, the oldest first.
    var readers = IOQueue(.manual)
    var decided = CompletionList()
    var lastArrival: UInt64 = 0
    var call = 0
    var lastEnd = PacketEnd.none

    /// What programs have borrowed of the ring, and how often it was taken back from them.
    var loans = ReceiveLoans()
    var loanEpoch: UInt64 = 0

    /// What the service routine reads.
    let signals: UnsafeMutablePointer<InterruptSignals>
    var watchers = 0

    var plan = TransferPlan()
    var counters = ReceiveCounters()

    init(signals: UnsafeMutablePointer<InterruptSignals>) {
        self.signals = signals
        slots = .allocate(capacity: Self.slotCount)
        slots.initialize(repeating: ReceiveSlot(), count: Self.slotCount)
    }

    deinit {
        slots.deallocate()
    }

    @_noLocks func place(_ slot: UInt64) -> Int { Int(truncatingIfNeeded: slot) & (Self.slotCount &- 1) }
}

/// What came through the receiver since the device was added.
struct ReceiveCounters {
    var requests: UInt64 = 0
    var arrivedBytes: UInt64 = 0
    var readBytes: UInt64 = 0
    var packets: UInt64 = 0
    var errorPackets: UInt64 = 0
    var emptyPackets: UInt64 = 0
    var discardedBytes: UInt64 = 0
    var bufferedRequests: UInt64 = 0
    var directRequests: UInt64 = 0
    var lentBytes: UInt64 = 0
    var recalledLoans: UInt64 = 0
    var timeouts: UInt64 = 0
    var cardErrors: UInt64 = 0
}

// MARK: - The path of a read

extension ReceiveChannel {
    /// Takes a read request. Does not wait.
    @_noLocks mutating func submit(_ record: UnsafeMutablePointer<RequestRecord>) {
        record.pointee.waitingSince = context?.clock.now() ?? 0
        counters.requests &+= 1
        reap()
        RequestRecord.note(record, .queued, UInt64(readers.waitingCount))
        if let refusal {
            decided.add(record, refusal.status, cause: refusal.cause)
            return
        }
        if isCutUntold {
            isCutUntold = false
            decided.add(record, .requestAborted, cause: .packetCut)
            return
        }
        if record.pointee.flags.contains(.mapped), !beginLoan(record) { return }
        // Readers are served in the order they came: one that would overtake waits behind.
        if readers.waitingCount == 0 || record.pointee.flags.contains(.nonblocking), serve(record) {
            return
        }
        if record.pointee.flags.contains(.nonblocking) {
            // A program that asks again and again waits as well.
            if loans.count > 0 { recall(for: .file(record.pointee.stream)) }
            decided.add(record, .deviceBusy, cause: .wouldBlock)
        } else if case .cancelled = readers.submit(record, isNoted: true) {
            finishPartly(record, .cancelled, .interrupted)
        }
        settle()
    }

    /// Takes over what the card has filled.
    @_noLocks mutating func reap() {
        guard let ring, let context, fault == nil else { return }
        if case .system = engine {
            reapStream()
            skipEmpty()
            return
        }
        let before = filled
        while filled != posted {
            let word = ring.status(filled)
            if word & SpaceWireLayout.Descriptor.enable != 0 { break }
            let length = Int(word & SpaceWireLayout.Descriptor.lengthMask)
            guard length <= Self.slotByteCount, word & SpaceWireLayout.Descriptor.done != 0 else {
                refuse(
                    length > Self.slotByteCount
                        ? CardFault(.receiveLength, UInt64(length), limit: UInt64(Self.slotByteCount))
                        : CardFault(.receiveStatus, UInt64(word))
                )
                break
            }
            var slot = ReceiveSlot()
            slot.length = length
            slot.offset = place(filled) &* Self.slotByteCount
            if word & SpaceWireLayout.Descriptor.eep != 0 {
                slot.end = .eep
                counters.errorPackets &+= 1
            } else if word & SpaceWireLayout.Descriptor.eop != 0 {
                slot.end = .eop
            }
            if slot.end != .none { counters.packets &+= 1 }
            take(slot)
        }
        if filled != before { lastArrival = context.clock.now() }
        skipEmpty()
    }

    /// Takes over a slot that the card has filled.
    @_noLocks mutating func take(_ slot: ReceiveSlot) {
        slots[place(filled)] = slot
        filled &+= 1
        counters.arrivedBytes &+= UInt64(slot.length)
        available &+= slot.length
        if isArrivalCut { followCut(slot) }
    }

    /// The slot belongs to a packet that was cut.
    @_noLocks private mutating func followCut(_ slot: ReceiveSlot) {
        if slot.end != .none { isArrivalCut = false }
        // What came before was read or discarded, unless the framing was another.
        guard framing == .packet, available == slot.length else { return }
        available &-= slot.length
        counters.discardedBytes &+= UInt64(slot.length)
        head = filled
        headOffset = 0
    }

    /// Serves the readers that can be served, decides when to wake for the next, and looks once more after that is known.
    @_noLocks mutating func settle() {
        serveWaiting()
        let isAwaited = readers.oldest != nil || watchers > 0
        if isAwaited { aim() }
        signals.pointee.receiveAwaited.store(isAwaited, ordering: .sequentiallyConsistent)
        if isAwaited {
            // The card may have filled a slot before the words above were seen: look once more, or nobody would.
            chw_full_barrier()
            reap()
            serveWaiting()
            if readers.oldest != nil {
                aim()
                setTimer()
            }
        }
    }

    @_noLocks private mutating func serveWaiting() {
        while let record = readers.oldest {
            guard canServe(record) else { return }
            guard record.pointee.claim() else {
                // A cancel has it and will take it out; readers behind it are served when it does.
                return
            }
            readers.remove(record)
            if !serve(record) {
                // Bytes were copied out of a crowded ring, but not enough: it goes on waiting in its place, the first.
                guard record.pointee.markCancelable() else {
                    finishPartly(record, .cancelled, .interrupted)
                    continue
                }
                readers.putBack(record)
                return
            }
        }
    }

    /// The slot whose completion is worth a wake-up for the oldest reader.
    @_noLocks private mutating func aim() {
        var slot = filled
        if let record = readers.oldest, watchers == 0 {
            let missing = record.pointee.length &- record.pointee.accumulated &- available
            if missing > 0 {
                slot = filled &+ UInt64((missing &- 1) / Self.slotByteCount)
                // Never beyond what the card can fill, and early enough to make room before it has to stop.
                let last = posted &- Self.scarceSlots / 2
                if slot > last { slot = last > filled ? last : filled }
            }
        }
        signals.pointee.wakeSlot.store(slot, ordering: .sequentiallyConsistent)
    }

    /// The reply that came from slots `first..<end` is made.
    @_noLocks mutating func release(_ first: UInt64, _ end: UInt64) {
        var slot = first
        while slot != end {
            let entry = slots + place(slot)
            entry.pointee.users &-= 1
            slot &+= 1
        }
        repost()
    }

    /// Hands slots that were read and are in no reply back to the card, in ring order.
    @_noLocks mutating func repost() {
        if case .system = engine {
            repostStream()
            return
        }
        guard let ring, let data, let context, !isHeld, fault == nil else { return }
        let before = released
        while released != head, slots[place(released)].users == 0 {
            let slot = place(released)
            ring.enable(
                posted,
                SpaceWireLayout.Descriptor.interrupt,
                length: Self.slotByteCount,
                address: data.logicalAddress.advanced(by: UInt64(slot &* Self.slotByteCount))
            )
            released &+= 1
            posted &+= 1
        }
        // The engine stops at an entry it may not use; a start while it runs changes nothing.
        if released != before { context.ring(SpaceWireLayout.Control.receiveStart) }
    }

    /// Takes out a request that a cancel has claimed, and ends it: with the bytes it has gathered, or with the failure it names.
    @_noLocks mutating func withdraw(_ record: UnsafeMutablePointer<RequestRecord>) {
        readers.remove(record)
        finishPartly(record, record.pointee.status, record.pointee.cause)
        settle()
    }

    /// Whether a read would return at once.
    @_noLocks mutating func isReadable() -> Bool {
        reap()
        settle()
        return isCutUntold || hasFaultToTell
            || available > 0 && (framing == .stream || isPacketReady(atLeast: .max))
    }

    /// Sets the timer to when the oldest reader has waited long enough.
    @_noLocks mutating func setTimer() {
        guard let context, let record = readers.oldest else { return }
        // Nobody tells a driver that its card has left: while somebody waits, it looks.
        var deadline = context.clock.now() &+ ChannelContext.lookInterval
        if available &+ record.pointee.accumulated > 0 {
            let gathered = lastArrival &+ context.policy.gather
            if gathered < deadline { deadline = gathered }
        }
        if context.policy.receiveTimeout != 0 {
            let since = record.pointee.waitingSince > lastArrival ? record.pointee.waitingSince : lastArrival
            let end = since &+ context.policy.receiveTimeout
            if end < deadline { deadline = end }
        }
        context.deferred.pointee.setTimer(call, deadline)
    }
}
