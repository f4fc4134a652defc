import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

// poll(2), and the notifier's rounds.
extension CardFileSystem {
    /// The events that hold for an open file now. Arms the file for those that were asked for, unless one of them holds.
    ///
    /// - Parameters:
    ///   - pollHandle: What the kernel can be notified with, when somebody waits.
    ///   - asked: The events asked for; 0 when the kernel does not say.
    func pollEvents(_ number: UInt64, _ pollHandle: OpaquePointer?, _ asked: UInt32) -> UInt32 {
        if let pollHandle {
            poll.keep(number, source(number), pollHandle)
            mount.pointee.handles.pointee.marks(of: number).pointee.isPolled.store(true, ordering: .releasing)
        }
        let asked = asked == 0 ? UInt32.max : asked | PollTable.always
        let events = eventsNow(number)
        guard events & asked == 0, arm(number, asked) else { return events }
        // What came between the look and the arming was told to nobody.
        let later = eventsNow(number)
        if later & asked != 0 { poll.disarm(number) }
        return later
    }

    /// Arms a file whose reader or writer got less than it asked for. A file that nobody polls costs one look.
    func armAgain(_ number: UInt64) {
        guard mount.pointee.handles.pointee.marks(of: number).pointee.isPolled.load(ordering: .acquiring),
            arm(number, .max), eventsNow(number) != 0
        else { return }
        notifier.raise(source(number))
    }

    private func arm(_ number: UInt64, _ events: UInt32) -> Bool {
        guard poll.arm(number, events) else { return false }
        switch source(number) {
        case .interrupt: interruptReaders.attend(self)
        case .trace: traceReaders.attend(self)
        default: break
        }
        return true
    }

    /// What an open file waits for.
    private func source(_ number: UInt64) -> Happening {
        switch mount.pointee.handles.pointee[number].pointee.kind {
        case .transmit: .room
        case .receive: .arrival
        case .interruptLog: .interrupt
        case .trace: .trace
        case .state: .state
        default: []
        }
    }

    private func eventsNow(_ number: UInt64) -> UInt32 {
        let handle = mount.pointee.handles.pointee[number]
        let always = UInt32(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM)
        switch handle.pointee.kind {
        case .transmit, .receive, .interruptLog, .register, .windowRegister, .resource:
            if isDead(handle) { return PollTable.always }
        default: break
        }
        switch handle.pointee.kind {
        case .transmit, .receive:
            guard let entry = mount.pointee.entry else { return 0 }
            return chw_entry_readiness(entry, handle.pointee.kind == .transmit ? 0 : 1)
        case .interruptLog:
            return interruptReaders.isReadable(self, number) ? PollTable.events(.interrupt) : 0
        case .trace:
            return traceReaders.isReadable(self, number) ? always : 0
        case .state:
            let seen = mount.pointee.handles.pointee.lock(for: number).locked { handle.pointee.cursor }
            return seen < poll.stateChanges ? PollTable.events(.state) : 0
        default:
            return always
        }
    }

    /// Tells everybody who waits that something happened; on the notifier's thread. Answers how long to rest.
    func round(_ happening: Happening) -> UInt64 {
        switch happening {
        case .interrupt: return interruptReaders.serve(self)
        case .trace: return traceReaders.serve(self)
        case .removal:
            // Who waits for a card that was removed waits in vain.
            interruptReaders.endDead(self)
            poll.notifyAll()
            return 0
        default:
            // Somebody else may have taken what came: those who wait for it go on waiting.
            if happening != .state, let entry = mount.pointee.entry,
                chw_entry_readiness(entry, happening == .room ? 0 : 1) == 0
            {
                return 0
            }
            // A few loops that move data are what the card is for; more of them share what a crowd may take.
            let woken = poll.notify(happening, PollTable.events(happening))
            return woken > 8 ? UInt64(woken - 8) * Notifier.rest : 0
        }
    }

    /// Whether a file was opened before the card was removed, so that what it led to is no more.
    func isDead(_ handle: UnsafeMutablePointer<Handle>) -> Bool {
        handle.pointee.removals != device.removals.pointee.load(ordering: .acquiring)
    }
}
