import CardFS
import Glibc
import Testing

/// The bytes of a string, for parsers that take what was written.
func withBytes<T>(_ text: String, _ body: (UnsafeRawBufferPointer) -> T) -> T {
    Array(text.utf8).withUnsafeBytes(body)
}

@Suite struct NumberTests {
    @Test(arguments: [
        ("0", 0), ("5", 5), ("5\n", 5), (" 5 ", 5), ("\t 5 \t\n", 5), ("5\r\n", 5), ("5 \r\n", 5), ("10", 10),
        ("0x0", 0), ("0x20010", 0x20010),
        ("0XfF", 255), ("0b1010", 10), ("0o17", 15), ("0x0000000000000000000001", 1), ("0b0", 0), ("0o0", 0),
        ("18446744073709551615", UInt64.max), ("0xffffffffffffffff", UInt64.max),
    ])
    func `a number is read in four bases, blanks around it and one newline forgiven`(text: String, value: UInt64) {
        #expect(withBytes(text) { Number.parse($0) } == .value(value))
    }

    @Test(arguments: [
        " ", " \n", "\n\n", "5\n\n", "5\n ", "\n5", "x", "-1", "+1", "1_000", "0x", "0b", "0o", "0b2", "0o8", "5 6",
        "0x 5",
        "5x", "0x1g", "1e3", "1.0", "5\r", "5\r\r\n", "5\n\r\n", "5\0", "５", "0x-1", "99999999999999999999999x", "01x",
        "5:6", "NaN",
        "\u{feff}5",
    ])
    func `what is no number is refused`(text: String) {
        #expect(withBytes(text) { Number.parse($0) } == .failure(.notANumber))
    }

    @Test(arguments: ["010", "00", "08", "0123456789", "010\n", " 010 ", "099999999999999999999999"])
    func `a leading zero is refused as ambiguous`(text: String) {
        #expect(withBytes(text) { Number.parse($0) } == .failure(.ambiguousOctal))
    }

    @Test(arguments: ["18446744073709551616", "0x10000000000000000", "99999999999999999999999999"])
    func `more than 64 bits is too large`(text: String) {
        #expect(withBytes(text) { Number.parse($0) } == .failure(.tooLarge))
    }

    @Test func `more than the limit is too large`() {
        #expect(withBytes("0xffffffff") { Number.parse($0, limit: 0xffff_ffff) } == .value(0xffff_ffff))
        #expect(withBytes("0x100000000") { Number.parse($0, limit: 0xffff_ffff) } == .failure(.tooLarge))
        #expect(withBytes("256") { Number.parse($0, limit: 255) } == .failure(.tooLarge))
    }

    @Test func `nothing and a bare newline are told apart`() {
        #expect(withBytes("") { Number.parse($0) } == .failure(.empty))
        #expect(withBytes("\n") { Number.parse($0) } == .failure(.onlyNewline))
        #expect(withBytes("\r\n") { Number.parse($0) } == .failure(.onlyNewline))
        #expect(Number.parse(UnsafeRawBufferPointer(start: nil, count: 0)) == .failure(.empty))
    }

    @Test(arguments: [
        ("5\n", ParsedStore.value(5)), ("0xff:0x0f\n", .masked(data: 0xff, mask: 0x0f)),
        (" 1:2 ", .masked(data: 1, mask: 2)),
        ("0:0", .masked(data: 0, mask: 0)), ("1: 2", .failure(.notANumber)), ("1 :2", .failure(.notANumber)),
        (":2", .failure(.notANumber)), ("1:", .failure(.notANumber)), ("1:2:3", .failure(.notANumber)),
        (":", .failure(.notANumber)), ("010:1", .failure(.ambiguousOctal)), ("1:010", .failure(.ambiguousOctal)),
        ("0x100000000:1", .failure(.tooLarge)), ("1:0x100000000", .failure(.tooLarge)), ("", .failure(.empty)),
        ("\n", .failure(.onlyNewline)),
    ])
    func `a masked store is two numbers and a colon`(text: String, store: ParsedStore) {
        #expect(withBytes(text) { Number.parseStore($0, limit: 0xffff_ffff) } == store)
    }

    @Test func `each failure has its errno`() {
        #expect(NumberFailure.empty.code == 0)
        #expect(NumberFailure.onlyNewline.code == EINVAL)
        #expect(NumberFailure.notANumber.code == EINVAL)
        #expect(NumberFailure.ambiguousOctal.code == EINVAL)
        #expect(NumberFailure.tooLarge.code == ERANGE)
    }
}
