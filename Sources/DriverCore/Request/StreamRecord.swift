import PCIBus

/// What the driver keeps for one open file of a DMA stream, at a fixed address until the file is released.
///
/// Guarded by the lock of the channel the file belongs to.
public struct StreamRecord {
    /// The sequence number of the last write accepted through this file.
    public var lastSequence: UInt64 = 0
    /// Bytes accepted through this file that were lost since; told to every later write, fsync and close.
    public var lostBytes: UInt64 = 0
    /// Why; ``FailureCause/none`` while nothing was lost.
    public var lossCause: FailureCause = .none
    /// The status of the loss.
    public var lossStatus: Status = .success
    /// Which opening this is: a record that is used again gets a new number.
    public var generation: UInt64 = 0

    /// A file that has just been opened.
    public init() {}
}

/// The stream records of a card. Records are never freed before the card is, so that a late completion finds its file or
/// sees by the generation that the file has gone.
public final class StreamTable: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var free: [UnsafeMutablePointer<StreamRecord>] = []
    private var all: [UnsafeMutablePointer<StreamRecord>] = []
    private var generation: UInt64 = 0

    init() {}

    deinit {
        for record in all { record.deallocate() }
        lock.destroy()
    }

    /// A record for a file that is being opened. Any thread; may allocate.
    public func open() -> UnsafeMutablePointer<StreamRecord> {
        lock.locked {
            let record: UnsafeMutablePointer<StreamRecord>
            if let reused = free.popLast() {
                record = reused
            } else {
                record = .allocate(capacity: 1)
                all.append(record)
            }
            generation += 1
            record.initialize(to: StreamRecord())
            record.pointee.generation = generation
            return record
        }
    }

    /// Takes the record of a file back that was released.
    public func close(_ record: UnsafeMutablePointer<StreamRecord>) {
        lock.locked {
            record.pointee.generation = 0
            free.append(record)
        }
    }
}
