import CHardware

/// Why a text is no number that can be used.
public enum NumberFailure: UInt8, Error, Hashable, Sendable, CustomStringConvertible {
    /// No bytes at all: nothing was written.
    case empty
    /// A newline and nothing else, which is what `echo` without an argument writes.
    case onlyNewline
    /// Anything that is no number: a sign, an underscore, a prefix without digits, garbage, blanks inside.
    case notANumber
    /// A leading zero. A shell and C read `010` as eight, a person reads ten.
    case ambiguousOctal
    /// A number, but more than fits.
    case tooLarge

    /// The errno a writer gets; 0 for ``empty``, since writing nothing does nothing.
    public var code: CInt {
        @_noLocks get {
            switch self {
            case .empty: 0
            case .onlyNewline, .notANumber, .ambiguousOctal: EINVAL
            case .tooLarge: ERANGE
            }
        }
    }

    /// What is wrong, as the end of a sentence whose subject is the text.
    public var description: String {
        switch self {
        case .empty: "is empty"
        case .onlyNewline: "is an empty line"
        case .notANumber: "is not a number"
        case .ambiguousOctal: "is ambiguous: write octal as 0o10 and decimal without the leading zero"
        case .tooLarge: "is too large"
        }
    }
}

extension NumberFailure {
    /// What is wrong with a text, which is quoted, as the end of a sentence whose subject is the text.
    func sentence(_ text: UnsafeRawBufferPointer) -> String {
        let quoted = QuotedText.quotation(text)
        switch self {
        case .empty, .onlyNewline: return description
        case .ambiguousOctal, .tooLarge: return description + ": " + quoted
        case .notANumber: break
        }
        let line = Number.trimmed(text)
        let reason =
            line.contains(UInt8(ascii: "\n"))
            ? " has more than one line"
            : line.contains(0)
                ? " has a NUL byte"
                : line.first == UInt8(ascii: "-") || line.first == UInt8(ascii: "+")
                    ? " has a sign" : line.isEmpty ? " is blank" : ""
        return description + ": " + quoted + reason
    }
}

/// What a text of one number came to. A trivial value, so that the data path may have it.
public enum ParsedNumber: Hashable, Sendable {
    /// The number.
    case value(UInt64)
    /// Why there is none.
    case failure(NumberFailure)
}

/// What the text of a masked write came to.
public enum ParsedStore: Hashable, Sendable {
    /// A number alone: all bits are stored.
    case value(UInt64)
    /// `data:mask`: only the bits set in the mask change.
    case masked(data: UInt64, mask: UInt64)
    /// Why it is neither.
    case failure(NumberFailure)
}

/// The numbers a person writes into a file: decimal, `0x`, `0b` or `0o`, in UTF-8.
///
/// Blanks around the number and one newline at the end, also CR LF, are forgiven, because `echo`, `printf` and files of other
/// systems make them; nothing else is. None of this allocates or locks, so any thread may call it.
public enum Number {
    /// Reads one number, which may be at most `limit`.
    @_noLocks public static func parse(_ text: UnsafeRawBufferPointer, limit: UInt64 = .max) -> ParsedNumber {
        var range = ByteRange(lower: 0, upper: text.count)
        let failure = trim(text, &range)
        guard failure == nil else { return .failure(failure.unsafelyUnwrapped) }
        return digits(text, range, limit: limit)
    }

    /// Reads a number or `data:mask`, both of which may be at most `limit`. No blanks are allowed at the colon.
    @_noLocks public static func parseStore(_ text: UnsafeRawBufferPointer, limit: UInt64 = .max) -> ParsedStore {
        var range = ByteRange(lower: 0, upper: text.count)
        let failure = trim(text, &range)
        guard failure == nil else { return .failure(failure.unsafelyUnwrapped) }
        var colon = range.lower
        while colon < range.upper, text[colon] != UInt8(ascii: ":") { colon &+= 1 }
        switch digits(text, ByteRange(lower: range.lower, upper: colon), limit: limit) {
        case .failure(let failure):
            return .failure(failure)
        case .value(let data):
            guard colon < range.upper else { return .value(data) }
            switch digits(text, ByteRange(lower: colon &+ 1, upper: range.upper), limit: limit) {
            case .failure(let failure): return .failure(failure)
            case .value(let mask): return .masked(data: data, mask: mask)
            }
        }
    }

    /// Reads one number from a string, for options and arguments. Allocates.
    public static func parse(_ text: some StringProtocol, limit: UInt64 = .max) throws(NumberFailure) -> UInt64 {
        var copy = Array(text.utf8)
        let parsed = copy.withUnsafeMutableBytes { parse(UnsafeRawBufferPointer($0), limit: limit) }
        switch parsed {
        case .value(let value): return value
        case .failure(let failure): throw failure
        }
    }

    /// Part of a buffer. (A Range is generic, and what is generic is not checked by `@_noLocks` until it is specialised.)
    struct ByteRange {
        var lower: Int
        var upper: Int

        @_noLocks init(lower: Int, upper: Int) {
            self.lower = lower
            self.upper = upper
        }
    }

    /// Takes away what is forgiven around a number; says why when nothing is left.
    @_noLocks private static func trim(_ text: UnsafeRawBufferPointer, _ range: inout ByteRange) -> NumberFailure? {
        guard range.lower < range.upper else { return .empty }
        if text[range.upper &- 1] == UInt8(ascii: "\n") {
            range.upper &-= 1
            if range.lower < range.upper, text[range.upper &- 1] == UInt8(ascii: "\r") { range.upper &-= 1 }
            if range.lower == range.upper { return .onlyNewline }
        }
        while range.lower < range.upper, isBlank(text[range.upper &- 1]) { range.upper &-= 1 }
        while range.lower < range.upper, isBlank(text[range.lower]) { range.lower &+= 1 }
        return nil
    }

    /// A line without its newline and the blanks around it.
    static func trimmed(_ text: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var range = ByteRange(lower: 0, upper: text.count)
        guard trim(text, &range) == nil else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(rebasing: text[range.lower..<range.upper])
    }

    @_noLocks private static func isBlank(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t")
    }

    /// The value of a digit, 255 for what is none in any base here.
    @_noLocks private static func digit(_ byte: UInt8) -> UInt8 {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte &- UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte &- UInt8(ascii: "a") &+ 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte &- UInt8(ascii: "A") &+ 10
        default: 255
        }
    }

    /// Reads a number that fills `range`. All of it is looked at before it is called too large or ambiguous, so that what
    /// is no number at all is always called that.
    @_noLocks static func digits(_ text: UnsafeRawBufferPointer, _ range: ByteRange, limit: UInt64) -> ParsedNumber {
        var index = range.lower
        var base: UInt64 = 10
        let count = range.upper &- range.lower
        guard count > 0 else { return .failure(.notANumber) }
        if count > 1, text[index] == UInt8(ascii: "0") {
            switch text[index &+ 1] {
            case UInt8(ascii: "x"), UInt8(ascii: "X"): base = 16
            case UInt8(ascii: "b"), UInt8(ascii: "B"): base = 2
            case UInt8(ascii: "o"), UInt8(ascii: "O"): base = 8
            default: break
            }
            if base != 10 { index &+= 2 }
        }
        guard index < range.upper else { return .failure(.notANumber) }
        let first = index
        var value: UInt64 = 0
        var overflowed = false
        while index < range.upper {
            let digit = UInt64(digit(text[index]))
            guard digit < base else { return .failure(.notANumber) }
            let product = value.multipliedReportingOverflow(by: base)
            let sum = product.partialValue.addingReportingOverflow(digit)
            overflowed = overflowed || product.overflow || sum.overflow
            value = sum.partialValue
            index &+= 1
        }
        if base == 10, count > 1, text[first] == UInt8(ascii: "0") { return .failure(.ambiguousOctal) }
        if overflowed || value > limit { return .failure(.tooLarge) }
        return .value(value)
    }
}
