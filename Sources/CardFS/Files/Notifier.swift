import CHardware
import DriverCore
import PCIBus
import Synchronization

/// Something that those who wait for a file, or poll it, are told of.
struct Happening: OptionSet, Hashable {
    let rawValue: UInt32
    /// The card takes bytes again.
    static let room = Happening(rawValue: 1)
    /// Bytes have come from the card.
    static let arrival = Happening(rawValue: 2)
    static let interrupt = Happening(rawValue: 4)
    /// A step of a request was traced, or the trace was switched.
    static let trace = Happening(rawValue: 8)
    /// Plug and Play or power state has changed.
    static let state = Happening(rawValue: 16)
    static let removal = Happening(rawValue: 32)
    static let all: [Happening] = [.room, .arrival, .interrupt, .trace, .state, .removal]
}

/// The thread of a mount that answers those who wait and wakes those who poll. The thread that completes DMA only says that something
/// happened: how many wait for it costs the data path nothing.
///
/// Many who wait for one thing are woken in rounds with rests between, so that the programs that wake take a twentieth of a
/// processor at most from the one that moves data.
final class Notifier: @unchecked Sendable {  // guarded by `lock`
    /// The rest after a round for each one it woke, in nanoseconds: some twenty times what it takes to wake a program.
    static let rest: UInt64 = 1_000_000

    private let lock = Lock()
    private let pending = Atomic<UInt32>(0)
    private var isEnding = false
    private var thread: Thread?
    /// When the next round of a happening may begin; guarded by `lock`.
    private var notBefore: [Happening: UInt64] = [:]

    deinit { lock.destroy() }

    /// Starts the thread. `round` tells of one happening and answers how long to rest before it is told of again.
    /// Throws when the host gives no thread.
    func start(_ round: @escaping @Sendable (Happening) -> UInt64) throws(BusError) {
        thread = try Thread(starting: "notify") { [self] in run(round) }
    }

    /// Ends the thread. No round runs when this returns. A second call does nothing.
    func stop() {
        let thread = lock.locked {
            isEnding = true
            lock.broadcast()
            defer { self.thread = nil }
            return self.thread
        }
        thread?.join()
    }

    /// Says that something happened. Any thread; neither waits nor allocates.
    @_noLocks func raise(_ happening: Happening) {
        let bits = happening.rawValue
        guard pending.bitwiseOr(bits, ordering: .sequentiallyConsistent).oldValue & bits != bits else { return }
        lock.lock()
        lock.signal()
        lock.unlock()
    }

    /// Whether a round for one waiter may begin now; then the next one has to rest.
    func mayBegin(_ happening: Happening) -> Bool {
        // A round that is asked for comes first: else those who wait would wait for those who come.
        guard pending.load(ordering: .relaxed) & happening.rawValue == 0 else { return false }
        let now = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        return lock.locked {
            guard now >= notBefore[happening] ?? 0 else { return false }
            notBefore[happening] = now + Self.rest
            return true
        }
    }

    /// Puts the next round off after a waiter that was served without one.
    func lengthen(_ happening: Happening, _ rest: UInt64) {
        let next = chw_clock_nanoseconds(CLOCK_MONOTONIC) + rest
        lock.locked { notBefore[happening] = max(next, notBefore[happening] ?? 0) }
    }

    private func run(_ round: @Sendable (Happening) -> UInt64) {
        lock.lock()
        while !isEnding {
            let now = chw_clock_nanoseconds(CLOCK_MONOTONIC)
            let asked = Happening(rawValue: pending.load(ordering: .sequentiallyConsistent))
            var next = UInt64.max
            var due: [Happening] = []
            for happening in Happening.all where asked.contains(happening) {
                let start = notBefore[happening] ?? 0
                if start <= now { due.append(happening) } else { next = min(next, start) }
            }
            guard !due.isEmpty else {
                if next == .max { lock.wait() } else { _ = lock.wait(until: next) }
                continue
            }
            lock.unlock()
            for happening in due {
                // Before the round: what happens during it gets the next one.
                pending.bitwiseAnd(~happening.rawValue, ordering: .sequentiallyConsistent)
                let rest = round(happening)
                guard rest > 0 else { continue }
                lock.locked { notBefore[happening] = chw_clock_nanoseconds(CLOCK_MONOTONIC) + rest }
            }
            lock.lock()
        }
        lock.unlock()
    }
}
