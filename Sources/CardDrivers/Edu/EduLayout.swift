import PCIBus

/// Registers and bits of QEMU's `edu` device (docs/specs/edu.rst and hw/misc/edu.c of QEMU).
enum EduLayout {
    /// 0xRRrr00ed: major and minor version.
    static var identification: UInt64 { @_noLocks get { 0x00 } }
    /// What identification ends with.
    static var identificationByte: UInt32 { @_noLocks get { 0xed } }
    /// Reads back the inverse of what was written.
    static var liveness: UInt64 { @_noLocks get { 0x04 } }
    /// Becomes the factorial of what was written, modulo 2^32.
    static var factorial: UInt64 { @_noLocks get { 0x08 } }
    /// Bit 0: a factorial is being computed; bit 7: interrupt when it is done.
    static var status: UInt64 { @_noLocks get { 0x20 } }
    /// The causes of interrupts that nobody has acknowledged.
    static var interruptStatus: UInt64 { @_noLocks get { 0x24 } }
    /// Sets causes.
    static var raise: UInt64 { @_noLocks get { 0x60 } }
    /// Clears causes.
    static var acknowledge: UInt64 { @_noLocks get { 0x64 } }
    /// Where a transfer reads.
    static var source: UInt64 { @_noLocks get { 0x80 } }
    /// Where it writes.
    static var destination: UInt64 { @_noLocks get { 0x88 } }
    /// Its bytes.
    static var count: UInt64 { @_noLocks get { 0x90 } }
    /// Starts it.
    static var command: UInt64 { @_noLocks get { 0x98 } }

    /// Bits of ``command``.
    enum Command {
        /// Written: start; read: a transfer runs, and the four registers ignore what is written.
        static var start: UInt32 { @_noLocks get { 1 } }
        /// From the card's buffer to memory rather than the other way.
        static var fromCard: UInt32 { @_noLocks get { 2 } }
        /// Interrupt at the end.
        static var interrupt: UInt32 { @_noLocks get { 4 } }
    }

    /// Bits of ``interruptStatus`` that the device sets by itself.
    enum Cause {
        /// A factorial is done.
        static var factorial: UInt32 { @_noLocks get { 1 } }
        /// A transfer is done.
        static var transfer: UInt32 { @_noLocks get { 0x100 } }
    }

    /// The card's buffer as a transfer addresses it. It is not to be reached through BAR0.
    static var bufferAddress: UInt32 { @_noLocks get { 0x40000 } }

    /// Bytes of the buffer that are used. It has 4096, but up to QEMU 7.2 a transfer that touches the last one ends the
    /// emulator, and later ones copy past the end without a word. No transfer of this driver ends beyond this byte.
    static var bufferByteCount: Int { @_noLocks get { 4095 } }

    /// Bits of a logical address the card drives, unless it was configured otherwise; it drops the others.
    static let addressWidth = 28

    /// Bytes of BAR0 that hold registers.
    static let registerByteCount: UInt64 = 0xa0
}
