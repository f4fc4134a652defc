import CHardware
import DriverCore
import PCIBus
import Synchronization

/// What the interrupt service routine knows of the channels: whether anybody waits, and for what.
///
/// The service routine runs beside everything else and takes no lock: a channel says here, before it looks at its ring for
/// the last time, that it will wait; the routine looks here after the card has written its descriptor. One of the two sees
/// the other.
struct InterruptSignals: ~Copyable {
    /// Somebody waits for the transmitter.
    let transmitAwaited = Atomic<Bool>(false)
    /// Somebody waits for data.
    let receiveAwaited = Atomic<Bool>(false)
    /// The slot whose completion satisfies the oldest reader; an interrupt before that wakes nobody.
    let wakeSlot = Atomic<UInt64>(0)
    /// Errors of the link by cause, its changes, time-codes, and bus errors since the device was added. The core keeps a bit of
    /// each kind until it is cleared: what happens twice between two interrupts counts once.
    let disconnectErrors = Atomic<UInt64>(0)
    let parityErrors = Atomic<UInt64>(0)
    let escapeErrors = Atomic<UInt64>(0)
    let creditErrors = Atomic<UInt64>(0)
    let linkChanges = Atomic<UInt64>(0)
    let timeCodes = Atomic<UInt64>(0)
    let busErrors = Atomic<UInt64>(0)

    /// The state of the link at the last interrupt.
    let lastLink = Atomic<UInt32>(0)

    let deferred: UnsafeMutablePointer<DeferredThread>
    /// The numbers of the deferred calls. Set before interrupts are connected, like what follows.
    var transmitCall = 0
    var receiveCall = 0
    var errorCall = 0
    var window = RegisterWindow.none
    var receiveRing: DescriptorRing?
    /// With one vector for everything, the routine has to ask the card what happened.
    var hasOneVector = false

    init(deferred: UnsafeMutablePointer<DeferredThread>) { self.deferred = deferred }

    /// The interrupt service routine (EvtInterruptIsr). Clears the card's cause first and looks at memory after, so that
    /// what happens in between raises the next interrupt. Device level.
    @_noLocks func serve(_ vector: UInt32) -> Bool {
        let status = window.load32(SpaceWireLayout.status)
        guard status != .max else { return false }
        var causes = status & SpaceWireLayout.Status.sticky
        if !hasOneVector { causes &= bits(of: vector) }
        let isBusError =
            status & SpaceWireLayout.Status.busError != 0 && (hasOneVector || vector == SpaceWireLayout.Vector.busError)
        var hasLinkChanged = false
        if hasOneVector || vector == SpaceWireLayout.Vector.link {
            // A change of the link leaves no bit of its own.
            let link = status & SpaceWireLayout.Status.linkMask
            hasLinkChanged = lastLink.exchange(link, ordering: .relaxed) != link
        }
        guard causes != 0 || isBusError || hasLinkChanged || !hasOneVector else { return false }
        if causes != 0 { window.store32(causes, SpaceWireLayout.status) }
        if causes & SpaceWireLayout.Status.transmitDescriptor != 0,
            transmitAwaited.load(ordering: .sequentiallyConsistent)
        {
            deferred.pointee.queue(transmitCall)
        }
        if causes & (SpaceWireLayout.Status.receiveDescriptor | SpaceWireLayout.Status.receivePacket) != 0,
            isWorthWaking(packetEnded: causes & SpaceWireLayout.Status.receivePacket != 0)
        {
            deferred.pointee.queue(receiveCall)
        }
        if hasLinkChanged { linkChanges.wrappingAdd(1, ordering: .relaxed) }
        if causes & (SpaceWireLayout.Status.linkErrors | SpaceWireLayout.Status.timeCode) != 0 { count(causes) }
        if isBusError {
            busErrors.wrappingAdd(1, ordering: .relaxed)
            deferred.pointee.queue(errorCall)
        }
        return true
    }

    @_noLocks private func count(_ causes: UInt32) {
        if causes & SpaceWireLayout.Status.disconnectError != 0 { disconnectErrors.wrappingAdd(1, ordering: .relaxed) }
        if causes & SpaceWireLayout.Status.parityError != 0 { parityErrors.wrappingAdd(1, ordering: .relaxed) }
        if causes & SpaceWireLayout.Status.escapeError != 0 { escapeErrors.wrappingAdd(1, ordering: .relaxed) }
        if causes & SpaceWireLayout.Status.creditError != 0 { creditErrors.wrappingAdd(1, ordering: .relaxed) }
        if causes & SpaceWireLayout.Status.timeCode != 0 { timeCodes.wrappingAdd(1, ordering: .relaxed) }
    }

    @_noLocks private func bits(of vector: UInt32) -> UInt32 {
        switch vector {
        case SpaceWireLayout.Vector.transmit: return SpaceWireLayout.Status.transmitDescriptor
        case SpaceWireLayout.Vector.receive:
            return SpaceWireLayout.Status.receiveDescriptor | SpaceWireLayout.Status.receivePacket
        case SpaceWireLayout.Vector.link: return SpaceWireLayout.Status.linkErrors | SpaceWireLayout.Status.timeCode
        default: return 0
        }
    }

    @_noLocks private func isWorthWaking(packetEnded: Bool) -> Bool {
        guard receiveAwaited.load(ordering: .sequentiallyConsistent) else { return false }
        if packetEnded { return true }
        guard let receiveRing else { return true }
        let word = receiveRing.status(wakeSlot.load(ordering: .sequentiallyConsistent))
        return word & SpaceWireLayout.Descriptor.enable == 0
    }
}
