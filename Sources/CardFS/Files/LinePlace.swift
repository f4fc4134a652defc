import DriverCore
import PCIBus

/// What a write is for the line that the write before it through the same open file may have begun.
enum LinePlace {
    /// A line of its own.
    case isLine
    /// The newline, or blanks, behind a value that was accepted without one: nothing is left to be done.
    case isEndOfLine
    /// A piece of a line. What came before it was carried out when it came; nobody can say what the whole would have been.
    case isPiece
}

/// Whether a write at offset 0 is a whole line behind which nothing has begun: neither ``HandleTable/place(of:_:_:)`` nor
/// ``HandleTable/accepted(_:_:_:)`` has anything to do then.
@_noLocks func isWhole(_ handle: UnsafeMutablePointer<Handle>, _ offset: Int, _ bytes: UnsafeRawBufferPointer) -> Bool {
    guard offset == 0, bytes.count > 0, bytes[bytes.count &- 1] == UInt8(ascii: "\n") else { return false }
    return handle.pointee.lineEnd == 0
}

extension HandleTable {
    /// What a write is. Programs write a value and its newline in two writes when they do not buffer (`python3 -u`); what else
    /// follows a value without a newline between is the rest of something that was cut (`dd bs=1`).
    @_noLocks func place(of number: UInt64, _ offset: Int, _ bytes: UnsafeRawBufferPointer) -> LinePlace {
        let handle = self[number]
        // A stream has no offsets: there only what completes a line can be told from another one.
        var isStream = false
        if case .trace = handle.pointee.kind { isStream = true }
        if offset == 0, !isStream { return .isLine }
        let lock = lock(for: number)
        lock.lock()
        let end = handle.pointee.lineEnd
        lock.unlock()
        guard end > 0, isStream || offset == end, bytes.count > 0 else { return .isLine }
        var hasNewline = false
        var index = 0
        while index < bytes.count {
            switch bytes[index] {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): break
            case UInt8(ascii: "\n") where index == bytes.count &- 1: hasNewline = true
            default: return isStream ? .isLine : .isPiece
            }
            index &+= 1
        }
        setLineEnd(number, hasNewline ? 0 : offset &+ bytes.count)
        return .isEndOfLine
    }

    /// Notes where a value that was accepted ends.
    @_noLocks func accepted(_ number: UInt64, _ offset: Int, _ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        let isLine = bytes[bytes.count &- 1] == UInt8(ascii: "\n")
        if isLine, self[number].pointee.lineEnd == 0 { return }
        setLineEnd(number, isLine ? 0 : offset &+ bytes.count)
    }

    @_noLocks private func setLineEnd(_ number: UInt64, _ end: Int) {
        let lock = lock(for: number)
        lock.lock()
        self[number].pointee.lineEnd = end
        lock.unlock()
    }
}
