import CardFS
import Glibc
import Synchronization

/// Ctrl-C ends a benchmark between two calls, so that the mount is left as it was found.
enum BenchInterrupt {
    private static let requested = Atomic<Bool>(false)

    /// Takes SIGINT and SIGTERM from now on.
    static func watch() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in BenchInterrupt.requested.store(true, ordering: .relaxed) }
        sigaction(SIGINT, &action, nil)
        sigaction(SIGTERM, &action, nil)
    }

    /// Throws once somebody wants the benchmark to end.
    static func check() throws(Refusal) {
        if requested.load(ordering: .relaxed) {
            throw Refusal("interrupted; the mount is as it was before", kind: .interrupted)
        }
    }
}
