import CHardware
import PCIBus
import Synchronization

// The `reload` command: a card whose FPGA gets another configuration while it is mounted.
extension Device {
    /// How long a card must answer before it is taken for one that has come to stay; nanoseconds.
    private static let settlingTime: UInt64 = 100_000_000
    /// How often it is asked.
    private static let lookInterval: useconds_t = 10_000

    /// Stops the card, waits until it has been reprogrammed, writes its configuration header and starts it again.
    ///
    /// A card has been reprogrammed when it has left the bus and come back, or when it has forgotten its base addresses; one
    /// that was gone before counts at once. Throws ``Status/deviceBusy`` when the card cannot stop now, ``Status/ioTimeout``
    /// after ``TransferPolicy/reloadTimeout`` and ``Status/cancelled``, with the card Stopped in both cases, and what the
    /// start throws. Passive level.
    public func reload(_ cancellation: Cancellation = Cancellation()) throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        let pnp = state.pnp
        switch pnp {
        case .started: try halt(cancellation, "reload")
        case .stopped, .failed, .removed, .surpriseRemoved: break
        default: throw notReady("reload")
        }
        try awaitReprogrammed(hasLeft: pnp == .surpriseRemoved || pnp == .removed || pnp == .failed, cancellation)
        try takeAgain()
        try bringUp()
    }

    private func awaitReprogrammed(hasLeft: Bool, _ cancellation: Cancellation) throws(StatusError) {
        let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        var hasLeft = hasLeft
        var since: UInt64?
        while true {
            let now = chw_clock_nanoseconds(CLOCK_MONOTONIC)
            guard !isClosing.load(ordering: .sequentiallyConsistent) else {
                throw StatusError(.cancelled, "the mount is ending")
            }
            if isWanted.exchange(false, ordering: .sequentiallyConsistent) {
                // The machine takes the slot away, as it does when the link goes down: it comes back under the same address.
                function.release()
                hasLeft = true
                since = nil
            }
            switch presence() {
            case .gone:
                hasLeft = true
                since = nil
            case .forgotten: since = since ?? now
            case .same: since = hasLeft ? since ?? now : nil
            }
            if let since, now - since >= Self.settlingTime { return }
            guard !cancellation.isCancelled else {
                throw StatusError(
                    .cancelled,
                    "interrupted; \(function.address) stays stopped: write start or reload to ctl"
                )
            }
            guard now - start < policy.reloadTimeout else {
                throw StatusError(
                    .ioTimeout,
                    "\(function.address) was not reprogrammed in \(policy.reloadTimeout / 1_000_000_000) s and stays "
                        + "stopped: write start to ctl to go on with what it is, or reload to wait again"
                )
            }
            usleep(Self.lookInterval)
        }
    }

    private enum Presence {
        case gone
        /// There, without the configuration it had.
        case forgotten
        /// There, as it was.
        case same
    }

    private func presence() -> Presence {
        do {
            try function.reclaim()
            _ = try PCIIdentity(of: function)
            return try snapshot?.isForgotten(by: function) == false ? .same : .forgotten
        } catch {
            return .gone
        }
    }
}
