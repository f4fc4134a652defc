import DriverCore
import PCIBus

/// What the driver knows of the core's registers that users set too.
///
/// The bits that start the engines are in one word with those of the link, so that each doorbell writes both. A doorbell rings
/// under the lock of its channel; who changes the bits that stay holds the locks of both channels while the register and this
/// record change, so that no doorbell can bring back what was there before.
struct LinkRegisters {
    /// The bits of the control register that stay, as they are in the register now.
    var control: UInt32 = 0
    /// The mode of the link, as it was last set: the bits that it is started with again after the core has forgotten them.
    var mode = SpaceWireLayout.Control.linkStart | SpaceWireLayout.Control.autoStart
    /// The divider of the transmit clock, once somebody has set it.
    var scaler: UInt32?
    /// The time-code to send next, in its place in the register, from the last time the core was asked.
    var timeCode: UInt32?

    @_noLocks init() {}

    /// Takes over what a store from outside changes.
    @_noLocks mutating func follow(_ offset: UInt64, _ width: UInt32, _ value: UInt64) {
        // Words are what the core takes; of eight bytes the lower four come first.
        guard width >= 4 else { return }
        set(offset, UInt32(truncatingIfNeeded: value))
        if width == 8 { set(offset &+ 4, UInt32(truncatingIfNeeded: value &>> 32)) }
    }

    @_noLocks private mutating func set(_ offset: UInt64, _ value: UInt32) {
        if offset == SpaceWireLayout.control {
            if value & SpaceWireLayout.Control.reset != 0 {
                control = 0
            } else {
                control = value & SpaceWireLayout.Control.kept
                mode = value & SpaceWireLayout.Control.linkMode
            }
        } else if offset == SpaceWireLayout.txScaler {
            scaler = value & 0xff
        }
    }
}

/// The way to the registers of the link for who is not ringing a doorbell. A trivial value.
struct LinkPort {
    let transmit: TransmitPort
    let receive: ReceivePort
    let registers: UnsafeMutablePointer<LinkRegisters>
    let signals: UnsafeMutablePointer<InterruptSignals>

    /// Runs a closure while nobody rings a doorbell. It may not complete a request, or ring.
    @_noLocks func perform(_ body: (inout LinkRegisters, RegisterWindow) -> Void) {
        transmit.lockDoorbell()
        receive.lockDoorbell()
        body(&registers.pointee, signals.pointee.window)
        receive.unlockDoorbell()
        transmit.unlockDoorbell()
    }

    /// Writes an action bit of the control register together with the bits that stay.
    @_noLocks func act(_ action: UInt32) {
        perform { registers, window in window.store32(registers.control | action, SpaceWireLayout.control) }
    }

    /// Changes the bits that stay.
    @_noLocks func change(_ body: (inout LinkRegisters) -> Void) {
        perform { registers, window in
            body(&registers)
            window.store32(registers.control, SpaceWireLayout.control)
        }
    }
}

/// A store from outside to a register of the core.
@_noLocks func storeFromOutside(
    _ context: UnsafeMutableRawPointer,
    _ offset: UInt64,
    _ width: UInt32,
    _ value: UInt64
) {
    guard let accessWidth = AccessWidth(rawValue: width) else { return }
    context.assumingMemoryBound(to: LinkPort.self).pointee.perform { registers, window in
        registers.follow(offset, width, value)
        window.store(value, offset, accessWidth)
    }
}
