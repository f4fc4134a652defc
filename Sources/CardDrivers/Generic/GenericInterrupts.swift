import DriverCore
import PCIBus

/// The interrupts of a card that nobody here knows how to quiet.
///
/// A message stands for itself. A level on INTx stays until the card is served by whoever knows its registers, and would
/// interrupt without end meanwhile: it is counted once, switched off by the Interrupt Disable bit of the command register, and
/// let through again when the Interrupt Status bit says that the card has lowered it (PCI Local Bus Specification 3.0, 6.2.2
/// and 6.2.3). A card older than that specification's revision 2.3, which has neither bit, is not counted.
struct GenericInterrupts {
    /// How often a level that was switched off is looked at; nanoseconds.
    static let lookInterval: UInt64 = 10_000_000
    /// Bit 3 of the status register: INTx would be asserted if it were not disabled.
    static let interruptStatus: UInt32 = 1 << 3

    private let function: any PCIFunction
    private let deferred: UnsafeMutablePointer<DeferredThread>
    private let clock: Clock
    /// The deferred call that looks at the level.
    var call = 0
    /// INTx rather than messages; set while no vector is connected.
    var isLevel = false

    init(function: any PCIFunction, deferred: UnsafeMutablePointer<DeferredThread>, clock: Clock) {
        self.function = function
        self.deferred = deferred
        self.clock = clock
    }

    /// The interrupt service routine; true if the card interrupted. Device level.
    func serve() -> Bool {
        guard isLevel else { return true }
        guard isAsserted else { return false }
        try? function.changeCommand(set: .interruptDisable)
        deferred.pointee.setTimer(call, clock.now() &+ Self.lookInterval)
        return true
    }

    /// The deferred call: lets the level through again when it is low, or looks once more later. Dispatch level.
    func look() {
        if isAsserted {
            deferred.pointee.setTimer(call, clock.now() &+ Self.lookInterval)
        } else {
            try? function.changeCommand(clear: .interruptDisable)
        }
    }

    /// A card that is gone reads as all ones, which is no interrupt.
    private var isAsserted: Bool {
        guard let status = try? function.readConfiguration(ConfigurationSpace.status, .word), status != 0xffff else {
            return false
        }
        return status & Self.interruptStatus != 0
    }
}
