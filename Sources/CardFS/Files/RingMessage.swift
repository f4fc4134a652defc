import DriverCore

/// The one message of ioctl(2) on `dma/rx` by which a program that has mapped `dma/buffer` gets at what has arrived, laid out as
/// `struct cardfs_ring` of Examples/cardfs_ring.h.
enum RingMessage {
    /// In: how many of the oldest results to give back. u32.
    static var release: Int { @_noLocks get { 0 } }
    /// Out: pieces. u32.
    static var count: Int { @_noLocks get { 4 } }
    /// In: bytes wanted, 0 for none. Out: bytes in the pieces. u64.
    static var bytes: Int { @_noLocks get { 8 } }
    /// Out: how the last packet ended, as ``PacketEnd``. u32, and as much that is reserved.
    static var end: Int { @_noLocks get { 16 } }
    /// Out: 64 times where a piece begins in the ring, and its length. u32 each.
    static var pieces: Int { @_noLocks get { 24 } }
    /// All of it.
    static var byteCount: Int { @_noLocks get { 24 &+ RequestRecord.maximumSegments &* 8 } }

    /// `_IOWR('C', 5, struct cardfs_ring)`.
    static var command: UInt32 { @_noLocks get { 0xc000_4305 | UInt32(truncatingIfNeeded: byteCount) &<< 16 } }
}
