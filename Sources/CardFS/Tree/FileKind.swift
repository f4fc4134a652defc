import DriverCore

/// What a file does, as the dispatcher of a callback sees it.
enum FileKind {
    case directory
    case link
    /// The 32-bit register at the mount's offset in the window (`bar0`).
    case windowRegister
    /// The mount's offset in the window (`offset`).
    case windowOffset
    /// One register of BAR0 (`regs/…`).
    case register
    /// A BAR, binary (`resourceN`).
    case resource
    /// Configuration space, binary.
    case configuration
    /// Bytes to the card (`dma/tx`).
    case transmit
    /// Bytes from the card (`dma/rx`).
    case receive
    /// Lines that are sampled once for each open, and take lines where they can be written.
    case text
    /// `last_error`: lines that are added at its end; offsets are positions in all that was ever written.
    case failureLog
    /// `interrupts/log`.
    case interruptLog
    /// `trace`: lines as `interrupts/log` has them; takes `on` and `off`.
    case trace
    /// `state`: text whose changes can be polled for.
    case state
}

extension FileKind {
    /// st_blksize, which the C library and others take for the size of their buffers. Where a read has an effect they must not
    /// read ahead, nor begin before the place they were sent to: the size is that of one word.
    var blockSize: Int {
        switch self {
        case .resource, .configuration, .receive: 4
        case .transmit: PayloadArena.payloadByteCount
        // A line that is written is not cut.
        default: 4096
        }
    }
}

/// The names of nodes towards the kernel. Files that are made up in the look-up carry all that is to be known of them in
/// their number, so that nothing has to be kept or forgotten.
///
/// ```
/// 0 … 2^16-1            a node of the tree, 1 is the root
/// serial << 16 | node   a node that one look-up made (``Node/isOfEachLookUp``), until the kernel forgets it
/// 2^62 | width << 56 | offset   regs/0x…
/// ```
enum NodeID {
    /// The node of the tree a number stands for; nil for a register.
    @_noLocks static func node(_ id: UInt64) -> Int? {
        id & (1 << 62) != 0 ? nil : Int(truncatingIfNeeded: id & 0xffff)
    }

    /// The number of the node that one look-up makes.
    static func lookUp(_ node: Int, serial: UInt64) -> UInt64 { (serial & ((1 << 45) - 1)) << 16 | UInt64(node) }

    /// The number of a register.
    static func register(offset: UInt64, byteCount: Int) -> UInt64 { 1 << 62 | UInt64(byteCount) << 56 | offset }

    /// Offset and bytes of a register's number.
    @_noLocks static func register(_ id: UInt64) -> (offset: UInt64, byteCount: Int) {
        (id & ((1 << 56) &- 1), Int(truncatingIfNeeded: id >> 56 & 0xf))
    }
}
