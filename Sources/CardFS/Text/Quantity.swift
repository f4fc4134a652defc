/// Durations and sizes as options write them.
public enum Quantity {
    /// Nanoseconds of `10s`, `10ms`, `500us`, `100ns`; a number alone is seconds. What 0 means is the option's business.
    public static func nanoseconds(_ text: some StringProtocol) throws(NumberFailure) -> UInt64 {
        let units: [(suffix: String, factor: UInt64)] = [
            ("ns", 1), ("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000),
        ]
        return try scaled(text, units: units, alone: 1_000_000_000)
    }

    /// Bytes of `16384`, `16K`, `1M`, `2G`; the letters are powers of 1024, as dd has them, in either case.
    public static func bytes(_ text: some StringProtocol) throws(NumberFailure) -> UInt64 {
        let units: [(suffix: String, factor: UInt64)] = [
            ("K", 1 << 10), ("k", 1 << 10), ("M", 1 << 20), ("m", 1 << 20), ("G", 1 << 30), ("g", 1 << 30),
        ]
        return try scaled(text, units: units, alone: 1)
    }

    private static func scaled(
        _ text: some StringProtocol,
        units: [(suffix: String, factor: UInt64)],
        alone: UInt64
    ) throws(NumberFailure) -> UInt64 {
        var digits = Substring(text)
        var factor = alone
        if let unit = units.first(where: { text.hasSuffix($0.suffix) }) {
            digits = digits.dropLast(unit.suffix.count)
            factor = unit.factor
        }
        // What is forgiven around a number in a file ("5 \n") is a slip of the pen in an option.
        guard !digits.contains(where: \.isWhitespace) else { throw .notANumber }
        let value = try Number.parse(digits)
        let product = value.multipliedReportingOverflow(by: factor)
        guard !product.overflow else { throw .tooLarge }
        return product.partialValue
    }
}
