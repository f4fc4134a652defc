import CFuse
import CHardware
import DriverCore
import PCIBus

/// The commands that are waited for: carried out by the card's worker, one after the other, since no receive thread may wait
/// for a card. A signal for the writer ends a command that has not been begun at once, and cancels one that has, which then ends
/// as soon as it can.
final class Commands: @unchecked Sendable {  // guarded by `lock`
    private struct Entry {
        let cancellation: Cancellation
        let caller: SendableRequest
        let node: UInt64
        /// In whose account it is counted.
        let account: UnsafeMutablePointer<UserShares.Account>?
        /// Its own thread answers a writer whose signals are only about to be awaited.
        var isRegistering = true
        var isBegun = false
    }

    private let lock = Lock()
    private var entries: [UInt: Entry] = [:]
    private var nextID: UInt = 1

    deinit { lock.destroy() }

    /// Has a command carried out and answers its writer, who wrote `count` bytes to the file `node`.
    func run(
        _ fileSystem: CardFileSystem,
        _ request: fuse_req_t,
        _ node: UInt64,
        _ count: Int,
        _ body: @escaping @Sendable (Cancellation) throws(FileError) -> Void
    ) {
        let account: UnsafeMutablePointer<UserShares.Account>?
        switch fileSystem.mount.pointee.users.take(.commands, callingUser(request)) {
        case .taken(let own): account = own
        case .refused(let reach):
            fileSystem.refuse(request, node, .commands, reach)
            return
        }
        let cancellation = Cancellation()
        let caller = SendableRequest(request)
        let id = lock.locked {
            nextID += 1
            entries[nextID] = Entry(cancellation: cancellation, caller: caller, node: node, account: account)
            return nextID
        }
        // Before the worker can answer the request: afterwards it may be gone.
        cfuse_on_interrupt(request, cancelCommand, UnsafeMutableRawPointer(bitPattern: id))
        let isInterrupted = lock.locked {
            entries[id]?.isRegistering = false
            guard cancellation.isCancelled else { return false }
            return remove(fileSystem, id) != nil
        }
        if isInterrupted {
            fileSystem.fail(request, node, EINTR, Self.tooEarly)
            return
        }
        let isTaken = fileSystem.device.worker.enqueue { [self] in
            let isAwaited = lock.locked {
                entries[id]?.isBegun = true
                return entries[id] != nil
            }
            guard isAwaited else { return }
            var failure: FileError?
            do throws(FileError) { try body(cancellation) } catch { failure = error }
            _ = lock.locked { remove(fileSystem, id) }
            fileSystem.readinessMayHaveChanged()
            if let failure {
                fileSystem.fail(caller.request, node, failure.code, failure.sentence)
            } else {
                _ = fuse_reply_write(caller.request, count)
            }
        }
        guard !isTaken, lock.locked({ remove(fileSystem, id) }) != nil else { return }
        fileSystem.fail(request, node, ENODEV, "the mount is ending")
    }

    /// Takes out an entry, with the lock held; nil when it has been taken out.
    private func remove(_ fileSystem: CardFileSystem, _ id: UInt) -> Entry? {
        guard let entry = entries.removeValue(forKey: id) else { return nil }
        fileSystem.mount.pointee.users.give(.commands, entry.account)
        return entry
    }

    private static let tooEarly = "interrupted before it was begun"

    /// A signal for a writer.
    fileprivate func cancel(_ fileSystem: CardFileSystem, _ id: UInt) {
        guard let entry = stop(fileSystem, id) else { return }
        fileSystem.fail(entry.caller.request, entry.node, EINTR, Self.tooEarly)
    }

    /// Cancels a command that has been begun; takes out one that has not, which is then the caller's to answer.
    private func stop(_ fileSystem: CardFileSystem, _ id: UInt) -> Entry? {
        lock.locked {
            guard let entry = entries[id] else { return nil }
            guard entry.isBegun || entry.isRegistering else { return remove(fileSystem, id) }
            entry.cancellation.cancel()
            return nil
        }
    }

    /// Ends everything, for a mount that ends.
    func cancelAll(_ fileSystem: CardFileSystem) {
        for id in lock.locked({ Array(entries.keys) }) {
            guard let entry = stop(fileSystem, id) else { continue }
            fileSystem.fail(entry.caller.request, entry.node, ENODEV, "the mount is ending")
        }
    }
}

private func cancelCommand(_ request: OpaquePointer?, _ data: UnsafeMutableRawPointer?) {
    guard let request, let context = fuse_req_userdata(request) else { return }
    let mount = context.assumingMemoryBound(to: MountState.self)
    mount.pointee.fileSystem?._withUnsafeGuaranteedRef { $0.commands.cancel($0, UInt(bitPattern: data)) }
}
