/// Text that came from a user or a card, made fit to be shown on a terminal and in a log: one line, whatever was in it.
///
/// What could steer a terminal, forge a line, or change the order in which a line is read is written as the bytes it consists of,
/// in octal as mountinfo writes them: control characters (ESC is `\033`), the controls of Unicode and those that have no
/// picture of their own (U+202E is `\342\200\256`), and bytes that are no UTF-8.
public enum QuotedText {
    /// The most bytes of a quotation; what is longer is cut, and ends with `...`.
    public static let quotationLimit = 80

    /// A whole sentence or line. What was escaped before stays as it is.
    public static func line(_ text: String) -> String { escaped(text.utf8, { _ in false }) }

    /// A text of lines, each of which ends with a newline.
    public static func lines(_ text: String) -> String {
        text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .map { escaped($0, { _ in false }) }.joined(separator: "\n")
    }

    /// A field among blanks, such as a path: blanks and the backslash are escaped too, so that fields can be counted.
    public static func field(_ text: String) -> String { escaped(text.utf8) { $0 == 0x20 || $0 == 0x5c } }

    /// What somebody wrote, between quotation marks, cut to ``quotationLimit``. The backslash and the quotation mark are escaped
    /// too, so that the end of the quotation cannot be forged.
    public static func quotation(_ bytes: some Sequence<UInt8>) -> String {
        let all = Array(bytes)
        var kept = all.prefix(quotationLimit)
        // A character is not cut.
        if all.count > kept.count { while let last = kept.last, last & 0xc0 == 0x80 { kept.removeLast() } }
        if all.count > kept.count, let last = kept.last, last >= 0xc0 { kept.removeLast() }
        let text = escaped(kept) { $0 == 0x22 || $0 == 0x5c }
        return "\"\(text)\"" + (all.count > kept.count ? "..." : "")
    }

    /// As ``quotation(_:)``, of a text.
    public static func quotation(_ text: String) -> String { quotation(text.utf8) }

    private static func escaped(_ text: some Sequence<UInt8>, _ isEscaped: (UInt8) -> Bool) -> String {
        let bytes = Array(text)
        var result = ""
        var at = bytes.startIndex
        while at < bytes.endIndex {
            let first = bytes[at]
            if first < 0x80 {
                if first < 0x20 || first == 0x7f || isEscaped(first) {
                    result += octal(first)
                } else {
                    result.unicodeScalars.append(Unicode.Scalar(first))
                }
                at += 1
                continue
            }
            let length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2
            let character = bytes[at..<min(at + length, bytes.endIndex)]
            if first >= 0xc0, let valid = String(validating: character, as: UTF8.self), valid.unicodeScalars.count == 1,
                let scalar = valid.unicodeScalars.first, hasPicture(scalar)
            {
                result.unicodeScalars.append(scalar)
                at += length
            } else if first >= 0xc0, String(validating: character, as: UTF8.self) != nil {
                for byte in character { result += octal(byte) }
                at += character.count
            } else {
                result += octal(first)
                at += 1
            }
        }
        return result
    }

    private static func hasPicture(_ scalar: Unicode.Scalar) -> Bool {
        guard !scalar.properties.isDefaultIgnorableCodePoint else { return false }
        return switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .spaceSeparator, .surrogate, .privateUse,
            .unassigned:
            false
        default: true
        }
    }

    private static func octal(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 8)
        return "\\" + String(repeating: "0", count: 3 - digits.utf8.count) + digits
    }
}
