public import PCIBus

/// How long transfers may take and which way they go, and what else the mount's options say of the device.
public struct TransferPolicy: Sendable {
    /// Requests shorter than this take the buffered path; bytes.
    public var directThreshold = 16 << 10
    /// How long after the last byte a stream read still waits for more; nanoseconds.
    public var gather: UInt64 = 10_000_000
    /// How long a write waits without progress; nanoseconds, 0 for ever.
    public var transmitTimeout: UInt64 = 10_000_000_000
    /// How long a read waits without a byte; nanoseconds, 0 for ever.
    public var receiveTimeout: UInt64 = 0
    /// How long close waits for the card to take what was written; nanoseconds.
    public var linger: UInt64 = 2_000_000_000
    /// How long a program keeps a piece of a ring that others wait for; nanoseconds, 0 for ever.
    public var loanTimeout: UInt64 = 10_000_000_000

    /// How long a reload waits for the card; nanoseconds.
    public var reloadTimeout: UInt64 = 60_000_000_000
    /// How the card interrupts; nil for the best it has.
    public var interrupts: InterruptKind?

    /// The defaults.
    public init() {}
}
