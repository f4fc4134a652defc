import CHardware
import DriverCore
import Glibc
import PCIBus

/// What the channel needs of a card whose hardware is prepared: trivial values and pointers to fixed records.
struct EduContext {
    /// The registers.
    let window: RegisterWindow
    /// A common buffer of two pages: what goes to the card lies in the first, what comes from it in the second.
    let buffer: CommonBuffer
    /// Payload memory.
    let arena: UnsafeMutablePointer<PayloadArena>
    /// Deferred calls, and the number of the channel's.
    let deferred: UnsafeMutablePointer<DeferredThread>
    let call: Int
    /// The driver's time.
    let clock: Clock
    /// The mount's options.
    let policy: TransferPolicy

    /// Bytes on their way to the card.
    var outgoing: UnsafeMutableRawPointer { @_noLocks get { buffer.base } }
    /// Bytes that came from the card.
    var incoming: UnsafeMutableRawPointer { @_noLocks get { buffer.base + 4096 } }
}

/// The one buffer of the card as a stream: bytes written go into it in order, bytes read come out of it in the same order.
///
/// The buffer holds up to 4095 bytes, `head..<tail` of which nobody has read. A write is complete when the card has its last
/// byte, and one that finds the buffer full waits until it is read. A read takes what is there. All transfers go through one
/// common buffer, one at a time, since the card has one engine, without scatter/gather.
///
/// The card never says that a transfer has moved nothing, as it does with bus mastering off or an address its IOMMU does not
/// translate. So every write is read back and compared, and memory is marked before the card is to write there.
struct EduChannel: ~Copyable {
    /// What the engine does now.
    enum Phase {
        /// Nothing.
        case idle
        /// Takes bytes of the write `current`.
        case load
        /// Gives the same bytes back, to be compared.
        case verify
        /// Gives bytes to the read `reader`.
        case drain
        /// Nothing, after a transfer that moved nothing; what becomes of its request is being found out.
        case failed
        /// It runs for longer than it can, for a request that has been ended; nothing is begun before it stops.
        case abandoned
    }

    /// How often a transfer, and a card somebody waits for, are looked at without an interrupt; nanoseconds.
    static var lookInterval: UInt64 { @_noLocks get { 250_000_000 } }
    /// How long a transfer may run, which takes 100 ms; nanoseconds.
    static var patience: UInt64 { @_noLocks get { 2_000_000_000 } }

    var context: EduContext?
    /// Bytes of the card's buffer that were written and not yet read.
    var head = 0
    var tail = 0

    var phase = Phase.idle
    /// Bytes of the transfer that runs, and when it was started.
    var moving = 0
    var startedAt: UInt64 = 0
    /// What memory was marked with before the card writes there, and whether this is the second try with another mark.
    var mark: UInt8 = 0
    var isSecondTry = false

    /// Holds and delivers writes; the one delivered is `current`.
    var writes = IOQueue(.sequential)
    var current: UnsafeMutablePointer<RequestRecord>?
    /// Readers that wait, the oldest first; the one that is being served is `reader`.
    var readers = IOQueue(.manual)
    var reader: UnsafeMutablePointer<RequestRecord>?
    /// Decided under the lock, completed outside.
    var decided = CompletionList()
    /// No transfer is begun.
    var isHeld = true
    /// The card was removed or has left: how every request ends until it is started again.
    var refusal: (status: Status, cause: FailureCause)?

    var framing = Framing.stream
    var lastEnd = PacketEnd.none
    /// A packet of which a part was read was discarded: the next read is told.
    var isCutUntold = false
    /// When the last transfer ended well.
    var lastProgress: UInt64 = 0
    /// When bytes last came out of the card.
    var lastArrival: UInt64 = 0
    /// Pollers that wait, by direction.
    var watchers = (0, 0)

    var plan = TransferPlan()
    var counters = EduCounters()
    /// The last wait that ended for lack of progress, until the driver has noted it.
    var timedOut: (direction: TransferPlan.Direction, cause: FailureCause)?
}

/// What went through the card since the device was added.
struct EduCounters {
    var writeRequests: UInt64 = 0
    var sentBytes: UInt64 = 0
    var readRequests: UInt64 = 0
    var readBytes: UInt64 = 0
    var discardedBytes: UInt64 = 0
    var timeouts: UInt64 = 0
    var transfers: UInt64 = 0
    var failures: UInt64 = 0
}

// MARK: - The path of a request

extension EduChannel {
    /// Takes a request. Does not wait.
    @_noLocks mutating func submit(_ record: UnsafeMutablePointer<RequestRecord>) {
        record.pointee.waitingSince = context?.clock.now() ?? 0
        switch record.pointee.kind {
        case .write: submitWrite(record)
        case .read: submitRead(record)
        // A write ends when the card has it: there is never anything left to wait for.
        case .barrier, .close: decided.add(record, .success)
        }
        pump()
        setTimer()
    }

    @_noLocks private mutating func submitWrite(_ record: UnsafeMutablePointer<RequestRecord>) {
        counters.writeRequests &+= 1
        if let refusal {
            decided.add(record, refusal.status, cause: refusal.cause)
        } else if record.pointee.length == 0 {
            decided.add(record, .success)
        } else if record.pointee.flags.contains(.nonblocking), !isWritable {
            decided.add(record, .deviceBusy, cause: .wouldBlock)
        } else {
            switch writes.submit(record) {
            case .deliver: take(record)
            case .waits: break
            case .cancelled: decided.add(record, .cancelled, cause: .interrupted)
            }
        }
    }

    @_noLocks private mutating func submitRead(_ record: UnsafeMutablePointer<RequestRecord>) {
        counters.readRequests &+= 1
        if let refusal {
            decided.add(record, refusal.status, cause: refusal.cause)
        } else if record.pointee.length == 0 {
            decided.add(record, .success)
        } else if isCutUntold {
            isCutUntold = false
            decided.add(record, .requestAborted, cause: .packetCut)
        } else if record.pointee.flags.contains(.nonblocking), !isReadable || reader != nil || readers.oldest != nil {
            decided.add(record, .deviceBusy, cause: .wouldBlock)
        } else if case .cancelled = readers.submit(record) {
            decided.add(record, .cancelled, cause: .interrupted)
        }
    }

    /// Makes a delivered write the current one. It can be cancelled until a transfer begins.
    @_noLocks mutating func take(_ first: UnsafeMutablePointer<RequestRecord>?) {
        var next = first
        while let record = next {
            if record.pointee.markCancelable() {
                current = record
                return
            }
            finishWrite(record, .cancelled, .interrupted)
            next = writes.finished()
        }
    }

    /// Ends a write that is in no list: with what the card has of it, or the failure if that is nothing.
    @_noLocks mutating func finishWrite(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ status: Status,
        _ cause: FailureCause
    ) {
        let done = record.pointee.accumulated
        guard done > 0 else {
            decided.add(record, status, cause: cause)
            return
        }
        note(record, .toDevice)
        decided.add(record, .success, information: done)
    }

    /// Ends a read that is in no list: with the bytes it has, or the failure if it has none.
    @_noLocks mutating func finishRead(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ status: Status,
        _ cause: FailureCause
    ) {
        let done = record.pointee.accumulated
        guard done > 0 else {
            decided.add(record, status, cause: cause)
            return
        }
        record.pointee.segments[0].iov_base = record.pointee.payload
        record.pointee.segments[0].iov_len = done
        record.pointee.segmentCount = 1
        counters.readBytes &+= UInt64(done)
        note(record, .fromDevice)
        decided.add(record, .success, information: done)
    }

    /// Keeps for `dma/plan` what a request that ends was.
    @_noLocks mutating func note(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ direction: TransferPlan.Direction
    ) {
        plan.time = context?.clock.now() ?? 0
        plan.direction = direction
        plan.isBuffered = true
        plan.memory = .commonBuffer
        plan.engine = .common
        plan.byteCount = record.pointee.accumulated
        plan.pages = (record.pointee.accumulated &+ 4095) &>> 12
        plan.transfers = Int(truncatingIfNeeded: record.pointee.driverContext.0)
        plan.elements = plan.transfers
    }

    /// Takes out a request that a cancel has claimed, and ends it: with the bytes it has moved, or with the failure it names.
    /// Does not wait.
    @_noLocks mutating func withdraw(_ record: UnsafeMutablePointer<RequestRecord>) {
        if current == record {
            current = nil
            finishWrite(record, record.pointee.status, record.pointee.cause)
            take(writes.finished())
        } else if case .read = record.pointee.kind {
            readers.remove(record)
            finishRead(record, record.pointee.status, record.pointee.cause)
        } else {
            writes.remove(record)
            finishWrite(record, record.pointee.status, record.pointee.cause)
        }
        pump()
        setTimer()
    }

    /// Whether a write would begin to go to the card.
    var isWritable: Bool { @_noLocks get { !isHeld && current == nil && writes.waitingCount == 0 && room() > 0 } }

    /// Whether there are bytes that are not on their way to a reader.
    var isReadable: Bool {
        @_noLocks get {
            if isCutUntold { return true }
            if case .drain = phase { return !isHeld && head &+ moving < tail }
            return !isHeld && head < tail
        }
    }

    /// Bytes that a write could put behind those that are there. Packets are kept apart: one at a time is in the buffer.
    @_noLocks func room() -> Int {
        if head == tail { return EduLayout.bufferByteCount }
        if case .packet = framing { return 0 }
        return EduLayout.bufferByteCount &- tail
    }
}
