import CardFS

/// The report for programs. Times are nanoseconds, sizes bytes.
enum BenchJSON {
    static func write(_ report: BenchReport) -> String {
        let conditions = report.conditions
        return JSON.object([
            .init("card", .string(conditions.card)),
            .init("driver", .string(conditions.driver)),
            .init("bus", .string(conditions.bus)),
            .init("simulated", .boolean(conditions.isSimulated)),
            .init("mountpoint", .string(conditions.mountpoint)),
            .init("kernel", .string(conditions.kernel)),
            .init("processor", .string(conditions.processor)),
            .init("processors", .integer(Int64(conditions.processorCount))),
            .init("load", .real(conditions.load ?? .nan)),
            .init("wake_latency_us", conditions.wakeLatency.map { .integer(Int64($0)) } ?? .real(.nan)),
            .init("time", .integer(Int64(conditions.time))),
            .init("throughput", .array(report.throughput.map(throughput))),
            .init("latency", .array(report.latency.map(latency))),
            .init("notes", .array(report.notes.map { .string($0) })),
        ]).description
    }

    private static func throughput(_ figure: ThroughputFigure) -> JSON {
        .object([
            .init("path", .string(figure.path.rawValue)),
            .init("block_size", .integer(Int64(figure.blockSize))),
            .init("streams", .integer(Int64(figure.streams))),
            .init("placement", .string(figure.placement.rawValue)),
            .init("bytes", .integer(Int64(figure.byteCount))),
            .init("seconds", .real(figure.seconds)),
            .init("bytes_per_second", .real(figure.megabytesPerSecond * 1e6)),
            .init("check", .string(figure.check)),
        ])
    }

    private static func latency(_ figure: LatencyFigure) -> JSON {
        func point(_ point: LatencyFigure.Point) -> JSON {
            .array([.real(point.percentile), .integer(Int64(point.nanoseconds))])
        }
        return .object([
            .init("operation", .string(figure.name)),
            .init("placement", .string(figure.placement.rawValue)),
            .init("count", .integer(Int64(figure.count))),
            .init("minimum", .integer(Int64(figure.minimum))),
            .init("maximum", .integer(Int64(figure.maximum))),
            .init("quantiles", .array(figure.quantiles.map(point))),
            .init("distribution", .array(figure.distribution.map(point))),
        ])
    }
}
