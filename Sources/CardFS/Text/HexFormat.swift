/// Numbers as text, written into the caller's bytes. Neither allocates nor locks, so any thread may call it.
public enum HexFormat {
    /// Bytes that are enough for any text made here: 20 decimal digits and a newline.
    public static let capacity = 24

    /// Writes `0x`, at least `digits` lower-case hexadecimal digits, and a newline if wanted; like `%#0*x`, a value that
    /// needs more digits gets them. Returns the length. Traps when `buffer` is smaller than ``capacity``.
    @_noLocks public static func hexadecimal(
        _ value: UInt64,
        digits: Int,
        newline: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        precondition(buffer.count >= capacity && digits >= 1 && digits <= 16)
        let needed = (64 &- value.leadingZeroBitCount &+ 3) >> 2
        let count = needed > digits ? needed : digits
        buffer[0] = UInt8(ascii: "0")
        buffer[1] = UInt8(ascii: "x")
        var rest = value
        var index = count
        while index > 0 {
            index &-= 1
            let nibble = UInt8(truncatingIfNeeded: rest & 0xf)
            buffer[2 &+ index] = nibble < 10 ? UInt8(ascii: "0") &+ nibble : UInt8(ascii: "a") &+ nibble &- 10
            rest >>= 4
        }
        return end(2 &+ count, newline, buffer)
    }

    /// Writes `0x%08x\n`: a 32-bit register. Returns the length, 11.
    @_noLocks public static func line32(_ value: UInt32, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        hexadecimal(UInt64(value), digits: 8, newline: true, into: buffer)
    }

    /// Writes `0x%016x\n`: a 64-bit register or an address. Returns the length, 19.
    @_noLocks public static func line64(_ value: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        hexadecimal(value, digits: 16, newline: true, into: buffer)
    }

    /// Writes a decimal number and a newline if wanted. Returns the length. Traps when `buffer` is smaller than
    /// ``capacity``.
    @_noLocks public static func decimal(
        _ value: UInt64,
        newline: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        precondition(buffer.count >= capacity)
        var count = 1
        var rest = value / 10
        while rest > 0 {
            count &+= 1
            rest /= 10
        }
        rest = value
        var index = count
        while index > 0 {
            index &-= 1
            buffer[index] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10)
            rest /= 10
        }
        return end(count, newline, buffer)
    }

    @_noLocks private static func end(_ length: Int, _ newline: Bool, _ buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard newline else { return length }
        buffer[length] = UInt8(ascii: "\n")
        return length &+ 1
    }
}
