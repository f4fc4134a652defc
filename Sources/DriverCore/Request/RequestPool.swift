public import CHardware
import Synchronization

/// The fixed set of request records of a card, made when it is added and never grown.
public struct RequestPool: ~Copyable {
    fileprivate let records: UnsafeMutablePointer<RequestRecord>
    /// Records in the pool.
    public let capacity: Int
    private let free: IndexStack
    private let dropped: Atomic<UInt64>

    /// Called for each request when it is completed, with no lock held.
    let completion: chw_completion
    /// The context of ``completion``.
    let completionContext: UnsafeMutableRawPointer
    /// Called for a completion that cannot be right.
    let objection: chw_completion = { _, request in objectToCompletion(request) }

    /// What became of a cancel.
    public enum CancelOutcome: Sendable {
        /// The request was waiting: the caller now owns it, says in it why it ends, and has the driver withdraw it.
        case claimed
        /// The driver holds it and will see the mark.
        case noted
        /// It has ended.
        case gone
    }

    /// Makes a pool whose records complete into `completion`.
    public init(capacity: Int, completionContext: UnsafeMutableRawPointer, completion: @escaping chw_completion) {
        precondition(capacity > 0 && capacity < 1 << 20)
        self.capacity = capacity
        self.completion = completion
        self.completionContext = completionContext
        records = .allocate(capacity: capacity)
        for index in 0..<capacity { (records + index).initialize(to: RequestRecord(index: UInt32(index))) }
        free = IndexStack(count: capacity)
        dropped = Atomic(0)
    }

    deinit {
        records.deinitialize(count: capacity)
        records.deallocate()
    }

    /// A fresh record, or nil when all are in use. Does not block.
    @_noLocks public func allocate(
        _ kind: RequestKind,
        flags: RequestFlags,
        length: Int
    ) -> UnsafeMutablePointer<RequestRecord>? {
        guard let index = free.pop(leaving: 0) else { return nil }
        let record = records + Int(index)
        record.pointee.kind = kind
        record.pointee.flags = flags
        record.pointee.length = length
        record.pointee.stream = nil
        record.pointee.payload = nil
        record.pointee.storage = .none
        record.pointee.status = .pending
        record.pointee.information = 0
        record.pointee.cause = .none
        record.pointee.segmentCount = 0
        record.pointee.lostBytes = 0
        record.pointee.accumulated = 0
        record.pointee.sequence = 0
        record.pointee.driverContext = (0, 0)
        record.pointee.trace = nil
        let old = record.pointee.state.load(ordering: .relaxed)
        record.pointee.state.store(
            ((old &>> 4) &+ 1) &<< 4 | RequestRecord.Phase.owned,
            ordering: .releasing
        )
        return record
    }

    /// Takes a completed record back.
    @_noLocks public func release(_ record: UnsafeMutablePointer<RequestRecord>) {
        let old = record.pointee.state.load(ordering: .relaxed)
        record.pointee.state.store(old & ~0xf | RequestRecord.Phase.free, ordering: .releasing)
        free.push(record.pointee.index)
    }

    /// Cancels the use of a record that `cookie` names. The one atomic claim for which cancel and completion race.
    @_noLocks public func cancel(_ cookie: UInt64) -> CancelOutcome {
        let record = self.record(at: cookie)
        while true {
            let old = record.pointee.state.load(ordering: .acquiring)
            guard old &>> 4 == cookie &>> 20 else { return .gone }
            switch old & RequestRecord.Phase.mask {
            case RequestRecord.Phase.cancelable:
                let new = old & ~RequestRecord.Phase.mask | RequestRecord.Phase.cancelling
                if record.pointee.state.compareExchange(expected: old, desired: new, ordering: .acquiringAndReleasing)
                    .exchanged
                {
                    return .claimed
                }
            case RequestRecord.Phase.owned:
                let new = old | RequestRecord.Phase.cancelRequested
                if record.pointee.state.compareExchange(expected: old, desired: new, ordering: .acquiringAndReleasing)
                    .exchanged
                {
                    return .noted
                }
            default:
                return .gone
            }
        }
    }

    /// The record a cookie names, whatever became of that use of it.
    @_noLocks public func record(at cookie: UInt64) -> UnsafeMutablePointer<RequestRecord> {
        records + Int(cookie & 0xf_ffff) % capacity
    }

    /// Requests that were dropped without an answer since the card was added.
    public var droppedCount: UInt64 { dropped.load(ordering: .relaxed) }

    /// Records in use now.
    public var inUse: Int { capacity - free.count }

    @_noLocks func countDropped(_ record: UnsafeMutablePointer<RequestRecord>) {
        dropped.wrappingAdd(1, ordering: .relaxed)
        record.pointee.cause = .dropped
        chw_complete(objection, completionContext, record)
    }
}

extension RequestPool {
    /// Claims every request that waits, for a mount that ends. The caller has the driver withdraw them.
    public func claimWaiting() -> [UnsafeMutablePointer<RequestRecord>] {
        (0..<capacity).compactMap { index in
            let record = records + index
            guard case .claimed = cancel(record.pointee.cookie()) else { return nil }
            return record
        }
    }
}

/// A request that is completed although it is in a queue, with more bytes than were asked for, or that was dropped.
private func objectToCompletion(_ request: UnsafeMutableRawPointer) {
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    let kind = record.pointee.kind
    if record.pointee.isLinked {
        Verifier.note(.completedWhileQueued, "a \(kind) was completed that a queue still holds")
    } else if record.pointee.cause == .dropped {
        Verifier.note(.requestDropped, "a \(kind) was dropped without an answer")
    } else {
        let length = record.pointee.length
        Verifier.note(
            .informationTooLarge,
            "a \(kind) of \(length) bytes was completed with \(record.pointee.information)"
        )
    }
}
