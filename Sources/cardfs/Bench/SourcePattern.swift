/// What `sim/wire` = `source` sends: little-endian 64-bit word k is k times this constant, modulo 2⁶⁴. Each word tells its
/// own place, so that the bytes of several readers can be put in order.
enum SourcePattern {
    static let multiplier: UInt64 = 0x9E37_79B9_7F4A_7C15

    /// The number that undoes the multiplication; Newton's iteration doubles the right bits each time.
    static let inverse: UInt64 = {
        var inverse = multiplier
        for _ in 0..<6 { inverse = inverse &* (2 &- multiplier &* inverse) }
        return inverse
    }()

    /// The words of a buffer, if all follow each other; nil if one does not, or if the buffer is not of whole words.
    static func range(of bytes: UnsafeRawBufferPointer) -> Range<UInt64>? {
        guard bytes.count >= 8, bytes.count % 8 == 0 else { return nil }
        let first = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self)) &* inverse
        var expected = first &* multiplier
        for offset in stride(from: 0, to: bytes.count, by: 8) {
            guard UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) == expected else {
                return nil
            }
            expected &+= multiplier
        }
        let count = UInt64(bytes.count / 8)
        guard first <= UInt64.max - count else { return nil }
        return first..<first + count
    }

    /// The kernel cuts longer blocks into requests of this size, which several streams mix.
    static let pieceByteCount = 1 << 20

    /// The words of a buffer, a range for each piece of it; nil if words of a piece do not follow each other.
    static func ranges(of bytes: UnsafeRawBufferPointer) -> [Range<UInt64>]? {
        var ranges: [Range<UInt64>] = []
        for start in stride(from: 0, to: bytes.count, by: pieceByteCount) {
            let piece = bytes[start..<min(bytes.count, start + pieceByteCount)]
            guard let range = range(of: UnsafeRawBufferPointer(rebasing: piece)) else { return nil }
            ranges.append(range)
        }
        return ranges
    }

    /// Fills a buffer with the words from `first` on.
    static func fill(_ bytes: UnsafeMutableRawBufferPointer, from first: UInt64) {
        var word = first &* multiplier
        for offset in stride(from: 0, to: bytes.count - 7, by: 8) {
            bytes.storeBytes(of: word.littleEndian, toByteOffset: offset, as: UInt64.self)
            word &+= multiplier
        }
    }

    /// Whether ranges that readers got make one range without a gap, and none was got twice.
    static func isWhole(_ ranges: [Range<UInt64>]) -> Bool {
        let sorted = ranges.sorted { $0.lowerBound < $1.lowerBound }
        return zip(sorted, sorted.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound }
    }
}
