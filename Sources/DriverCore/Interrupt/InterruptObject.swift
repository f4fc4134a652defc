public import CHardware
import PCIBus
import Synchronization

/// Connects a card's vectors to a driver's service routine (WDFINTERRUPT), and keeps the log.
///
/// Lives at a fixed address from ``Device`` creation to its end. The service routine runs at device level: on a thread of
/// the bus, without locks that others hold for long.
public struct InterruptObject: ~Copyable {
    /// The driver's service routine; true when the card raised the interrupt.
    private var routine: chw_service_routine?
    private var context: UnsafeMutableRawPointer?
    /// What happened so far.
    public let log: InterruptLog
    private let deferred: UnsafeMutablePointer<DeferredThread>
    private var logCall: Int?
    private let declined = Atomic<UInt64>(0)

    /// Calls of the service routine that found nothing to do: another card on a shared line interrupted, or nobody did.
    public var declinedCount: UInt64 { declined.load(ordering: .relaxed) }

    init(deferred: UnsafeMutablePointer<DeferredThread>) {
        log = InterruptLog()
        self.deferred = deferred
    }

    /// Names the driver's routine. Before the vectors are connected.
    public mutating func setServiceRoutine(context: UnsafeMutableRawPointer, _ routine: @escaping chw_service_routine) {
        self.context = context
        self.routine = routine
    }

    /// Names the deferred call that tells readers of the log.
    mutating func setLogCall(_ call: Int) { logCall = call }

    /// Called by the bus.
    @_noLocks fileprivate func serve(_ vector: UInt32) -> Bool {
        guard let routine, let context else { return false }
        let level = ExecutionLevel.device.enter()
        let isMine = chw_serve(routine, context, vector)
        ExecutionLevel.leave(to: level)
        guard isMine else {
            declined.wrappingAdd(1, ordering: .relaxed)
            return false
        }
        if log.append(vector: vector, count: 1), let logCall { deferred.pointee.queue(logCall) }
        return true
    }

    /// The sink a bus connects.
    static func sink(_ object: UnsafeMutablePointer<InterruptObject>) -> InterruptSink {
        let routine: chw_service_routine = { context, vector in serviceInterrupt(context, vector) }
        return InterruptSink(context: UnsafeMutableRawPointer(object), routine: routine)
    }
}

@_noLocks private func serviceInterrupt(_ context: UnsafeMutableRawPointer, _ vector: UInt32) -> Bool {
    context.assumingMemoryBound(to: InterruptObject.self).pointee.serve(vector)
}
