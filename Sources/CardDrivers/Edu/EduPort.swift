import CHardware
import DriverCore
import PCIBus

/// The way to the channel: its lock, which lies apart from what it guards, and where it is. A trivial value.
struct EduPort {
    private let lock = Lock()
    private let pool: UnsafeMutablePointer<RequestPool>
    private let channel: UnsafeMutablePointer<EduChannel>

    init(pool: UnsafeMutablePointer<RequestPool>) {
        self.pool = pool
        channel = .allocate(capacity: 1)
        channel.initialize(to: EduChannel())
    }

    /// Frees the channel, which nobody may use any more.
    func destroy() {
        channel.deinitialize(count: 1)
        channel.deallocate()
        lock.destroy()
    }

    /// Runs a closure with the lock held, then completes what was decided, without it.
    @_noLocks func perform(_ body: (inout EduChannel) -> Void) {
        lock.lock()
        body(&channel.pointee)
        finish()
    }

    /// ``perform(_:)`` for the control path, where a closure may do as it likes.
    func control<Result>(_ body: (inout EduChannel) -> Result) -> Result {
        lock.lock()
        let result = body(&channel.pointee)
        finish()
        return result
    }

    @_noLocks private func finish() {
        var list = channel.pointee.decided
        channel.pointee.decided = CompletionList()
        lock.unlock()
        if !list.isEmpty { list.completeAll(pool) }
    }

    /// The table of entry points for the port at `port`.
    static func table(_ port: UnsafeMutablePointer<EduPort>) -> chw_entry_points {
        chw_entry_points(
            context: UnsafeMutableRawPointer(port),
            submit: { submitRequest($0, $1) },
            withdraw: { withdrawRequest($0, $1) },
            readiness: { readiness($0, $1) }
        )
    }
}

@_noLocks private func submitRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    context.assumingMemoryBound(to: EduPort.self).pointee.perform { $0.submit(record) }
}

@_noLocks private func withdrawRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    context.assumingMemoryBound(to: EduPort.self).pointee.perform { $0.withdraw(record) }
}

@_noLocks private func readiness(_ context: UnsafeMutableRawPointer, _ direction: UInt32) -> UInt32 {
    let port = context.assumingMemoryBound(to: EduPort.self)
    var isReady = false
    if direction == 0 {
        port.pointee.perform { isReady = $0.isWritable }
        return isReady ? UInt32(POLLOUT) | UInt32(POLLWRNORM) : 0
    }
    port.pointee.perform { isReady = $0.isReadable }
    return isReady ? UInt32(POLLIN) | UInt32(POLLRDNORM) : 0
}
