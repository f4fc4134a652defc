import CHardware
import PCIBus

/// A thread that carries out commands one after the other at passive level, so that no receive thread waits for a card.
public final class PassiveWorker: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var work: [@Sendable () -> Void] = []
    private var isEnding = false
    private var thread: Thread?

    /// Throws when the host gives no thread.
    init(name: String) throws(BusError) {
        // The thread keeps the worker until ``stop()``: its last work may be what lets go of the device.
        thread = try Thread(starting: name) { [self] in run() }
    }

    deinit { lock.destroy() }

    /// Queues work; it runs after all that was queued before. Any thread. False when the worker is ending.
    @discardableResult
    public func enqueue(_ body: @escaping @Sendable () -> Void) -> Bool {
        lock.locked {
            guard !isEnding else { return false }
            work.append(body)
            lock.signal()
            return true
        }
    }

    /// Finishes what is queued and ends the thread; called by the thread itself, it ends when it comes back to its queue.
    func stop() {
        lock.locked {
            isEnding = true
            lock.broadcast()
        }
        if let thread, thread.isCurrent { thread.detach() } else { thread?.join() }
        thread = nil
    }

    private func run() {
        lock.lock()
        while true {
            if work.isEmpty {
                if isEnding { break }
                lock.wait()
                continue
            }
            let next = work.removeFirst()
            lock.unlock()
            next()
            lock.lock()
        }
        lock.unlock()
    }
}
