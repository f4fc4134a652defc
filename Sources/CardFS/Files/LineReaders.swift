import CFuse
import CHardware
import DriverCore
import PCIBus

/// What a file says line by line for as long as somebody reads it.
protocol LineSource: Sendable {
    /// Lines from a cursor on, about as many as fit into a read of `size` bytes, and moves the cursor behind them; nil when
    /// there is none now.
    func lines(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>, _ size: Int) -> String?
    /// Asks that the next line be told, or no longer.
    func watch(_ fileSystem: CardFileSystem, _ on: Bool)
    /// Whether no line comes any more: a reader has reached the end of the file.
    func isAtEnd(_ fileSystem: CardFileSystem) -> Bool
    /// Why a nonblocking read fails.
    var nothingYet: String { get }
}

/// The readers of a file that grows while it is read, in any read size: `interrupts/log` and `trace`.
final class LineReaders: @unchecked Sendable {  // guarded by `lock`
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
    private var nextID: UInt
    private let source: any LineSource

    /// Makes the readers of a source. Readers have numbers of their own among all files: `index` is 0 or 1.
    init(_ source: any LineSource, index: UInt) {
        self.source = source
        nextID = 2 + index
    }

    deinit { lock.destroy() }

    /// Answers a read, or lets it wait for the next interrupt.
    func read(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64, _ size: Int) {
        if let bytes = next(fileSystem, number, size) {
            _ = cfuse_reply_bytes(request, bytes, bytes.count)
            return
        }
        let handle = fileSystem.mount.pointee.handles.pointee[number]
        if isDead(fileSystem, handle) {
            failDead(fileSystem, request, number)
            return
        }
        if source.isAtEnd(fileSystem) {
            _ = fuse_reply_buf(request, nil, 0)
            return
        }
        if handle.pointee.flags & O_NONBLOCK != 0 {
            fileSystem.fail(
                request,
                handle.pointee.node,
                EAGAIN,
                source.nothingYet + ", and the file is nonblocking: poll first"
            )
            return
        }
        let id = lock.locked {
            nextID += 2
            registering.insert(nextID)
            return nextID
        }
        // Before anybody can answer the request: afterwards it may be gone.
        cfuse_on_interrupt(request, cancelLineReader, UnsafeMutableRawPointer(bitPattern: id))
        source.watch(fileSystem, true)
        let isWaiting = lock.locked {
            guard registering.remove(id) != nil else { return false }
            waiters.append(Waiter(id: id, request: request, number: number, size: size))
            return true
        }
        guard isWaiting else {
            source.watch(fileSystem, false)
            _ = fuse_reply_err(request, EINTR)
            return
        }
        // One may have come between the look and the wait, or the card may have gone.
        serve(fileSystem)
        if isDead(fileSystem, handle) { endDead(fileSystem) }
    }

    /// Ends the waits of those who opened the file before the card was removed.
    func endDead(_ fileSystem: CardFileSystem) {
        let dead: [Waiter] = lock.locked {
            func isDead(_ waiter: Waiter) -> Bool {
                self.isDead(fileSystem, fileSystem.mount.pointee.handles.pointee[waiter.number])
            }
            let dead = waiters.filter(isDead)
            waiters.removeAll(where: isDead)
            return dead
        }
        for waiter in dead {
            source.watch(fileSystem, false)
            failDead(fileSystem, waiter.request, waiter.number)
        }
    }

    /// A trace is the mount's, and goes on with the card's next life.
    private func isDead(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>) -> Bool {
        if case .interruptLog = handle.pointee.kind { fileSystem.isDead(handle) } else { false }
    }

    private func failDead(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64) {
        fileSystem.failHot(.dead, request, fileSystem.mount.pointee.handles.pointee[number].pointee.node, number)
    }

    /// Answers those who wait and for whom there is something now.
    func serve(_ fileSystem: CardFileSystem) {
        // Who is not served stays in the list throughout, where a signal finds it.
        let served = lock.locked {
            var served: [(request: OpaquePointer, bytes: [UInt8])] = []
            let isAtEnd = source.isAtEnd(fileSystem)
            waiters.removeAll { waiter in
                let bytes = next(fileSystem, waiter.number, waiter.size)
                guard bytes != nil || isAtEnd else { return false }
                served.append((waiter.request, bytes ?? []))
                return true
            }
            return served
        }
        for (request, bytes) in served {
            source.watch(fileSystem, false)
            _ = cfuse_reply_bytes(request, bytes, bytes.count)
        }
    }

    /// Whether nothing comes any more.
    func isAtEnd(_ fileSystem: CardFileSystem) -> Bool { source.isAtEnd(fileSystem) }

    /// A signal for a reader.
    func cancel(_ fileSystem: CardFileSystem, _ id: UInt) {
        let waiter: Waiter? = lock.locked {
            // Its own thread answers a reader that is not in the list yet.
            registering.remove(id)
            guard let index = waiters.firstIndex(where: { $0.id == id }) else { return nil }
            return waiters.remove(at: index)
        }
        guard let waiter else { return }
        source.watch(fileSystem, false)
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
                guard let text = source.lines(fileSystem, handle, size) else { return nil }
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

private func cancelLineReader(_ request: OpaquePointer?, _ data: UnsafeMutableRawPointer?) {
    guard let request, let context = fuse_req_userdata(request) else { return }
    let mount = context.assumingMemoryBound(to: MountState.self)
    mount.pointee.fileSystem?._withUnsafeGuaranteedRef {
        let id = UInt(bitPattern: data)
        (id & 1 == 0 ? $0.interruptReaders : $0.traceReaders).cancel($0, id)
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
