public import CHardware

/// Delivers requests of one kind to a driver (WDFQUEUE).
///
/// A queue is power-managed: it delivers only while it is started, which the framework does in D0, and holds what arrives
/// otherwise. It has no lock of its own: the lock of the channel it belongs to is its synchronization scope, held by the
/// caller of every function and while the handler runs.
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

    private let dispatch: Dispatch
    private let handler: chw_completion
    private let context: UnsafeMutableRawPointer
    private var waiting = RequestList()
    /// Requests delivered and not yet finished.
    public private(set) var delivered = 0
    /// Whether the queue delivers.
    public private(set) var isStarted = false
    private var isDispatching = false

    /// Makes a stopped queue. The handler gets `context` and the record, which it owns from then on.
    public init(_ dispatch: Dispatch, context: UnsafeMutableRawPointer, handler: @escaping chw_completion) {
        self.dispatch = dispatch
        self.context = context
        self.handler = handler
    }

    /// Requests that wait to be delivered.
    public var waitingCount: Int { @_noLocks get { waiting.count } }

    /// Whether a request given now would reach the driver at once.
    @_noLocks public func wouldDeliver() -> Bool {
        guard isStarted, waiting.isEmpty else { return false }
        switch dispatch {
        case .sequential: return delivered == 0
        case .parallel: return true
        case .manual: return false
        }
    }

    /// Takes a request; it is delivered now or waits, cancelable. False if it was cancelled before it could wait: the
    /// caller then completes it with ``Status/cancelled``, outside the lock.
    @_noLocks public mutating func submit(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        if wouldDeliver() {
            delivered &+= 1
            chw_complete(handler, context, record)
            return true
        }
        guard record.pointee.markCancelable() else { return false }
        waiting.append(record)
        return true
    }

    /// Takes out a waiting request that a cancel has claimed.
    @_noLocks public mutating func withdraw(_ record: UnsafeMutablePointer<RequestRecord>) { waiting.remove(record) }

    /// The driver is done with a delivered request; a sequential queue delivers the next.
    @_noLocks public mutating func finished() {
        delivered &-= 1
        dispatchWaiting()
    }

    /// Takes the oldest waiting request out of a manual queue.
    @_noLocks public mutating func retrieveNext() -> UnsafeMutablePointer<RequestRecord>? {
        while let record = waiting.removeFirst() {
            guard record.pointee.claim() else { continue }
            delivered &+= 1
            return record
        }
        return nil
    }

    /// Starts delivering (the device is in D0).
    @_noLocks public mutating func start() {
        isStarted = true
        dispatchWaiting()
    }

    /// Stops delivering; what the driver has it keeps.
    @_noLocks public mutating func stop() { isStarted = false }

    /// The oldest waiting request, to look at its age.
    public var oldest: UnsafeMutablePointer<RequestRecord>? { @_noLocks get { waiting.first } }

    /// Takes a waiting request out for the caller, who has claimed it.
    @_noLocks public mutating func remove(_ record: UnsafeMutablePointer<RequestRecord>) { waiting.remove(record) }

    /// The request that waits behind another.
    @_noLocks public func next(
        after record: UnsafeMutablePointer<RequestRecord>
    ) -> UnsafeMutablePointer<RequestRecord>? { waiting.next(after: record) }

    @_noLocks private mutating func dispatchWaiting() {
        // A handler may finish its request at once; the loop below then delivers the next, not a deeper call.
        guard !isDispatching else { return }
        isDispatching = true
        while isStarted, dispatch == .parallel || (dispatch == .sequential && delivered == 0),
            let record = waiting.removeFirst()
        {
            guard record.pointee.claim() else { continue }
            delivered &+= 1
            chw_complete(handler, context, record)
        }
        isDispatching = false
    }
}
