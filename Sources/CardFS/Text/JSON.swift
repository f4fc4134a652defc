/// A JSON text (RFC 8259) of values that commands print.
public indirect enum JSON: Hashable, Sendable, CustomStringConvertible {
    /// No value.
    case null
    /// `true` or `false`.
    case boolean(Bool)
    /// A whole number.
    case integer(Int64)
    /// A number; what JSON has no number for becomes null.
    case real(Double)
    /// A text.
    case string(String)
    /// Values in order.
    case array([JSON])
    /// Names and values in order.
    case object([Member])

    /// A name and its value.
    public struct Member: Hashable, Sendable {
        /// The name.
        public var name: String
        /// The value.
        public var value: JSON

        /// Makes a member.
        public init(_ name: String, _ value: JSON) {
            self.name = name
            self.value = value
        }
    }

    /// The string, or null for nil.
    public static func text(_ text: String?) -> JSON { text.map { .string($0) } ?? .null }

    /// The text, indented by two blanks, without a newline at the end.
    public var description: String { written(indentation: "") }

    private func written(indentation: String) -> String {
        let deeper = indentation + "  "
        func list(_ items: [String], _ open: String, _ close: String) -> String {
            guard !items.isEmpty else { return open + close }
            return open + "\n" + items.map { deeper + $0 }.joined(separator: ",\n") + "\n" + indentation + close
        }
        switch self {
        case .null: return "null"
        case .boolean(let value): return value ? "true" : "false"
        case .integer(let value): return String(value)
        case .real(let value): return value.isFinite ? String(value) : "null"
        case .string(let text): return Self.quoted(text)
        case .array(let values): return list(values.map { $0.written(indentation: deeper) }, "[", "]")
        case .object(let members):
            return list(
                members.map { "\(Self.quoted($0.name)): \($0.value.written(indentation: deeper))" },
                "{",
                "}"
            )
        }
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
