import CardFS
import Glibc

/// The report for a person at a terminal.
enum BenchText {
    static func write(_ report: BenchReport) -> String {
        var lines = conditions(report.conditions)
        if !report.throughput.isEmpty { lines += [""] + throughput(report.throughput) }
        if !report.latency.isEmpty { lines += [""] + latency(report.latency) }
        if !report.notes.isEmpty { lines += [""] + report.notes.map { "note: " + $0 } }
        return lines.joined(separator: "\n")
    }

    /// How soon processors wake.
    private static func wakeUp(_ microseconds: Int32?) -> String {
        // What the kernel says when nobody asks for anything.
        let words = microseconds.map { $0 >= 2_000_000_000 ? "no limit asked for" : "within \($0) µs" }
        return "wake-up     " + (words ?? "not known: only root sees it")
    }

    /// What the figures are figures of.
    static func conditions(_ conditions: BenchConditions) -> [String] {
        [
            "card        \(conditions.card), driver \(conditions.driver), bus \(conditions.bus)",
            "machine     \(conditions.processorCount) processors, \(conditions.processor), Linux \(conditions.kernel), load \(conditions.load.map { "\($0)" } ?? "unknown")",
            wakeUp(conditions.wakeLatency),
            scope(conditions),
        ]
    }

    static func scope(_ conditions: BenchConditions) -> String {
        conditions.isSimulated
            ? "scope       the software above a simulated card: no link, no silicon"
            : "scope       a real card behind \(conditions.bus), with everything between it and the file"
    }

    private static func throughput(_ figures: [ThroughputFigure]) -> [String] {
        let sizes = Set(figures.map(\.blockSize)).sorted()
        var keys: [String] = []
        for figure in figures where !keys.contains(key(figure)) { keys.append(key(figure)) }
        let rows = keys.map { key in
            [key]
                + sizes.map { size in
                    figures.first { Self.key($0) == key && $0.blockSize == size }.map {
                        decimal($0.megabytesPerSecond, digits: $0.megabytesPerSecond < 100 ? 1 : 0)
                    } ?? "-"
                }
        }
        return table([["MB/s (10^6 bytes), every byte checked"] + sizes.map(size)] + rows)
    }

    static func key(_ figure: ThroughputFigure) -> String {
        let streams = figure.streams == 1 ? "1 stream" : "\(figure.streams) streams"
        switch figure.path {
        case .write: return "into dma/tx, \(streams), \(figure.placement.words)"
        case .read: return "out of dma/rx, \(streams), \(figure.placement.words)"
        case .loopback: return "both at once, \(figure.placement.words)"
        }
    }

    private static func latency(_ figures: [LatencyFigure]) -> [String] {
        table(
            [["µs", "p50", "p90", "p99", "p99.9", "max", "samples"]]
                + figures.map { figure in
                    ["\(figure.name), \(figure.placement.words)"]
                        + figure.quantiles.map { microseconds($0.nanoseconds) }
                        + [microseconds(figure.maximum), String(figure.count)]
                }
        )
    }

    /// A block size as people write it.
    static func size(_ byteCount: Int) -> String {
        byteCount >= 1 << 20 ? "\(byteCount >> 20)M" : byteCount >= 1 << 10 ? "\(byteCount >> 10)K" : "\(byteCount)"
    }

    static func microseconds(_ nanoseconds: UInt64) -> String { decimal(Double(nanoseconds) / 1000, digits: 1) }

    /// A number with so many digits behind the point.
    static func decimal(_ value: Double, digits: Int) -> String {
        let scale = pow(10, Double(digits))
        let rounded = (value * scale).rounded()
        guard digits > 0 else { return String(Int(rounded)) }
        let whole = Int(rounded / scale)
        let rest = String(Int(abs(rounded)) % Int(scale))
        return "\(whole)." + String(repeating: "0", count: digits - rest.count) + rest
    }

    /// Columns, the first to the left and the others to the right.
    private static func table(_ rows: [[String]]) -> [String] {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            row.indices.map { column in
                let padding = String(repeating: " ", count: widths[column] - row[column].count)
                return column == 0 ? row[column] + padding : padding + row[column]
            }.joined(separator: "  ")
        }
    }
}
