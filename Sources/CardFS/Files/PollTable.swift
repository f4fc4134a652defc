import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus

/// The files of a mount that are polled. The kernel's handle of a file is kept until the file is released, since epoll asks for
/// one once and may be notified through it again and again: each notification is an edge.
///
/// A file is armed by a poll that finds nothing it asked for, and by a read or write that got less than it asked for. What it
/// is armed for is told to it once; a removal is told to every file here.
final class PollTable: @unchecked Sendable {  // guarded by `lock`
    private struct Entry {
        var source: Happening
        var handle: OpaquePointer
        /// The poll(2) events it is armed for; 0 while it is not.
        var events: UInt32 = 0
    }

    /// Events of poll(2) that nobody has to ask for.
    static let always = UInt32(POLLERR | POLLHUP)

    /// The events of poll(2) that something that happens brings.
    static func events(_ happening: Happening) -> UInt32 {
        switch happening {
        case .room: UInt32(POLLOUT | POLLWRNORM)
        case .state: UInt32(POLLIN | POLLRDNORM | POLLPRI)
        default: UInt32(POLLIN | POLLRDNORM)
        }
    }

    private let device: Device
    private let lock = Lock()
    private var entries: [UInt64: Entry] = [:]
    private var armed: [Happening: Set<UInt64>] = [:]
    private var changes: UInt64 = 1

    init(device: Device) { self.device = device }

    deinit { lock.destroy() }

    /// How often the state has changed.
    var stateChanges: UInt64 { lock.locked { changes } }

    /// Counts a change of state.
    func countStateChange() { lock.locked { changes += 1 } }

    /// Keeps the handle of the file `number`, which is the table's from here on. `source` is what the file waits for; empty for
    /// one that only a removal can end.
    func keep(_ number: UInt64, _ source: Happening, _ handle: OpaquePointer) {
        // All handles of an open file lead to the same place in the kernel: the first will do.
        let isNew = lock.locked {
            guard entries[number] == nil else { return false }
            entries[number] = Entry(source: source, handle: handle)
            return true
        }
        if isNew { device.watchPresence(true) } else { fuse_pollhandle_destroy(handle) }
    }

    /// Arms a file for events. False for a file whose handle is not here, so that it cannot be told.
    func arm(_ number: UInt64, _ events: UInt32) -> Bool {
        let (source, isNew): (Happening?, Bool) = lock.locked {
            guard let entry = entries[number] else { return (nil, false) }
            entries[number]?.events |= events
            return (entry.source, armed[entry.source, default: []].insert(number).inserted)
        }
        guard let source else { return false }
        // Outside the lock: the driver may complete requests, whose files are armed in turn.
        if isNew { watch(source, true) }
        return true
    }

    /// What a file was armed for has been found by a second look.
    func disarm(_ number: UInt64) {
        let source: Happening? = lock.locked {
            guard let source = entries[number]?.source, armed[source]?.remove(number) != nil else { return nil }
            entries[number]?.events = 0
            return source
        }
        if let source { watch(source, false) }
    }

    /// Whether a file waits to be told of something.
    func isAwaited(_ source: Happening) -> Bool { lock.locked { armed[source]?.isEmpty == false } }

    /// Tells the driver that somebody waits, or no longer. (Readers of lines and pollers of those files share an attention.)
    private func watch(_ source: Happening, _ on: Bool) {
        switch source {
        case .room: device.dma?.watchReadiness(0, on)
        case .arrival: device.dma?.watchReadiness(1, on)
        default: break
        }
    }

    /// Forgets a file that is released.
    func forget(_ number: UInt64) {
        disarm(number)
        guard let old = lock.locked({ entries.removeValue(forKey: number) }) else { return }
        drop(old)
    }

    private func drop(_ entry: Entry) {
        device.watchPresence(false)
        fuse_pollhandle_destroy(entry.handle)
    }

    /// Tells the files that are armed for one of the events, and answers how many those were. On the notifier's thread.
    func notify(_ source: Happening, _ events: UInt32) -> Int {
        var told = 0
        for number in lock.locked({ Array(armed[source] ?? []) }) {
            // One at a time: a thread that serves requests waits for this lock, and for no more than one notification.
            let isTold = lock.locked {
                guard let entry = entries[number], entry.events & events != 0,
                    armed[source]?.remove(number) != nil
                else { return false }
                entries[number]?.events = 0
                fuse_lowlevel_notify_poll(entry.handle)
                return true
            }
            guard isTold else { continue }
            watch(source, false)
            told += 1
        }
        return told
    }

    /// Tells every file: the card was removed. On the notifier's thread.
    func notifyAll() {
        for number in lock.locked({ Array(entries.keys) }) {
            disarm(number)
            lock.locked { if let entry = entries[number] { fuse_lowlevel_notify_poll(entry.handle) } }
        }
    }

    /// Forgets everybody, before the session ends.
    func destroyAll() { for number in lock.locked({ Array(entries.keys) }) { forget(number) } }
}
