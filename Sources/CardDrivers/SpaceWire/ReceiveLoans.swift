import DriverCore
import Glibc
import PCIBus

/// Slots of the receive ring that a program looks at where they lie: what one mapped read got.
struct ReceiveLoan {
    var stream: UnsafeMutablePointer<StreamRecord>?
    var first: UInt64 = 0
    var end: UInt64 = 0

    @_noLocks init() {}
}

/// Who has borrowed what, the oldest first. Guarded by the lock of the port.
struct ReceiveLoans: ~Copyable {
    /// Loans at a time.
    static var capacity: Int { @_noLocks get { 64 } }

    private let entries: UnsafeMutablePointer<ReceiveLoan>
    private(set) var count = 0

    init() {
        entries = .allocate(capacity: Self.capacity)
        entries.initialize(repeating: ReceiveLoan(), count: Self.capacity)
    }

    deinit { entries.deallocate() }

    /// Keeps a loan. There is room.
    @_noLocks mutating func add(_ stream: UnsafeMutablePointer<StreamRecord>, _ first: UInt64, _ end: UInt64) {
        entries[count].stream = stream
        entries[count].first = first
        entries[count].end = end
        count &+= 1
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
        if loans.count == ReceiveLoans.capacity || available == 0 && posted == filled && loans.holds(stream) {
            return refuse(record, .insufficientResources, .ringHeld)
        }
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
        guard let stream = record.pointee.stream, loans.count < ReceiveLoans.capacity else {
            decided.add(record, .insufficientResources, cause: .ringHeld)
            return true
        }
        // It may have waited while the ring was made anew.
        guard stream.pointee.bindRing(loanEpoch) else {
            decided.add(record, .requestAborted, cause: .ringTaken)
            return true
        }
        let got = pointAt(record, count, isWhole: false)
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
        loans.add(stream, first, last)
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
