import Glibc

/// What an independent reading of the rules makes of a text.
public enum Reading: Equatable {
    /// The number.
    case value(UInt64)
    /// Data and mask.
    case masked(UInt64, UInt64)
    /// An empty text: nothing.
    case nothing
    /// The errnos the rules admit.
    case refused(Set<CInt>)
}

/// The rules of numbers, put down a second time and otherwise than in the parser: with the string functions of the library.
public enum NumberRules {
    /// One number without blanks.
    public static func number(_ text: Substring, limit: UInt64) -> Reading {
        let forms: [(prefix: String, digits: String, base: Int)] = [
            ("0x", "0123456789abcdef", 16), ("0b", "01", 2), ("0o", "01234567", 8),
        ]
        let low = text.lowercased()
        let form = forms.first { low.hasPrefix($0.prefix) } ?? ("", "0123456789", 10)
        let digits = low.dropFirst(form.prefix.count)
        // A letter that becomes one of these only when it is made small is none.
        guard !digits.isEmpty, text.utf8.allSatisfy({ $0 < 0x80 }), digits.allSatisfy({ form.digits.contains($0) })
        else { return .refused([EINVAL]) }
        if form.base == 10, digits.count > 1, digits.first == "0" { return .refused([EINVAL]) }
        guard let value = UInt64(digits, radix: form.base), value <= limit else { return .refused([ERANGE]) }
        return .value(value)
    }

    /// What was written into a file: blanks around and one newline, or CR LF, forgiven; with `isStore` also `data:mask`.
    public static func line(_ bytes: [UInt8], limit: UInt64, isStore: Bool) -> Reading {
        if bytes.isEmpty { return .nothing }
        // Byte by byte, since in a string CR and LF are one character.
        var text = bytes.map { Character(Unicode.Scalar($0)) }[...]
        if text.last == "\n" {
            text = text.dropLast()
            if text.last == "\r" { text = text.dropLast() }
        }
        while let last = text.last, last == " " || last == "\t" { text = text.dropLast() }
        text = text.drop { $0 == " " || $0 == "\t" }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map { String($0)[...] }
        if parts.count == 1 || !isStore { return number(String(text)[...], limit: limit) }
        // A first number that is too large is found before a second colon is.
        let first = number(parts[0], limit: limit)
        guard parts.count == 2 else { return .refused(first == .refused([ERANGE]) ? [EINVAL, ERANGE] : [EINVAL]) }
        switch (first, number(parts[1], limit: limit)) {
        case (.value(let data), .value(let mask)): return .masked(data, mask)
        case (.refused(let one), .refused(let other)): return .refused(one.union(other))
        case (.refused(let codes), _), (_, .refused(let codes)): return .refused(codes)
        default: return .refused([])
        }
    }

    /// A number with a unit behind it, which is worth so much; `alone` what a number without one is worth. No blanks.
    public static func quantity(_ text: String, units: [String: UInt64], alone: UInt64) -> UInt64? {
        // The longest unit that fits: the end of "ms" is "s".
        let unit = units.keys.filter { text.hasSuffix($0) }.max { $0.utf8.count < $1.utf8.count }
        let digits = text.dropLast(unit?.count ?? 0)
        guard !digits.utf8.contains(where: { $0 <= 0x20 }), case .value(let value) = number(digits, limit: .max) else {
            return nil
        }
        let (product, isTooLarge) = value.multipliedReportingOverflow(by: unit.flatMap { units[$0] } ?? alone)
        return isTooLarge ? nil : product
    }
}
