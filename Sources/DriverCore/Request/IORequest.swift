import CHardware
import PCIBus

/// The right, and the duty, to complete one request (WDFREQUEST).
///
/// The type is move-only and completing consumes it, so a second completion does not compile. One that is dropped
/// answers ``Status/unsuccessful`` and is counted.
public struct IORequest: ~Copyable {
    /// The record behind the request.
    public let record: UnsafeMutablePointer<RequestRecord>
    private let pool: UnsafeMutablePointer<RequestPool>

    /// Takes over a record that nobody else holds.
    @_noLocks public init(
        taking record: UnsafeMutablePointer<RequestRecord>,
        of pool: UnsafeMutablePointer<RequestPool>
    ) {
        self.record = record
        self.pool = pool
    }

    /// Ends the request (WdfRequestCompleteWithInformation). Runs the completion routine on this thread: no lock may be
    /// held. `information` is what the caller is told was done; a failure tells 0.
    @_noLocks public consuming func complete(_ status: Status, information: Int = 0, cause: FailureCause = .none) {
        let record = record
        let pool = pool
        discard self
        record.pointee.status = status
        record.pointee.information = status.isSuccess ? information : 0
        record.pointee.cause = cause
        if record.pointee.isLinked || record.pointee.information > record.pointee.length {
            chw_complete(pool.pointee.objection, pool.pointee.completionContext, record)
            // The caller would be told of bytes that are not there.
            record.pointee.status = .internalError
            record.pointee.information = 0
        }
        RequestRecord.note(
            record,
            .completed,
            UInt64(record.pointee.information),
            UInt64(record.pointee.status.rawValue)
        )
        chw_complete(pool.pointee.completion, pool.pointee.completionContext, record)
    }

    /// Gives the record to a list that will keep it; whoever takes it out makes a request of it again.
    @_noLocks public consuming func intoRecord() -> UnsafeMutablePointer<RequestRecord> {
        let record = record
        discard self
        return record
    }

    deinit {
        pool.pointee.countDropped(record)
        record.pointee.status = .unsuccessful
        record.pointee.information = 0
        record.pointee.cause = .dropped
        chw_complete(pool.pointee.completion, pool.pointee.completionContext, record)
    }
}
