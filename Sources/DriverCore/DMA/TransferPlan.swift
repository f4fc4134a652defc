/// What a finished transfer did, for `dma/plan`. A trivial value, copied on the data path.
public struct TransferPlan: Sendable {
    /// The direction of the transfer.
    public enum Direction: UInt8, Sendable {
        /// Memory to card.
        case toDevice
        /// Card to memory.
        case fromDevice
    }

    /// Which way.
    public var direction: Direction = .toDevice
    /// Through a system buffer rather than from the request's own memory.
    public var isBuffered = false
    /// What memory the bytes lay in.
    public var memory: Memory = .request
    /// Bytes moved.
    public var byteCount = 0
    /// Pages they touched.
    public var pages = 0
    /// Map registers used: 0 in common buffers.
    public var mapRegisters = 0
    /// Descriptors written.
    public var elements = 0
    /// Operations of the card the transfer took: more than one where map registers were fewer than pages.
    public var transfers = 1
    /// How it was moved.
    public var engine = DMAEngine.scatterGather
    /// Bytes copied because the card cannot reach them.
    public var bouncedBytes = 0
    /// When it was made, by the device's clock; 0 while there was none.
    public var time: UInt64 = 0

    /// Memory a transfer can use.
    public enum Memory: UInt8, Sendable {
        /// The FUSE request's own memory.
        case request
        /// A system buffer.
        case system
        /// The receive ring.
        case ring
        /// A common buffer that the bytes were copied into or out of.
        case commonBuffer
    }

    /// No transfer yet.
    @_noLocks public init() {}
}

/// The last transfer that failed, for `dma/last_error`.
public struct TransferFailure: Sendable {
    /// How far it had come: `queued`, `descriptor`, `data`, `completion`.
    public var stage: String
    /// Which way.
    public var direction: TransferPlan.Direction
    /// Bytes done before it failed.
    public var bytesDone: UInt64
    /// Bytes lost.
    public var bytesLost: UInt64
    /// The status.
    public var status: Status
    /// What happened.
    public var cause: String
    /// What to do.
    public var advice: String

    /// Describes a failure.
    public init(
        stage: String,
        direction: TransferPlan.Direction,
        bytesDone: UInt64,
        bytesLost: UInt64,
        status: Status,
        cause: String,
        advice: String
    ) {
        self.stage = stage
        self.direction = direction
        self.bytesDone = bytesDone
        self.bytesLost = bytesLost
        self.status = status
        self.cause = cause
        self.advice = advice
    }

    /// Lines of `name value`.
    public var text: String {
        """
        direction \(direction == .toDevice ? "tx" : "rx")
        stage \(stage)
        status \(status.name)
        bytes_done \(bytesDone)
        bytes_lost \(bytesLost)
        cause \(cause)
        advice \(advice)

        """
    }
}
