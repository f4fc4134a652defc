import CFuse
import CHardware
import DriverCore
import PCIBus
import Synchronization

/// The readers of `interrupts/log`: lines of `sequence time vector count`, from the open on, in any read size.
final class InterruptReaders: @unchecked Sendable {  // guarded by `lock`
    private struct Waiter {
        var id: UInt
        var request: OpaquePointer
        var number: UInt64
        var size: Int
    }

    private let lock = Lock()
    private var waiters: [Waiter] = []
    /// Readers about to wait, whose signals are awaited already.
    private var registering: Set<UInt> = []
    private var nextID: UInt = 1

    deinit { lock.destroy() }

    /// Answers a read, or lets it wait for the next interrupt.
    func read(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64, _ size: Int) {
        if let bytes = next(fileSystem, number, size) {
            _ = cfuse_reply_bytes(request, bytes, bytes.count)
            return
        }
        let handle = fileSystem.mount.pointee.handles.pointee[number]
        if fileSystem.isDead(handle) {
            failDead(fileSystem, request, number)
            return
        }
        if handle.pointee.flags & O_NONBLOCK != 0 {
            fileSystem.fail(
                request,
                handle.pointee.node,
                EAGAIN,
                "no interrupt since the last read, and the file is nonblocking: poll first"
            )
            return
        }
        let id = lock.locked {
            nextID += 1
            registering.insert(nextID)
            return nextID
        }
        // Before anybody can answer the request: afterwards it may be gone.
        cfuse_on_interrupt(request, cancelInterruptReader, UnsafeMutableRawPointer(bitPattern: id))
        fileSystem.device.watchInterrupts(true)
        let isWaiting = lock.locked {
            guard registering.remove(id) != nil else { return false }
            waiters.append(Waiter(id: id, request: request, number: number, size: size))
            return true
        }
        guard isWaiting else {
            fileSystem.device.watchInterrupts(false)
            _ = fuse_reply_err(request, EINTR)
            return
        }
        // One may have come between the look and the wait, or the card may have gone.
        serve(fileSystem)
        if fileSystem.isDead(handle) { endDead(fileSystem) }
    }

    /// Ends the waits of those who opened the file before the card was removed.
    func endDead(_ fileSystem: CardFileSystem) {
        let dead = lock.locked {
            let isDead = { fileSystem.isDead(fileSystem.mount.pointee.handles.pointee[$0]) }
            let dead = waiters.filter { isDead($0.number) }
            waiters.removeAll { isDead($0.number) }
            return dead
        }
        for waiter in dead {
            fileSystem.device.watchInterrupts(false)
            failDead(fileSystem, waiter.request, waiter.number)
        }
    }

    private func failDead(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64) {
        fileSystem.failHot(.dead, request, fileSystem.mount.pointee.handles.pointee[number].pointee.node, number)
    }

    /// Answers those who wait and for whom there is something now.
    func serve(_ fileSystem: CardFileSystem) {
        // Who is not served stays in the list throughout, where a signal finds it.
        let served = lock.locked {
            var served: [(request: OpaquePointer, bytes: [UInt8])] = []
            waiters.removeAll { waiter in
                guard let bytes = next(fileSystem, waiter.number, waiter.size) else { return false }
                served.append((waiter.request, bytes))
                return true
            }
            return served
        }
        for (request, bytes) in served {
            fileSystem.device.watchInterrupts(false)
            _ = cfuse_reply_bytes(request, bytes, bytes.count)
        }
    }

    /// A signal for a reader.
    func cancel(_ fileSystem: CardFileSystem, _ id: UInt) {
        let waiter: Waiter? = lock.locked {
            // Its own thread answers a reader that is not in the list yet.
            registering.remove(id)
            guard let index = waiters.firstIndex(where: { $0.id == id }) else { return nil }
            return waiters.remove(at: index)
        }
        guard let waiter else { return }
        fileSystem.device.watchInterrupts(false)
        _ = fuse_reply_err(waiter.request, EINTR)
    }

    /// Ends all waits with an errno, for a mount that ends.
    func endAll(_ code: CInt) {
        let all = lock.locked {
            let all = waiters
            waiters = []
            return all
        }
        for waiter in all { _ = fuse_reply_err(waiter.request, code) }
    }

    /// The bytes a read gets next, if there are any; a line that does not fit is continued by the next read. The place in
    /// the text moves on before the reader is answered: its next read may come on another thread at once.
    private func next(_ fileSystem: CardFileSystem, _ number: UInt64, _ size: Int) -> [UInt8]? {
        let handles = fileSystem.mount.pointee.handles
        let handle = handles.pointee[number]
        return handles.pointee.lock(for: number).locked {
            if handle.pointee.textLength == 0 {
                var cursor = handle.pointee.cursor
                var limit = UInt64(min(4096, size / 16 + 1))
                if fileSystem.isDead(handle) {
                    // What came before the removal is still to be had, and nothing of the card's next life.
                    let end = fileSystem.device.lastRemovalInterrupt.load(ordering: .acquiring)
                    limit = min(limit, end > cursor ? end - cursor : 0)
                }
                var entries = [InterruptLog.Entry](repeating: InterruptLog.Entry(), count: Int(limit))
                let result = entries.withUnsafeMutableBufferPointer {
                    fileSystem.device.interrupt.pointee.log.read(from: &cursor, into: $0)
                }
                handle.pointee.cursor = cursor
                guard result.count > 0 else { return nil }
                var text = result.lost > 0 ? "lost \(result.lost)\n" : ""
                for (index, entry) in entries.prefix(result.count).enumerated() {
                    let fraction = String(entry.time % 1_000_000_000)
                    let padding = String(repeating: "0", count: 9 - fraction.utf8.count)
                    text += "\(result.first + UInt64(index)) \(entry.time / 1_000_000_000).\(padding)\(fraction)"
                    text += " \(entry.vector) \(entry.count)\n"
                }
                setText(handle, text)
            }
            guard let text = handle.pointee.text else { return nil }
            let count = min(size, handle.pointee.textLength)
            let bytes = [UInt8](UnsafeRawBufferPointer(start: text, count: count))
            handle.pointee.textLength -= count
            if handle.pointee.textLength > 0 { memmove(text, text + count, handle.pointee.textLength) }
            return bytes
        }
    }
}

private func cancelInterruptReader(_ request: OpaquePointer?, _ data: UnsafeMutableRawPointer?) {
    guard let request, let context = fuse_req_userdata(request) else { return }
    let mount = context.assumingMemoryBound(to: MountState.self)
    mount.pointee.fileSystem?._withUnsafeGuaranteedRef {
        $0.interruptReaders.cancel($0, UInt(bitPattern: data))
    }
}

/// Keeps a text with an open file, in place of the one before.
func setText(_ handle: UnsafeMutablePointer<Handle>, _ text: String) {
    if let old = handle.pointee.text { chw_free(old) }
    var text = text
    handle.pointee.textLength = text.utf8.count
    handle.pointee.text = text.withUTF8 { bytes in
        let copy = malloc(max(1, bytes.count))
        if let copy, let base = bytes.baseAddress { memcpy(copy, base, bytes.count) }
        return copy
    }
}
