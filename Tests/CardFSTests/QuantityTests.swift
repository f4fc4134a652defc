import CardFS
import Testing

@Suite struct QuantityTests {
    @Test(arguments: [
        ("10s", 10_000_000_000), ("10ms", 10_000_000), ("500us", 500_000), ("100ns", 100), ("2", 2_000_000_000),
        ("0", 0),
        ("0s", 0), ("0x10ms", 16_000_000),
    ])
    func `a time is nanoseconds, and seconds when it has no unit`(text: String, value: UInt64) throws {
        #expect(try Quantity.nanoseconds(text) == value)
    }

    @Test(arguments: [("16384", 16384), ("16K", 16384), ("16k", 16384), ("1M", 1 << 20), ("2G", 2 << 30), ("0", 0)])
    func `a size is bytes, and its letters are powers of 1024`(text: String, value: UInt64) throws {
        #expect(try Quantity.bytes(text) == value)
    }

    @Test(arguments: [
        ("", NumberFailure.empty), ("s", .empty), ("ms", .empty), ("10 ms", .notANumber), (" 10ms", .notANumber),
        ("10m", .notANumber), ("10h", .notANumber), ("1.5s", .notANumber), ("-1s", .notANumber),
        ("010s", .ambiguousOctal),
        ("18446744073709551615s", .tooLarge), ("10s\n", .notANumber), ("10sms", .notANumber),
    ])
    func `what is no time is refused`(text: String, failure: NumberFailure) {
        #expect(throws: failure) { try Quantity.nanoseconds(text) }
    }

    @Test(arguments: [
        ("", NumberFailure.empty), ("K", .empty), ("16KB", .notANumber), ("1T", .notANumber), ("16 K", .notANumber),
        ("18014398509481984K", .tooLarge),
    ])
    func `what is no size is refused`(text: String, failure: NumberFailure) {
        #expect(throws: failure) { try Quantity.bytes(text) }
    }
}
