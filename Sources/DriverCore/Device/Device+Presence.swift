import PCIBus
import Synchronization

// Who waits for a card that has left waits in vain, and few buses tell. So the card is looked for while somebody waits, and
// only then. (A driver looks for itself while it has requests that wait.)
extension Device {
    /// How often the card is looked for; nanoseconds.
    private static let lookInterval: UInt64 = 250_000_000

    /// Counts those who wait for something of the card that is no request: the next interrupt, a change of readiness or state.
    /// Any thread.
    public func watchPresence(_ on: Bool) {
        guard on else {
            watchers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
            return
        }
        if watchers.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue == 0 { setLookTimer() }
    }

    private func setLookTimer() { deferred.pointee.setTimer(presenceCall, clock.now() &+ Self.lookInterval) }

    /// The deferred call of the timer.
    func lookForCard() {
        guard watchers.load(ordering: .sequentiallyConsistent) > 0 else { return }
        // A register is asked where that can be done; asked itself, configuration space is slower and tells the same.
        let seen = transitions.load(ordering: .sequentiallyConsistent)
        // What the look finds gone it has reported itself.
        if registers.pointee.look() == .notInD0, state.pnp == .started || state.pnp == .stopped, examine() == .gone {
            reportMissing(since: seen)
        }
        setLookTimer()
    }
}
