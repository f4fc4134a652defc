/// Requests that have been decided under a lock and are completed after it is released.
///
/// Replying to a caller copies up to a megabyte: no lock is held meanwhile.
public struct CompletionList {
    private var list = RequestList()

    /// An empty list.
    @_noLocks public init() {}

    /// Whether there is nothing to complete.
    public var isEmpty: Bool { @_noLocks get { list.isEmpty } }

    /// Decides a request that the caller owns and that is in no list.
    @_noLocks public mutating func add(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ status: Status,
        information: Int = 0,
        cause: FailureCause = .none
    ) {
        record.pointee.status = status
        record.pointee.information = information
        record.pointee.cause = cause
        list.append(record)
    }

    /// Takes the oldest decided request out, as the right to complete it.
    @_noLocks public mutating func removeFirst() -> UnsafeMutablePointer<RequestRecord>? { list.removeFirst() }

    /// Completes all, in the order in which they were decided. No lock may be held.
    @_noLocks public mutating func completeAll(_ pool: UnsafeMutablePointer<RequestPool>) {
        while let record = list.removeFirst() {
            IORequest(taking: record, of: pool).complete(
                record.pointee.status,
                information: record.pointee.information,
                cause: record.pointee.cause
            )
        }
    }
}
