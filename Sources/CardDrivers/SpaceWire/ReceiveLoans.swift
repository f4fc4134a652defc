import DriverCore
import Glibc
import PCIBus

/// Slots of the receive ring that a program looks at where they lie: what one mapped read got.
struct ReceiveLoan {
    var stream: UnsafeMutablePointer<StreamRecord>?
    var first: UInt64 = 0
    var end: UInt64 = 0
    /// When it was lent, by the device's clock; nanoseconds.
    var since: UInt64 = 0

    @_noLocks init() {}
}

/// Who has borrowed what, the oldest first. Guarded by the lock of the port.
struct ReceiveLoans: ~Copyable {
    /// Loans at a time.
    static var capacity: Int { @_noLocks get { 128 } }
    /// Loans of one file at a time, so that none takes all of them with a byte each.
    static var capacityOfFile: Int { @_noLocks get { 64 } }

    private let entries: UnsafeMutablePointer<ReceiveLoan>
    private(set) var count = 0

    init() {
        entries = .allocate(capacity: Self.capacity)
        entries.initialize(repeating: ReceiveLoan(), count: Self.capacity)
    }

    deinit { entries.deallocate() }

    /// Keeps a loan. There is room.
    @_noLocks mutating func add(
        _ stream: UnsafeMutablePointer<StreamRecord>,
        _ first: UInt64,
        _ end: UInt64,
        since: UInt64
    ) {
        entries[count].stream = stream
        entries[count].first = first
        entries[count].end = end
        entries[count].since = since
        count &+= 1
    }

    /// Whether there is room for a loan to a file.
    @_noLocks func hasRoom(for stream: UnsafeMutablePointer<StreamRecord>) -> Bool {
        guard count < Self.capacity else { return false }
        var own = 0
        var index = 0
        while index < count {
            if entries[index].stream == stream { own &+= 1 }
            index &+= 1
        }
        return own < Self.capacityOfFile
    }

    /// Slots that a file has borrowed; one that two of its loans share counts once.
    @_noLocks func slots(of stream: UnsafeMutablePointer<StreamRecord>) -> Int {
        var slots: UInt64 = 0
        var last: UInt64 = 0
        var index = 0
        while index < count {
            let loan = entries[index]
            index &+= 1
            guard loan.stream == stream else { continue }
            slots &+= loan.end &- (loan.first > last ? loan.first : last)
            last = loan.end
        }
        return Int(truncatingIfNeeded: slots)
    }

    /// A file with a loan that was made at `time` or before: of a slot, or of any; not `other`.
    @_noLocks func late(
        _ time: UInt64,
        slot: UInt64?,
        besides other: UnsafeMutablePointer<StreamRecord>?
    ) -> UnsafeMutablePointer<StreamRecord>? {
        var index = 0
        while index < count {
            let loan = entries[index]
            index &+= 1
            guard loan.since <= time, loan.stream != other else { continue }
            guard let slot else { return loan.stream }
            if loan.first <= slot, slot < loan.end { return loan.stream }
        }
        return nil
    }

    /// Whether a file has borrowed anything.
    @_noLocks func holds(_ stream: UnsafeMutablePointer<StreamRecord>) -> Bool {
        var index = 0
        while index < count {
            if entries[index].stream == stream { return true }
            index &+= 1
        }
        return false
    }

    /// Takes out the oldest loan of a file, or of anybody.
    @_noLocks mutating func take(of stream: UnsafeMutablePointer<StreamRecord>?) -> ReceiveLoan? {
        var index = 0
        while index < count, stream != nil, entries[index].stream != stream { index &+= 1 }
        guard index < count else { return nil }
        let loan = entries[index]
        count &-= 1
        while index < count {
            entries[index] = entries[index &+ 1]
            index &+= 1
        }
        return loan
    }
}

// Reads that are answered with places in the ring instead of bytes.
extension ReceiveChannel {
    /// Gives back what a mapped read brings, and looks whether it can have more. False if it was decided.
    @_noLocks mutating func beginLoan(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard let stream = record.pointee.stream else { return refuse(record, .internalError, .none) }
        if case .system = engine { return refuse(record, .notSupported, .ringNotLent) }
        guard stream.pointee.bindRing(loanEpoch) else { return refuse(record, .requestAborted, .ringTaken) }
        // Told once: nothing is held any more, and the next call goes on.
        if stream.pointee.takeRecall() { return refuse(record, .requestAborted, .ringExpired) }
        var left = record.pointee.sequence
        while left > 0, let loan = loans.take(of: stream) {
            giveBack(loan)
            left &-= 1
        }
        repost()
        reap()
        record.pointee.sequence = 0
        record.pointee.segmentCount = 0
        if record.pointee.length == 0 {
            decided.add(record, .success)
            return false
        }
        if loans.count == ReceiveLoans.capacity { endLateLoans(besides: stream) }
        if !loans.hasRoom(for: stream) || available == 0 && posted == filled && loans.holds(stream) {
            return refuse(record, .insufficientResources, .ringHeld)
        }
        if share(of: stream) <= 0 { return refuse(record, .insufficientResources, .ringShared) }
        return true
    }

    @_noLocks private mutating func refuse(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ status: Status,
        _ cause: FailureCause
    ) -> Bool {
        decided.add(record, status, cause: cause)
        return false
    }

    /// Ends a mapped read with the places of up to `count` bytes from `head` on. There are bytes. True: it was decided.
    @_noLocks mutating func lend(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ count: Int,
        end: PacketEnd
    ) -> Bool {
        guard let stream = record.pointee.stream, loans.hasRoom(for: stream) else {
            return !refuse(record, .insufficientResources, .ringHeld)
        }
        // While it waited, the ring may have been restarted, or its loans may have been taken back.
        guard stream.pointee.bindRing(loanEpoch) else { return !refuse(record, .requestAborted, .ringTaken) }
        if stream.pointee.takeRecall() { return !refuse(record, .requestAborted, .ringExpired) }
        let room = share(of: stream)
        if room <= 0 { return !refuse(record, .insufficientResources, .ringShared) }
        let limit = room < Self.slotCount ? min(count, bytes(inSlots: room)) : count
        let got = pointAt(record, limit, isWhole: false)
        // The program has mapped the ring elsewhere: it is told how far from the ring's first byte a piece is.
        let base = UInt(bitPattern: data?.base)
        var index = 0
        while index < record.pointee.segmentCount {
            let place = UInt(bitPattern: record.pointee.segments[index].iov_base) &- base
            record.pointee.segments[index].iov_base = UnsafeMutableRawPointer(bitPattern: place)
            index &+= 1
        }
        let (first, last) = record.pointee.driverContext
        // The slots stay in use when the reply is made.
        record.pointee.driverContext = (0, 0)
        loans.add(stream, first, last, since: context?.clock.now() ?? 0)
        watchLoans()
        let ending = got < count && framing == .packet ? PacketEnd.more : end
        record.pointee.sequence = UInt64(ending.rawValue)
        counters.lentBytes &+= UInt64(got)
        note(record, got, ending)
        decided.add(record, .success, information: got)
        return true
    }

    /// Lets the card have the slots of a loan again, if nobody else uses them.
    @_noLocks private mutating func giveBack(_ loan: ReceiveLoan) {
        var slot = loan.first
        while slot != loan.end {
            let entry = slots + place(slot)
            entry.pointee.users &-= 1
            slot &+= 1
        }
    }

    /// Slots that a file may borrow now. While others wait it has at most half of the ring.
    @_noLocks private func share(of stream: UnsafeMutablePointer<StreamRecord>) -> Int {
        guard isWaitedFor(besides: stream) else { return Self.slotCount }
        return Self.slotCount / 2 &- loans.slots(of: stream)
    }

    /// Bytes from `head` on that lie in so many slots.
    @_noLocks private func bytes(inSlots count: Int) -> Int {
        var bytes = 0
        var slot = head
        let end = head &+ UInt64(count)
        while slot != filled, slot != end {
            bytes &+= slots[place(slot)].length
            slot &+= 1
        }
        return bytes &- headOffset
    }

    /// Whether a request that came through another file waits.
    @_noLocks private func isWaitedFor(besides stream: UnsafeMutablePointer<StreamRecord>) -> Bool {
        var next = readers.oldest
        while let record = next {
            if record.pointee.stream != stream { return true }
            next = readers.next(after: record)
        }
        return false
    }

    /// Who asks for what comes, beside the requests that wait and the programs that poll.
    enum LoanAsker {
        case nobody
        /// A request that does not wait, of this file.
        case file(UnsafeMutablePointer<StreamRecord>?)
        /// A command.
        case command
    }

    /// Takes loans back that were kept for too long, where the card has no slot left, the next one it needs is lent, and anybody
    /// but its borrower asks for what comes. The files that held that slot lose all they had borrowed, and are told at
    /// their next call; other borrowers keep theirs. Answers whether the card has got slots.
    @_noLocks @discardableResult mutating func recall(for asker: LoanAsker) -> Bool {
        guard let time = lateTime(), !isHeld, fault == nil else { return false }
        let before = posted
        while filled == posted, released != head, let holder = loans.late(time, slot: released, besides: nil) {
            var isAsked = watchers > 0 || isWaitedFor(besides: holder)
            switch asker {
            case .nobody: break
            case .file(let stream): if stream != holder { isAsked = true }
            case .command: isAsked = true
            }
            guard isAsked else { break }
            takeBack(from: holder)
            repost()
        }
        return posted != before
    }

    /// Takes every loan back that was kept for too long, except those of one file.
    @_noLocks mutating func endLateLoans(besides stream: UnsafeMutablePointer<StreamRecord>?) {
        guard let time = lateTime() else { return }
        while let holder = loans.late(time, slot: nil, besides: stream) { takeBack(from: holder) }
    }

    /// Loans of this time and before are late; nil if there can be none.
    @_noLocks private func lateTime() -> UInt64? {
        guard loans.count > 0, let context, context.policy.loanTimeout != 0 else { return nil }
        let now = context.clock.now()
        return now >= context.policy.loanTimeout ? now &- context.policy.loanTimeout : nil
    }

    @_noLocks private mutating func takeBack(from holder: UnsafeMutablePointer<StreamRecord>) {
        while let loan = loans.take(of: holder) {
            giveBack(loan)
            counters.recalledLoans &+= 1
        }
        holder.pointee.recallRing()
    }

    /// Looks again soon while a program polls and something is lent. A request that waits has its own timer.
    @_noLocks func watchLoans() {
        guard watchers > 0, loans.count > 0, let context, context.policy.loanTimeout != 0 else { return }
        context.deferred.pointee.setTimer(call, context.clock.now() &+ ChannelContext.lookInterval)
    }

    /// A file that may have borrowed was closed.
    mutating func endLoans(of stream: UnsafeMutablePointer<StreamRecord>) {
        while let loan = loans.take(of: stream) { giveBack(loan) }
    }

    /// Takes everything back: the ring starts anew, or its memory goes. Whoever had borrowed is told at the next call.
    mutating func revokeLoans() {
        while let loan = loans.take(of: nil) { giveBack(loan) }
        loanEpoch += 1
    }
}
