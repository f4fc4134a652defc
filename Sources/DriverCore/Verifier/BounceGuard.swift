import CHardware
import PCIBus

/// The unused bytes of map registers around a piece of a buffer, filled so that a card that writes past its piece is found.
enum BounceGuard {
    /// What Driver Verifier fills its padding with.
    static let fill: UInt8 = 0x0f

    /// Fills what a piece of `byteCount` bytes at `offset` leaves of `pages` pages.
    static func lay(_ start: UnsafeMutableRawPointer, _ pages: Int, _ offset: Int, _ byteCount: Int) {
        memset(start, CInt(fill), offset)
        memset(start + offset + byteCount, CInt(fill), pages * Page.size - offset - byteCount)
    }

    /// Notes an overrun where the filling is not what it was.
    static func check(_ start: UnsafeMutableRawPointer, _ pages: Int, _ offset: Int, _ byteCount: Int) {
        let all = UnsafeRawBufferPointer(start: start, count: pages * Page.size)
        let isWhole = all[..<offset].allSatisfy { $0 == fill } && all[(offset + byteCount)...].allSatisfy { $0 == fill }
        guard !isWhole else { return }
        Verifier.note(.overrun, "the card wrote outside the \(byteCount) bytes it was given in map registers")
    }
}
