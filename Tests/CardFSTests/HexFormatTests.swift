import CProbe
import CardFS
import Testing

@Suite struct HexFormatTests {
    private func text(_ body: (UnsafeMutableRawBufferPointer) -> Int) -> String {
        var bytes = [UInt8](repeating: 0xee, count: HexFormat.capacity)
        let length = bytes.withUnsafeMutableBytes(body)
        return String(decoding: bytes[..<length], as: UTF8.self)
    }

    @Test(arguments: [
        (0, "0x00000000\n"), (0x20010, "0x00020010\n"), (0xdead_beef, "0xdeadbeef\n"), (UInt32.max, "0xffffffff\n"),
    ])
    func `a 32-bit register is a line of eight digits`(value: UInt32, line: String) {
        #expect(text { HexFormat.line32(value, into: $0) } == line)
    }

    @Test func `an address is a line of sixteen digits`() {
        #expect(text { HexFormat.line64(0xfe00_0000, into: $0) } == "0x00000000fe000000\n")
        #expect(text { HexFormat.line64(.max, into: $0) } == "0xffffffffffffffff\n")
    }

    @Test(arguments: [
        (0x10ee, 4, false, "0x10ee"), (0x5, 2, false, "0x05"), (0x5, 2, true, "0x05\n"), (0x12345, 4, false, "0x12345"),
        (0, 1, true, "0x0\n"), (UInt64.max, 1, true, "0xffffffffffffffff\n"),
    ])
    func `hexadecimal has at least the digits asked for`(value: UInt64, digits: Int, newline: Bool, expected: String) {
        #expect(text { HexFormat.hexadecimal(value, digits: digits, newline: newline, into: $0) } == expected)
    }

    @Test(arguments: [0, 1, 9, 10, 99, 100, 12345, UInt64.max])
    func `decimal is as Swift writes it`(value: UInt64) {
        #expect(text { HexFormat.decimal(value, newline: false, into: $0) } == String(value))
        #expect(text { HexFormat.decimal(value, newline: true, into: $0) } == "\(value)\n")
    }

    @Test func `formatting and parsing allocate nothing`() {
        guard cprobe_available() == 1 else { return }
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: HexFormat.capacity, alignment: 8)
        defer { bytes.deallocate() }
        func body() -> UInt64 {
            let length = HexFormat.line64(0x1234_5678_9abc_def0, into: bytes)
            guard case .value(let value) = Number.parse(UnsafeRawBufferPointer(rebasing: bytes[..<length])) else {
                return 0
            }
            return value
        }
        var sum = body()
        cprobe_start()
        for _ in 0..<1000 { sum &+= body() }
        let counts = cprobe_stop()
        #expect(sum == 1001 &* 0x1234_5678_9abc_def0)
        #expect(counts.allocations == 0 && counts.retains == 0)
    }
}
