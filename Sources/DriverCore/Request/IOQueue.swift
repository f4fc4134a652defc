/// Decides which requests of one kind a driver gets, and when (WDFQUEUE).
///
/// A queue is power-managed: it delivers only while it is started, which is in D0, and holds what arrives otherwise. The
/// functions answer which request is to be delivered rather than calling a handler, so that a handler that finishes its
/// request at once leads to a loop and not to a deeper call. A queue has no lock of its own: the lock of the channel it
/// belongs to is its synchronization scope and is held by the caller.
public struct IOQueue {
    /// When the next request is delivered.
    public enum Dispatch: Sendable {
        /// One at a time: the next one after ``finished()`` for the one before.
        case sequential
        /// At once, however many the driver has.
        case parallel
        /// Only when the driver asks with ``retrieveNext()``.
        case manual
    }

    /// What becomes of a request that is given to the queue.
    public enum Disposition: Sendable {
        /// It is the driver's now.
        case deliver
        /// It waits, and can be cancelled.
        case waits
        /// It was cancelled before it could wait; the caller completes it with ``Status/cancelled``.
        case cancelled
    }

    private let dispatch: Dispatch
    private var waiting = RequestList()
    /// Requests delivered and not yet finished.
    public private(set) var delivered = 0
    /// Whether the queue delivers.
    public private(set) var isStarted = false

    /// Makes a stopped queue.
    @_noLocks public init(_ dispatch: Dispatch) { self.dispatch = dispatch }

    /// Requests that wait to be delivered.
    public var waitingCount: Int { @_noLocks get { waiting.count } }

    /// Whether a request given now would be delivered at once.
    @_noLocks public func wouldDeliver() -> Bool { waiting.isEmpty && mayDeliver() }

    @_noLocks private func mayDeliver() -> Bool {
        guard isStarted else { return false }
        switch dispatch {
        case .sequential: return delivered == 0
        case .parallel: return true
        case .manual: return false
        }
    }

    /// Takes a request. A driver that has looked at it before it queues it has noted that step itself.
    @_noLocks public mutating func submit(
        _ record: UnsafeMutablePointer<RequestRecord>,
        isNoted: Bool = false
    ) -> Disposition {
        if !isNoted { RequestRecord.note(record, .queued, UInt64(waiting.count)) }
        if wouldDeliver() {
            delivered &+= 1
            RequestRecord.note(record, .handled)
            return .deliver
        }
        guard record.pointee.markCancelable() else { return .cancelled }
        waiting.append(record)
        return .waits
    }

    /// The driver is done with a delivered request. Answers the next one to deliver, if there is one now.
    @_noLocks public mutating func finished() -> UnsafeMutablePointer<RequestRecord>? {
        precondition(delivered > 0)
        delivered &-= 1
        return next()
    }

    /// The next request to deliver, if there is one now; asked until nil after ``start()``.
    @_noLocks public mutating func next() -> UnsafeMutablePointer<RequestRecord>? { mayDeliver() ? take() : nil }

    /// Takes the oldest waiting request out of a manual queue.
    @_noLocks public mutating func retrieveNext() -> UnsafeMutablePointer<RequestRecord>? { isStarted ? take() : nil }

    @_noLocks private mutating func take() -> UnsafeMutablePointer<RequestRecord>? {
        while let record = waiting.removeFirst() {
            // One that a cancel has claimed is the canceller's to complete.
            guard record.pointee.claim() else { continue }
            delivered &+= 1
            RequestRecord.note(record, .handled)
            return record
        }
        return nil
    }

    /// Lets the queue deliver (the device is in D0).
    @_noLocks public mutating func start() { isStarted = true }

    /// Holds what is not delivered yet; what the driver has it keeps.
    @_noLocks public mutating func stop() { isStarted = false }

    /// Takes out a waiting request that the caller has claimed, or that a cancel has.
    @_noLocks public mutating func remove(_ record: UnsafeMutablePointer<RequestRecord>) { waiting.remove(record) }

    /// Puts a waiting request that was taken out with ``remove(_:)`` back to its place, the first.
    @_noLocks public mutating func putBack(_ record: UnsafeMutablePointer<RequestRecord>) { waiting.prepend(record) }

    /// The oldest waiting request, to look at its age.
    public var oldest: UnsafeMutablePointer<RequestRecord>? { @_noLocks get { waiting.first } }

    /// The request that waits behind another.
    @_noLocks public func next(
        after record: UnsafeMutablePointer<RequestRecord>
    ) -> UnsafeMutablePointer<RequestRecord>? { waiting.next(after: record) }
}
