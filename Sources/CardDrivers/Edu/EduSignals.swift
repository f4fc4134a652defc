import DriverCore
import PCIBus

/// What the interrupt service routine knows. Set while no vector is connected.
struct EduSignals {
    let deferred: UnsafeMutablePointer<DeferredThread>
    var window = RegisterWindow.none
    /// The deferred call of the channel.
    var call = 0

    init(deferred: UnsafeMutablePointer<DeferredThread>) { self.deferred = deferred }

    /// The interrupt service routine (EvtInterruptIsr). Acknowledges exactly the causes it has seen: one that comes in
    /// between stays, and interrupts anew. Device level.
    @_noLocks func serve() -> Bool {
        let causes = window.load32(EduLayout.interruptStatus)
        guard causes != 0 else { return false }
        // All ones can be causes, or a card that has left.
        if causes == .max, window.load32(EduLayout.identification) == .max { return false }
        window.store32(causes, EduLayout.acknowledge)
        if causes & EduLayout.Cause.transfer != 0 { deferred.pointee.queue(call) }
        return true
    }
}
