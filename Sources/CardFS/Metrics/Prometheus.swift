/// A family of the Prometheus text format: one name, and a sample for each set of labels.
public struct Metric: Hashable, Sendable {
    /// What a sample's number means.
    public enum Kind: String, Hashable, Sendable {
        /// Only rises, until the mount ends.
        case counter
        /// Rises and falls.
        case gauge
    }

    /// A sample's number.
    public enum Value: Hashable, Sendable {
        /// A count.
        case integer(UInt64)
        /// A measure, in the unit that the name ends with.
        case real(Double)
    }

    /// One number, with the labels that tell it from the family's others.
    public struct Sample: Hashable, Sendable {
        /// Names and values, in the order they are written.
        public var labels: [Label]
        /// The number.
        public var value: Value

        /// Makes a sample.
        public init(_ value: Value, labels: [Label] = []) {
            self.labels = labels
            self.value = value
        }
    }

    /// A label of a sample.
    public struct Label: Hashable, Sendable {
        /// Letters, digits and `_`.
        public var name: String
        /// Any text.
        public var value: String

        /// Makes a label.
        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    /// Letters, digits, `_` and `:`; a counter's ends in `_total`.
    public var name: String
    /// One line on what is counted, and its unit.
    public var help: String
    /// What the numbers mean.
    public var kind: Kind
    /// The numbers.
    public var samples: [Sample]

    /// Makes a family.
    public init(_ name: String, _ kind: Kind, help: String, samples: [Sample]) {
        self.name = name
        self.help = help
        self.kind = kind
        self.samples = samples
    }

    /// Makes a family of one count without labels.
    public init(_ name: String, _ kind: Kind, help: String, _ count: UInt64) {
        self.init(name, kind, help: help, samples: [Sample(.integer(count))])
    }
}

/// The text exposition format, version 0.0.4, as node_exporter's textfile collector takes it: no time stamps, each family
/// once with its HELP and TYPE above it, each set of labels once in a family.
public enum PrometheusText {
    /// Writes families in the order of their first appearance. Families of one name become one; of two samples with the
    /// same labels the later one counts. Allocates; any thread.
    public static func write(_ metrics: [Metric]) -> String {
        var families: [Metric] = []
        var places: [String: Int] = [:]
        for metric in metrics {
            let name = identifier(metric.name, colons: true)
            if let place = places[name] {
                families[place].samples += metric.samples
            } else {
                places[name] = families.count
                var family = metric
                family.name = name
                families.append(family)
            }
        }
        return families.map(write).joined()
    }

    private static func write(_ family: Metric) -> String {
        var text = "# HELP \(family.name) \(escaped(family.help, quotes: false))\n"
        text += "# TYPE \(family.name) \(family.kind.rawValue)\n"
        var lines: [(key: String, value: String)] = []
        var places: [String: Int] = [:]
        for sample in family.samples {
            let key = family.name + write(sample.labels)
            if let place = places[key] {
                lines[place].value = write(sample.value)
            } else {
                places[key] = lines.count
                lines.append((key, write(sample.value)))
            }
        }
        for line in lines { text += "\(line.key) \(line.value)\n" }
        return text
    }

    private static func write(_ labels: [Metric.Label]) -> String {
        guard !labels.isEmpty else { return "" }
        let pairs = labels.map { "\(identifier($0.name, colons: false))=\"\(escaped($0.value, quotes: true))\"" }
        return "{" + pairs.joined(separator: ",") + "}"
    }

    private static func write(_ value: Metric.Value) -> String {
        switch value {
        case .integer(let count): String(count)
        case .real(let number) where number.isNaN: "NaN"
        case .real(let number) where number.isInfinite: number < 0 ? "-Inf" : "+Inf"
        case .real(let number): String(number)
        }
    }

    /// A name the format allows: what is not allowed becomes `_`, so that one odd name does not spoil the whole file.
    private static func identifier(_ name: String, colons: Bool) -> String {
        var result: [UInt8] = []
        for byte in name.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"):
                result.append(byte)
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                if result.isEmpty { result.append(UInt8(ascii: "_")) }
                result.append(byte)
            case UInt8(ascii: ":") where colons:
                result.append(byte)
            default:
                result.append(UInt8(ascii: "_"))
            }
        }
        return result.isEmpty ? "_" : String(decoding: result, as: UTF8.self)
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): result += Array("\\\\".utf8)
            case UInt8(ascii: "\n"): result += Array("\\n".utf8)
            case UInt8(ascii: "\"") where quotes: result += Array("\\\"".utf8)
            default: result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}
