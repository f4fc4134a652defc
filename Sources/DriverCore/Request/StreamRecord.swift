import PCIBus
import Synchronization

/// What the driver keeps for one open file of a DMA stream, at a fixed address as long as the device.
///
/// A record is used again for another file without waiting for the requests of the last one. So everything in it says which
/// opening it belongs to, and counts for no other. All but ``generation`` is guarded by the lock of the channel.
public struct StreamRecord: ~Copyable {
    /// Which opening this is; 0 while no file is open. It lies apart because the table changes it while a channel may be at
    /// work on the rest.
    private let generation: UnsafeMutablePointer<Atomic<UInt64>>
    private var sequenceGeneration: UInt64 = 0
    private var lastSequence: UInt64 = 0
    private var lossGeneration: UInt64 = 0
    private var ringGeneration: UInt64 = 0
    private var ringEpoch: UInt64 = 0
    private var recallGeneration: UInt64 = 0
    private var loss = StreamLoss(status: .success, cause: .none, byteCount: 0)

    init(generation: UnsafeMutablePointer<Atomic<UInt64>>) { self.generation = generation }

    /// The number of the opening, to be kept with what is accepted through it.
    @_noLocks public func opening() -> UInt64 { generation.pointee.load(ordering: .acquiring) }

    /// The sequence number of the last write accepted through the open file; 0 for none.
    public var lastAccepted: UInt64 { @_noLocks get { sequenceGeneration == opening() ? lastSequence : 0 } }

    /// Notes that a write was accepted.
    @_noLocks public mutating func accept(_ sequence: UInt64) {
        sequenceGeneration = opening()
        lastSequence = sequence
    }

    /// What was lost of the bytes accepted through the open file; told to every later write, fsync and close.
    public var lost: StreamLoss? { @_noLocks get { lossGeneration == opening() ? loss : nil } }

    /// Ties the open file to the present state of a ring it borrows from, at its first call. False once that has changed: what
    /// was borrowed is not the file's any more.
    @_noLocks public mutating func bindRing(_ epoch: UInt64) -> Bool {
        if ringGeneration != opening() {
            ringGeneration = opening()
            ringEpoch = epoch
        }
        return ringEpoch == epoch
    }

    /// Notes that what the open file had borrowed of a ring was taken back. The ring itself is as it was.
    @_noLocks public mutating func recallRing() { recallGeneration = opening() }

    /// Whether something was taken back that the open file has not been told of. It is told once.
    @_noLocks public mutating func takeRecall() -> Bool {
        guard recallGeneration != 0, recallGeneration == opening() else { return false }
        recallGeneration = 0
        return true
    }

    /// Notes that bytes accepted through an opening were lost.
    @_noLocks public mutating func lose(
        _ byteCount: UInt64,
        of opening: UInt64,
        _ status: Status,
        _ cause: FailureCause
    ) {
        guard opening == self.opening() else { return }
        let before = lossGeneration == opening ? loss.byteCount : 0
        lossGeneration = opening
        loss = StreamLoss(status: status, cause: cause, byteCount: before &+ byteCount)
    }
}

/// Bytes that were accepted and did not reach the card.
public struct StreamLoss: Sendable {
    /// The status later requests end with.
    public var status: Status
    /// Why.
    public var cause: FailureCause
    /// How many.
    public var byteCount: UInt64

    @_noLocks init(status: Status, cause: FailureCause, byteCount: UInt64) {
        self.status = status
        self.cause = cause
        self.byteCount = byteCount
    }
}

/// The stream records of a card. They are never freed before the card is, so that a late completion finds a record and sees
/// by its generation that the file has gone.
public final class StreamTable: @unchecked Sendable {  // guarded by `lock`
    private struct Entry {
        var record: UnsafeMutablePointer<StreamRecord>
        var generation: UnsafeMutablePointer<Atomic<UInt64>>
    }

    private let lock = Lock()
    private var free: [Entry] = []
    private var all: [UnsafeMutablePointer<StreamRecord>: Entry] = [:]
    private var generation: UInt64 = 0

    init() {}

    deinit {
        for entry in all.values {
            entry.record.deinitialize(count: 1)
            entry.record.deallocate()
            entry.generation.deinitialize(count: 1)
            entry.generation.deallocate()
        }
        lock.destroy()
    }

    /// A record for a file that is being opened. Any thread; may allocate.
    public func open() -> UnsafeMutablePointer<StreamRecord> {
        lock.locked {
            let entry = free.popLast() ?? make()
            generation += 1
            entry.generation.pointee.store(generation, ordering: .releasing)
            return entry.record
        }
    }

    private func make() -> Entry {
        let generation = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 1)
        generation.initialize(to: Atomic(0))
        let record = UnsafeMutablePointer<StreamRecord>.allocate(capacity: 1)
        record.initialize(to: StreamRecord(generation: generation))
        let entry = Entry(record: record, generation: generation)
        all[record] = entry
        return entry
    }

    /// Takes the record of a file back that was released.
    public func close(_ record: UnsafeMutablePointer<StreamRecord>) {
        lock.locked {
            guard let entry = all[record] else { return }
            entry.generation.pointee.store(0, ordering: .releasing)
            free.append(entry)
        }
    }
}
