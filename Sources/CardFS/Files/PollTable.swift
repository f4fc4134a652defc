import CFuse
import CHardware
import DriverCore
import PCIBus

/// Those who poll files of a mount: the handle of the last FUSE_POLL of each open file that found nothing ready.
final class PollTable: @unchecked Sendable {  // guarded by `lock`
    private enum Watch {
        case stream(UInt32)
        case interrupts
        case trace
        case state
    }

    private let device: Device
    private let lock = Lock()
    private var waiting: [UInt64: (watch: Watch, handle: OpaquePointer)] = [:]
    private var changes: UInt64 = 1

    init(device: Device) { self.device = device }

    deinit { lock.destroy() }

    /// How often the state has changed.
    var stateChanges: UInt64 { lock.locked { changes } }

    /// Watches a direction of the streams for the file `number`. The handle is the table's from here on.
    func watchStream(_ number: UInt64, _ direction: UInt32, _ handle: OpaquePointer) {
        set(number, .stream(direction), handle)
    }

    /// Watches for interrupts.
    func watchInterrupts(_ number: UInt64, _ handle: OpaquePointer) { set(number, .interrupts, handle) }

    /// Watches for steps of traced requests.
    func watchTrace(_ number: UInt64, _ handle: OpaquePointer) { set(number, .trace, handle) }

    /// Watches for a change of state.
    func watchState(_ number: UInt64, _ handle: OpaquePointer) { set(number, .state, handle) }

    private func set(_ number: UInt64, _ watch: Watch, _ handle: OpaquePointer) {
        let old = lock.locked { waiting.updateValue((watch, handle), forKey: number) }
        count(watch, true)
        if let old { drop(old) }
    }

    private func count(_ watch: Watch, _ on: Bool) {
        switch watch {
        case .interrupts: return device.watchInterrupts(on)
        case .trace: return device.trace.pointee.watch(on)
        default: device.watchPresence(on)
        }
        switch watch {
        case .stream(let direction): device.dma?.watchReadiness(direction, on)
        case .interrupts, .trace, .state: break
        }
    }

    private func drop(_ entry: (watch: Watch, handle: OpaquePointer)) {
        count(entry.watch, false)
        fuse_pollhandle_destroy(entry.handle)
    }

    /// Forgets the poller of a file that is released.
    func forget(_ number: UInt64) {
        if let old = lock.locked({ waiting.removeValue(forKey: number) }) { drop(old) }
    }

    /// Tells those who wait for a direction.
    func notifyStream(_ direction: UInt32) {
        notify { if case .stream(direction) = $0 { true } else { false } }
    }

    /// Tells those who wait for interrupts.
    func notifyInterrupts() { notify { if case .interrupts = $0 { true } else { false } } }

    /// Tells those who wait for steps of traced requests, or for the end.
    func notifyTrace() { notify { if case .trace = $0 { true } else { false } } }

    /// Tells those who wait for a change of state.
    func notifyState() {
        lock.locked { changes += 1 }
        notify { if case .state = $0 { true } else { false } }
    }

    /// Tells everybody: the card was removed.
    func notifyAll() { notify { _ in true } }

    private func notify(_ matches: (Watch) -> Bool) {
        let told = lock.locked {
            let told = waiting.filter { matches($0.value.watch) }
            for number in told.keys { waiting[number] = nil }
            return told
        }
        for entry in told.values {
            fuse_lowlevel_notify_poll(entry.handle)
            drop(entry)
        }
    }

    /// Forgets everybody, before the session ends.
    func destroyAll() {
        let all = lock.locked {
            let all = waiting
            waiting = [:]
            return all
        }
        for entry in all.values { drop(entry) }
    }
}
