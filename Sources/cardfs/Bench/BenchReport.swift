/// What a benchmark found, and under which conditions.
struct BenchReport: Sendable {
    var conditions: BenchConditions
    var throughput: [ThroughputFigure] = []
    var latency: [LatencyFigure] = []
    /// What was left out, and why.
    var notes: [String] = []
}

/// What a reader must know to compare the figures with others.
struct BenchConditions: Sendable {
    var mountpoint: String
    /// PCI address of the card.
    var card: String
    var driver: String
    /// `simulated`, `vfio`.
    var bus: String
    var kernel: String
    var processor: String
    var processorCount: Int
    /// Seconds since 1970.
    var time: Int
    /// Load of the machine in the minute before.
    var load: Double?
    /// Microseconds in which a processor wakes while a file of the card is open; nil when that cannot be seen.
    var wakeLatency: Int32?

    var isSimulated: Bool { bus == "simulated" }
}

/// Bytes moved in a time.
struct ThroughputFigure: Sendable {
    enum Path: String, CaseIterable, Sendable {
        /// Into `dma/tx`; the time ends when fsync has returned.
        case write
        /// Out of `dma/rx`.
        case read
        /// Into `dma/tx` and out of `dma/rx` at once, by two threads, each byte compared.
        case loopback
    }

    var path: Path
    /// Bytes of one call.
    var blockSize: Int
    /// Files open at once, each with a thread.
    var streams: Int
    var placement: Placement
    var byteCount: UInt64
    var seconds: Double
    /// How the bytes were checked.
    var check: String

    /// Millions of bytes in a second.
    var megabytesPerSecond: Double { seconds > 0 ? Double(byteCount) / seconds / 1e6 : 0 }
}

/// How long one operation took, over many.
struct LatencyFigure: Sendable {
    /// A place in the distribution.
    struct Point: Sendable {
        /// 0…100.
        var percentile: Double
        var nanoseconds: UInt64
    }

    var name: String
    var placement: Placement
    var count: UInt64
    var minimum: UInt64
    var maximum: UInt64
    /// 50, 90, 99 and 99.9 %.
    var quantiles: [Point]
    /// The whole distribution, denser towards its end.
    var distribution: [Point]

    func nanoseconds(at percentile: Double) -> UInt64 {
        quantiles.first { $0.percentile == percentile }?.nanoseconds ?? 0
    }
}
