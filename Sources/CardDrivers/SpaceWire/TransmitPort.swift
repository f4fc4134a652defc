import CHardware
import DriverCore
import PCIBus

/// The way to a transmit channel: its lock, which lies apart from what it guards, and where it is. A trivial value.
struct TransmitPort {
    private let lock = Lock()
    private let pool: UnsafeMutablePointer<RequestPool>
    private let channel: UnsafeMutablePointer<TransmitChannel>

    init(pool: UnsafeMutablePointer<RequestPool>, signals: UnsafeMutablePointer<InterruptSignals>) {
        self.pool = pool
        channel = .allocate(capacity: 1)
        channel.initialize(to: TransmitChannel(signals: signals))
    }

    /// Frees the channel, which nobody may use any more.
    func destroy() {
        channel.deinitialize(count: 1)
        channel.deallocate()
        lock.destroy()
    }

    /// Runs a closure with the lock held, then completes what was decided, without it.
    ///
    /// What the closure reads of the channel it may keep: nobody else changes it until it returns.
    @_noLocks func perform(_ body: (inout TransmitChannel) -> Void) {
        lock.lock()
        body(&channel.pointee)
        finish()
    }

    /// ``perform(_:)`` for the control path, where a closure may do as it likes.
    func control<Result>(_ body: (inout TransmitChannel) -> Result) -> Result {
        lock.lock()
        let result = body(&channel.pointee)
        finish()
        return result
    }

    /// Keeps the channel from ringing its doorbell; ``unlockDoorbell()`` follows soon.
    @_noLocks func lockDoorbell() { lock.lock() }

    /// Lets it ring again.
    @_noLocks func unlockDoorbell() { lock.unlock() }

    @_noLocks private func finish() {
        var list = channel.pointee.decided
        channel.pointee.decided = CompletionList()
        lock.unlock()
        if !list.isEmpty { list.completeAll(pool) }
    }
}
