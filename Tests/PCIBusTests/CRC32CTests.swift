import CHardware
import Testing

@Suite struct CRC32CTests {
    @Test func `the check value of the standard is met`() {
        let text = Array("123456789".utf8)
        #expect(chw_crc32c(0, text, text.count) == 0xe306_9283)
        #expect(chw_crc32c_reference(0, text, text.count) == 0xe306_9283)
    }

    @Test(arguments: [0, 1, 7, 8, 1343, 1344, 4031, 4032, 4033, 8064, 100_001])
    func `the fast path equals the definition at every length where it changes its way`(count: Int) {
        var generator = SystemRandomNumberGenerator()
        let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
        #expect(chw_crc32c(0x1234_5678, bytes, count) == chw_crc32c_reference(0x1234_5678, bytes, count))
    }

    @Test func `pieces give what the whole gives`() {
        let bytes = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        var pieces: UInt32 = 0
        bytes.withUnsafeBytes { all in
            for start in stride(from: 0, to: 10_000, by: 997) {
                pieces = chw_crc32c(pieces, all.baseAddress! + start, min(997, 10_000 - start))
            }
        }
        #expect(pieces == chw_crc32c_reference(0, bytes, bytes.count))
    }
}
