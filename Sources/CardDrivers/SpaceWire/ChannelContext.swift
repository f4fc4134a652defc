import DriverCore
import PCIBus

/// What both channels of the card share: trivial values and pointers to fixed records, set when the hardware is prepared.
struct ChannelContext {
    /// How often the card is asked whether it is still there while requests wait; nanoseconds.
    static var lookInterval: UInt64 { @_noLocks get { 250_000_000 } }

    /// The registers.
    let window: RegisterWindow
    /// The card has the registers around the core, among them those that count bytes.
    let isFullCard: Bool
    /// The bits of the control register that stay, which a doorbell repeats; read under the lock of the channel.
    let link: UnsafeMutablePointer<LinkRegisters>
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

    /// Bytes that a counter of the card has moved since it showed `base`; nil where no card answers or it has none. At most
    /// `limit`, the most they can be; a higher count is not believed.
    func bytes(_ counter: UInt64, since base: UInt32, limit: Int) -> Int? {
        guard isFullCard, window.load32(SpaceWireLayout.status) != .max else { return nil }
        let moved = Int(window.load32(counter) &- base)
        return moved <= limit ? moved : nil
    }

    /// Writes an action bit of the control register together with the bits that stay.
    @_noLocks func ring(_ action: UInt32) {
        window.store32(link.pointee.control | action, SpaceWireLayout.control)
    }
}
