import CardFS
import Glibc
import Logging
import PCIBus

/// A card that is about to be mounted, or is.
protocol MountService: Sendable {
    /// Mounts, calls `ready` once the mount answers, and serves until it is gone. Returns the exit status.
    func serve(ready: () -> Void) throws -> CInt

    /// Asks ``serve(ready:)`` to drain, to unmount and to return; any thread, any number of times.
    func end()
}

/// Runs a mount in this process, in the foreground or as the daemon.
enum MountRunner {
    /// Serves a card until its mount is gone.
    ///
    /// - Parameter ready: Called once, on this thread or one of the service's, when the mount answers; false when whoever
    ///   waits for the mount has left, and it is not wanted any more.
    /// - Returns: The exit status.
    static func run(
        card: CardName,
        mountpoint: String,
        options: MountOptions,
        logger: Logger,
        ready: () -> Bool
    ) throws -> CInt {
        // Threads inherit the mask, so this comes before any of them: a signal then reaches the one that waits for it.
        var ending = endingSignals()
        pthread_sigmask(SIG_BLOCK, &ending, nil)
        signal(SIGPIPE, SIG_IGN)
        // The daemon's working directory must not keep any mount busy, its own least of all.
        chdir("/")

        let entry = try BusRegistry.entry(for: card)
        let wakeLatency = try options.latencyMicroseconds.map { number throws(Refusal) in
            try WakeLatency(microseconds: number)
        }
        Privileges.reduce(for: card, mountpoint: mountpoint, logger: logger)
        let service = try entry.open(card, mountpoint, options, wakeLatency, logger)
        // It waits for signals until the process ends.
        do throws(BusError) {
            let signals = try Thread(starting: "signals") {
                var ending = endingSignals()
                while true {
                    var number: CInt = 0
                    guard sigwait(&ending, &number) == 0 else { continue }
                    logger.info("ending on \(name(number))")
                    service.end()
                }
            }
            signals.detach()
        } catch {
            throw Refusal(error.sentence, code: error.code)
        }
        let status = try service.serve {
            logger.info("mounted \(card) on \(mountpoint)")
            Privileges.filterSystemCalls(for: card, logger: logger)
            if !ready() { service.end() }
        }
        logger.info("unmounted \(card) from \(mountpoint)")
        return status
    }

    private static func endingSignals() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&set, number) }
        return set
    }

    private static func name(_ number: CInt) -> String {
        switch number {
        case SIGTERM: "SIGTERM"
        case SIGINT: "SIGINT"
        case SIGHUP: "SIGHUP"
        default: "signal \(number)"
        }
    }
}
