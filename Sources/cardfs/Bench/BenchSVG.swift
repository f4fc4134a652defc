import CardFS
import Glibc

/// The report as a picture: throughput over block size, and the distribution of each latency.
enum BenchSVG {
    static func write(_ report: BenchReport) -> String {
        var drawing = Drawing()
        let conditions = report.conditions
        drawing.text(
            40,
            34,
            "cardfs: \(conditions.card), \(conditions.driver), \(conditions.bus) bus",
            size: 18,
            weight: "600"
        )
        drawing.text(
            40,
            54,
            "\(conditions.processorCount) × \(conditions.processor), Linux \(conditions.kernel). "
                + (conditions.isSimulated ? "Figures of the software above a simulated card." : "A real card."),
            size: 12,
            color: "#57606a"
        )
        if !report.throughput.isEmpty { throughput(report.throughput, &drawing, top: 84) }
        if !report.latency.isEmpty { latency(report.latency, &drawing, top: report.throughput.isEmpty ? 84 : 444) }
        let isWhole = !report.throughput.isEmpty && !report.latency.isEmpty
        return drawing.document(width: 960, height: isWhole ? 800 : 440)
    }

    // Colours that stay apart for the colour-blind, and line patterns for print.
    private static let colors = [
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#f0a000",
    ]

    // MARK: Throughput

    private static func throughput(_ figures: [ThroughputFigure], _ drawing: inout Drawing, top: Double) {
        let sizes = Set(figures.map(\.blockSize)).sorted()
        let most = figures.map(\.megabytesPerSecond).max() ?? 1
        let frame = Frame(left: 90, top: top + 30, width: 560, height: 250)
        let step = niceStep(most / 5)
        let ceiling = max(step, (most / step).rounded(.up) * step)
        drawing.text(40, top + 14, "Throughput, MB/s, by block size (every byte checked)", size: 14, weight: "600")
        for line in 0...Int((ceiling / step).rounded()) {
            let value = Double(line) * step
            let y = frame.y(value / ceiling)
            drawing.line(frame.left, y, frame.right, y, color: "#d8dee4")
            drawing.text(frame.left - 8, y + 4, BenchText.decimal(value, digits: 0), anchor: "end")
        }
        func x(_ size: Int) -> Double {
            frame.x(sizes.count < 2 ? 0.5 : Double(sizes.firstIndex(of: size) ?? 0) / Double(sizes.count - 1))
        }
        for size in sizes { drawing.text(x(size), frame.bottom + 18, BenchText.size(size), anchor: "middle") }
        var keys: [String] = []
        for figure in figures where !keys.contains(BenchText.key(figure)) { keys.append(BenchText.key(figure)) }
        for (index, key) in keys.enumerated() {
            let points = figures.filter { BenchText.key($0) == key }.sorted { $0.blockSize < $1.blockSize }
                .map { (x($0.blockSize), frame.y($0.megabytesPerSecond / ceiling)) }
            let color = colors[index % colors.count]
            drawing.polyline(points, color: color, dash: index % 2 == 0 ? nil : "6 3")
            for point in points { drawing.circle(point.0, point.1, color: color) }
            legend(key, index, frame, color, &drawing, dash: index % 2 == 0 ? nil : "6 3")
        }
    }

    // MARK: Latency

    /// The axis of HdrHistogram's plots: each nine takes as much room as the one before.
    private static func latency(_ figures: [LatencyFigure], _ drawing: inout Drawing, top: Double) {
        let frame = Frame(left: 90, top: top + 30, width: 560, height: 250)
        let nines = 4.0
        drawing.text(40, top + 14, "Latency, µs, by percentile (both axes logarithmic)", size: 14, weight: "600")
        // Decades of time.
        let least = log10(max(1, Double(figures.map { $0.quantiles.first?.nanoseconds ?? 1 }.min() ?? 1))).rounded(
            .down
        )
        let most = log10(max(10, Double(figures.map(\.maximum).max() ?? 10))).rounded(.up)
        let decades = max(1, most - least)
        func y(_ nanoseconds: UInt64) -> Double { frame.y((log10(max(1, Double(nanoseconds))) - least) / decades) }
        for decade in Int(least)...Int(most) {
            let value = pow(10, Double(decade))
            let place = y(UInt64(value))
            drawing.line(frame.left, place, frame.right, place, color: "#d8dee4")
            let label =
                value < 1000
                ? BenchText.decimal(value / 1000, digits: 3 - decade) : BenchText.decimal(value / 1000, digits: 0)
            drawing.text(frame.left - 8, place + 4, label, anchor: "end")
        }
        func x(_ percentile: Double) -> Double {
            let rest = max(1 - percentile / 100, pow(10, -nines))
            return frame.x(min(1, -log10(rest) / nines))
        }
        for (percentile, label) in [
            (0.0, "0"), (50, "50 %"), (90, "90 %"), (99, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %"),
        ] {
            drawing.line(x(percentile), frame.top, x(percentile), frame.bottom, color: "#eef1f4")
            drawing.text(x(percentile), frame.bottom + 18, label, anchor: "middle")
        }
        var names: [String] = []
        for figure in figures where !names.contains(figure.name) { names.append(figure.name) }
        for (index, figure) in figures.enumerated() {
            let color = colors[(names.firstIndex(of: figure.name) ?? 0) % colors.count]
            let dash: String? =
                switch figure.placement {
                case .free: nil
                case .same: "7 3"
                case .other: "2 3"
                }
            let points = figure.distribution.filter { $0.percentile < 100 - 100 * pow(10, -nines) }
                .map { (x($0.percentile), y($0.nanoseconds)) }
            drawing.polyline(points, color: color, dash: dash)
            legend("\(figure.name), \(figure.placement.words)", index, frame, color, &drawing, dash: dash)
        }
    }

    private static func legend(
        _ text: String,
        _ index: Int,
        _ frame: Frame,
        _ color: String,
        _ drawing: inout Drawing,
        dash: String?
    ) {
        let y = frame.top + 8 + Double(index) * 20
        drawing.polyline([(frame.right + 14, y), (frame.right + 40, y)], color: color, dash: dash)
        drawing.text(frame.right + 46, y + 4, text)
    }

    /// A step of 1, 2 or 5 times a power of ten, not below `least`.
    static func niceStep(_ least: Double) -> Double {
        let magnitude = pow(10, log10(max(least, 1e-9)).rounded(.down))
        return [1, 2, 5, 10].map { $0 * magnitude }.first { $0 >= least } ?? 10 * magnitude
    }

    private struct Frame {
        var left, top, width, height: Double
        var right: Double { left + width }
        var bottom: Double { top + height }
        func x(_ part: Double) -> Double { left + part * width }
        func y(_ part: Double) -> Double { bottom - part * height }
    }

    /// The elements of an SVG document.
    private struct Drawing {
        private var elements: [String] = []

        private func number(_ value: Double) -> String { BenchText.decimal(value, digits: 1) }

        private func escaped(_ text: String) -> String {
            text.reduce(into: "") { result, character in
                switch character {
                case "&": result += "&amp;"
                case "<": result += "&lt;"
                case ">": result += "&gt;"
                case "\"": result += "&quot;"
                default: result.append(character)
                }
            }
        }

        mutating func text(
            _ x: Double,
            _ y: Double,
            _ text: String,
            size: Int = 12,
            weight: String = "400",
            color: String = "#1f2328",
            anchor: String = "start"
        ) {
            elements.append(
                "<text x=\"\(number(x))\" y=\"\(number(y))\" font-size=\"\(size)\" font-weight=\"\(weight)\" fill=\"\(color)\" "
                    + "text-anchor=\"\(anchor)\">\(escaped(text))</text>"
            )
        }

        mutating func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, color: String) {
            elements.append(
                "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" stroke=\"\(color)\"/>"
            )
        }

        mutating func polyline(_ points: [(Double, Double)], color: String, dash: String?) {
            let places = points.map { "\(number($0.0)),\(number($0.1))" }.joined(separator: " ")
            let pattern = dash.map { " stroke-dasharray=\"\($0)\"" } ?? ""
            elements.append(
                "<polyline points=\"\(places)\" fill=\"none\" stroke=\"\(color)\" stroke-width=\"2\"\(pattern)/>"
            )
        }

        mutating func circle(_ x: Double, _ y: Double, color: String) {
            elements.append("<circle cx=\"\(number(x))\" cy=\"\(number(y))\" r=\"3\" fill=\"\(color)\"/>")
        }

        func document(width: Int, height: Int) -> String {
            """
            <svg xmlns="http://www.w3.org/2000/svg" width="\(width)" height="\(height)" viewBox="0 0 \(width) \(height)" \
            font-family="system-ui, sans-serif">
            <rect width="100%" height="100%" fill="#ffffff"/>
            \(elements.joined(separator: "\n"))
            </svg>

            """
        }
    }
}
