public import Glibc
import PCIBus
public import Synchronization

/// What a request asks of the card.
public enum RequestKind: UInt8, Sendable {
    /// Bytes to the card (IRP_MJ_WRITE).
    case write
    /// Bytes from the card (IRP_MJ_READ).
    case read
    /// Ends when the card has every byte accepted before it (IRP_MJ_FLUSH_BUFFERS): fsync(2).
    case barrier
    /// As ``barrier``, with the shorter patience of close(2) (IRP_MJ_CLEANUP).
    case close
}

/// How a request wants to be treated.
public struct RequestFlags: OptionSet, Sendable {
    /// The bits.
    public let rawValue: UInt8
    /// Makes a set.
    @inlinable @_noLocks public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Rather fail with ``Status/deviceBusy`` than wait (O_NONBLOCK).
    @inlinable public static var nonblocking: RequestFlags { @_noLocks get { RequestFlags(rawValue: 1) } }
    /// Ends only when the card has the bytes (O_SYNC, O_DSYNC).
    @inlinable public static var synchronous: RequestFlags { @_noLocks get { RequestFlags(rawValue: 2) } }
    /// Never through a system buffer (O_DIRECT).
    @inlinable public static var direct: RequestFlags { @_noLocks get { RequestFlags(rawValue: 4) } }
    /// A read that is answered with where the bytes lie in the card's ring, which it borrows until it gives them back.
    @inlinable public static var mapped: RequestFlags { @_noLocks get { RequestFlags(rawValue: 16) } }
    /// The payload of this write is a copy (buffered I/O).
    @inlinable public static var buffered: RequestFlags { @_noLocks get { RequestFlags(rawValue: 8) } }
}

/// Why a request failed, for the sentence that goes with the status. A trivial value: sentences are made off the data path.
public enum FailureCause: UInt8, Sendable {
    /// No cause is known beyond the status.
    case none
    /// The far receiver grants no credit.
    case receiverFull
    /// The link is not in the Run state.
    case linkDown
    /// Bus mastering is off.
    case busMasterOff
    /// The card kept a descriptor without progress and was stopped.
    case stuck
    /// The card met an address its IOMMU does not translate, or a bus error.
    case busError
    /// The card told a number that cannot be so.
    case cardError
    /// Nothing came from the card.
    case noData
    /// A packet is longer than one request can carry.
    case packetTooLong
    /// All request records or payload buffers are in use.
    case outOfBuffers
    /// The caller was interrupted by a signal.
    case interrupted
    /// A nonblocking request would have to wait.
    case wouldBlock
    /// Bytes accepted earlier were lost.
    case deferred
    /// The bytes were discarded by a command (`flush`, `reset`).
    case discarded
    /// The card is gone.
    case gone
    /// The card was taken out of use.
    case removed
    /// The card could not be brought back into D0.
    case startFailed
    /// The card is not in D0.
    case notInD0
    /// The card sleeps, and this driver has not sent it to sleep.
    case asleep
    /// Close waited long enough; the card still has bytes to take.
    case stillSending
    /// The ring was taken back from the program that had borrowed from it.
    case ringTaken
    /// All of the ring that can be lent is lent.
    case ringHeld
    /// Others wait, and the program that asks for more has borrowed half of the ring.
    case ringShared
    /// What the program had borrowed of the ring was taken back, because it kept it for too long while others waited.
    case ringExpired
    /// With this engine the ring cannot be lent.
    case ringNotLent
    /// What was being read was cut before its end: what comes next does not continue it.
    case packetCut
    /// The request was dropped without an answer: a defect of a driver.
    case dropped
}

/// Where the payload of a request lies.
public enum PayloadStorage: UInt8, Sendable {
    /// The request owns no buffer.
    case none
    /// A receive buffer of the arena: the FUSE request's own memory, for direct I/O.
    case receiveBuffer
    /// A system buffer of the arena: the copy of buffered I/O (AssociatedIrp.SystemBuffer).
    case systemBuffer
}

/// A piece of memory a finished read answers with, laid out as struct iovec.
public typealias Segment = iovec

/// The fixed record behind a request (the IRP). It lives in a ``RequestPool`` and is never moved.
///
/// Fields are owned by whoever holds the request: the file layer until `submit`, the driver (under its channel's lock) until
/// completion, the file layer again in the completion routine. Only ``state`` is shared.
public struct RequestRecord: ~Copyable {
    /// The most pieces one read answers with: a megabyte of half-page slots never needs more, shorter pieces are copied.
    public static var maximumSegments: Int { @_noLocks get { 64 } }

    // `state` is not the first field: a modifying access to any field through a pointer is marked, for ThreadSanitizer, at the
    // first byte of the whole record, where a cancel of another thread would seem to race with it.

    /// What is asked.
    public var kind: RequestKind
    /// Index in the pool.
    public let index: UInt32
    /// generation << 4 | cancel requested << 3 | phase.
    @usableFromInline let state: Atomic<UInt64>

    /// How.
    public var flags: RequestFlags
    /// The open file the request came through; nil for none.
    public var stream: UnsafeMutablePointer<StreamRecord>?
    /// First byte of the payload of a write; of the accumulated bytes of a read.
    public var payload: UnsafeMutableRawPointer?
    /// Bytes to write, or the most bytes to read.
    public var length: Int
    /// What memory the request owns.
    public var storage: PayloadStorage
    /// Index of the owned buffer.
    public var bufferIndex: UInt32
    /// The file layer's own word: the fuse_req_t.
    public var replyContext: UnsafeMutableRawPointer?
    /// The file layer's own number of the open file.
    public var fileNumber: UInt64
    /// The file layer's own: in whose account the request is counted, nil for none.
    public var account: UnsafeMutableRawPointer?
    /// The file layer's own: payload buffers that are counted there.
    public var countedBuffers: Int

    /// How it ended (IoStatus.Status).
    public var status: Status
    /// Bytes done; 0 on failure (IoStatus.Information).
    public var information: Int
    /// Why it failed.
    public var cause: FailureCause
    /// Bytes lost earlier that this request tells of.
    public var lostBytes: UInt64
    /// Pieces of memory a read answers with; valid until the completion routine returns. Of a mapped read: where in the ring they
    /// begin, as numbers.
    public var segments: UnsafeMutablePointer<Segment>
    /// Pieces in ``segments``.
    public var segmentCount: Int

    /// When it began to wait, by the device's clock.
    public var waitingSince: UInt64
    /// The channel's sequence number this request waits for. Of a mapped read: how many of the oldest loans it gives back, and
    /// when it is done, the ``PacketEnd`` of what it got.
    public var sequence: UInt64
    /// Bytes already copied into ``payload`` for a read that is being put together.
    public var accumulated: Int
    /// Where the steps of this request are noted, and its number there; nil for one that is not followed.
    public var trace: UnsafeMutablePointer<RequestTrace>?
    var traceNumber: UInt64

    /// Two words for the driver while it holds the request (Tail.Overlay.DriverContext).
    public var driverContext: (UInt64, UInt64)

    /// Neighbours in the one list the request is in.
    @usableFromInline var next: UnsafeMutablePointer<RequestRecord>?
    @usableFromInline var previous: UnsafeMutablePointer<RequestRecord>?
    @usableFromInline var isLinked: Bool

    init(index: UInt32) {
        state = Atomic(1 << 4)
        self.index = index
        kind = .write
        flags = []
        length = 0
        storage = .none
        bufferIndex = 0
        fileNumber = 0
        countedBuffers = 0
        status = .pending
        information = 0
        cause = .none
        lostBytes = 0
        segments = .allocate(capacity: Self.maximumSegments)
        segmentCount = 0
        waitingSince = 0
        sequence = 0
        accumulated = 0
        traceNumber = 0
        driverContext = (0, 0)
        isLinked = false
    }

    deinit { segments.deallocate() }
}

extension RequestRecord {
    /// The life of a record. A request that waits is ``cancelable``; cancel and completion race to take it out of that phase.
    enum Phase {
        static var free: UInt64 { @_noLocks get { 0 } }
        static var owned: UInt64 { @_noLocks get { 1 } }
        static var cancelable: UInt64 { @_noLocks get { 2 } }
        static var cancelling: UInt64 { @_noLocks get { 3 } }
        static var mask: UInt64 { @_noLocks get { 7 } }
        static var cancelRequested: UInt64 { @_noLocks get { 8 } }
    }

    /// Names this use of the record for a later cancel: index in the low 20 bits, generation above.
    @_noLocks public func cookie() -> UInt64 { (state.load(ordering: .relaxed) &>> 4) &<< 20 | UInt64(index) }

    /// Lets a cancel take the request from now on (WdfRequestMarkCancelable). False if it was cancelled already: the
    /// driver then completes it with ``Status/cancelled`` itself.
    @_noLocks public func markCancelable() -> Bool {
        let old = state.load(ordering: .relaxed)
        if old & Phase.cancelRequested != 0 { return false }
        return state.compareExchange(
            expected: old,
            desired: old & ~Phase.mask | Phase.cancelable,
            ordering: .acquiringAndReleasing
        ).exchanged
    }

    /// Takes the request back from being cancelable (WdfRequestUnmarkCancelable). False if a cancel has it: the driver
    /// forgets the request.
    @_noLocks public func claim() -> Bool {
        let old = state.load(ordering: .relaxed)
        guard old & Phase.mask == Phase.cancelable else { return false }
        return state.compareExchange(
            expected: old,
            desired: old & ~Phase.mask | Phase.owned,
            ordering: .acquiringAndReleasing
        ).exchanged
    }

    /// Whether a cancel was asked for while the driver held the request (WdfRequestIsCanceled).
    @_noLocks public func isCancelled() -> Bool { state.load(ordering: .relaxed) & Phase.cancelRequested != 0 }
}
