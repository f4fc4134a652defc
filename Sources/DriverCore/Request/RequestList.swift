/// A first-in first-out list of request records, linked through the records themselves, so that it never allocates.
///
/// A record is in at most one list. The owner's lock guards it.
public struct RequestList {
    /// The oldest request.
    public private(set) var first: UnsafeMutablePointer<RequestRecord>?
    /// The youngest request.
    public private(set) var last: UnsafeMutablePointer<RequestRecord>?
    /// Requests in the list.
    public private(set) var count = 0

    /// An empty list.
    @_noLocks public init() {}

    /// Whether there is none.
    public var isEmpty: Bool { @_noLocks get { first == nil } }

    /// Puts a record at the end.
    @_noLocks public mutating func append(_ record: UnsafeMutablePointer<RequestRecord>) {
        precondition(!record.pointee.isLinked)
        record.pointee.isLinked = true
        record.pointee.next = nil
        record.pointee.previous = last
        if let last { last.pointee.next = record } else { first = record }
        last = record
        count &+= 1
    }

    /// Puts a record at the beginning.
    @_noLocks public mutating func prepend(_ record: UnsafeMutablePointer<RequestRecord>) {
        precondition(!record.pointee.isLinked)
        record.pointee.isLinked = true
        record.pointee.previous = nil
        record.pointee.next = first
        if let first { first.pointee.previous = record } else { last = record }
        first = record
        count &+= 1
    }

    /// Takes a record out; does nothing if it is in no list.
    @_noLocks public mutating func remove(_ record: UnsafeMutablePointer<RequestRecord>) {
        guard record.pointee.isLinked else { return }
        let next = record.pointee.next
        let previous = record.pointee.previous
        if let previous { previous.pointee.next = next } else { first = next }
        if let next { next.pointee.previous = previous } else { last = previous }
        record.pointee.next = nil
        record.pointee.previous = nil
        record.pointee.isLinked = false
        count &-= 1
    }

    /// Takes the oldest out.
    @_noLocks public mutating func removeFirst() -> UnsafeMutablePointer<RequestRecord>? {
        guard let record = first else { return nil }
        remove(record)
        return record
    }

    /// The record after this one.
    @_noLocks public func next(
        after record: UnsafeMutablePointer<RequestRecord>
    ) -> UnsafeMutablePointer<RequestRecord>? {
        record.pointee.next
    }
}
