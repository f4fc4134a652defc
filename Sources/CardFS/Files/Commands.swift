import CFuse
import CHardware
import DriverCore
import PCIBus

/// The commands that are waited for: carried out by the card's worker, one after the other, since no receive thread may wait
/// for a card. A signal for the writer cancels the command, which then ends as soon as it can.
final class Commands: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var running: [UInt: Cancellation] = [:]
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
        let cancellation = Cancellation()
        let id = lock.locked {
            nextID += 1
            running[nextID] = cancellation
            return nextID
        }
        // Before the worker can answer the request: afterwards it may be gone.
        cfuse_on_interrupt(request, cancelCommand, UnsafeMutableRawPointer(bitPattern: id))
        let caller = SendableRequest(request)
        let isTaken = fileSystem.device.worker.enqueue { [self] in
            var failure: FileError?
            if cancellation.isCancelled {
                failure = FileError(EINTR, "interrupted before it was begun")
            } else {
                do throws(FileError) { try body(cancellation) } catch { failure = error }
            }
            _ = lock.locked { running.removeValue(forKey: id) }
            if let failure {
                fileSystem.fail(caller.request, node, failure.code, failure.sentence)
            } else {
                _ = fuse_reply_write(caller.request, count)
            }
        }
        guard !isTaken else { return }
        _ = lock.locked { running.removeValue(forKey: id) }
        fileSystem.fail(request, node, ENODEV, "the mount is ending")
    }

    /// A signal for a writer.
    fileprivate func cancel(_ id: UInt) { lock.locked { running[id] }?.cancel() }

    /// Cancels everything, for a mount that ends.
    func cancelAll() { for cancellation in lock.locked({ Array(running.values) }) { cancellation.cancel() } }
}

private func cancelCommand(_ request: OpaquePointer?, _ data: UnsafeMutableRawPointer?) {
    guard let request, let context = fuse_req_userdata(request) else { return }
    let mount = context.assumingMemoryBound(to: MountState.self)
    mount.pointee.fileSystem?._withUnsafeGuaranteedRef { $0.commands.cancel(UInt(bitPattern: data)) }
}
