import DriverCore
import PCIBus

/// What both channels of the card share: trivial values and pointers to fixed records, set when the hardware is prepared.
struct ChannelContext {
    /// How often the card is asked whether it is still there while requests wait; nanoseconds.
    static var lookInterval: UInt64 { @_noLocks get { 250_000_000 } }

    /// The registers.
    let window: RegisterWindow
    /// The bits of the control register that stay: a doorbell repeats them.
    let control: UInt32
    /// Payload memory.
    let arena: UnsafeMutablePointer<PayloadArena>
    /// The payload memory as the card sees it; nil when the card cannot reach it.
    let arenaBuffer: CommonBuffer?
    /// Deferred calls.
    let deferred: UnsafeMutablePointer<DeferredThread>
    /// The driver's time.
    let clock: Clock
    /// The mount's options.
    let policy: TransferPolicy

    /// Writes an action bit of the control register together with the bits that stay.
    @_noLocks func ring(_ action: UInt32) { window.store32(control | action, SpaceWireLayout.control) }
}
