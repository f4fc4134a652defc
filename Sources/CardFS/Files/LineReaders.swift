import CFuse
import CHardware
import DriverCore
import PCIBus

/// What a file says line by line for as long as somebody reads it.
protocol LineSource: Sendable {
    /// Lines from a cursor on, about as many as fit into a read of `size` bytes and some for those that follow, and moves the cursor behind them; nil when
    /// there is none now.
    func lines(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>, _ size: Int) -> String?
    /// The number the next line will have.
    func end(_ fileSystem: CardFileSystem) -> UInt64
    /// Asks that the next line be told, or no longer.
    func watch(_ fileSystem: CardFileSystem, _ on: Bool)
    /// Whether no line comes any more: a reader has reached the end of the file.
    func isAtEnd(_ fileSystem: CardFileSystem) -> Bool
    /// What the notifier calls a new line.
    var happening: Happening { get }
    /// Why a nonblocking read fails.
    var nothingYet: String { get }
}

/// The readers of a file that grows while it is read, in any read size: `interrupts/log` and `trace`.
///
/// Who has caught up is served in rounds of the notifier, with rests between: a thousand readers of each interrupt would
/// otherwise take the processor from those who move data.
final class LineReaders: @unchecked Sendable {  // guarded by `lock`
    private struct Waiter {
        var request: OpaquePointer
        var number: UInt64
        var size: Int
        /// In whose account it is counted.
        var account: UnsafeMutablePointer<UserShares.Account>?
    }

    /// Lines that are made at once for reads that take less than one.
    static let batch = 64

    /// The lines that were made last: those who have caught up ask for the same ones.
    private struct Lines {
        var text = ""
        var cursor: UInt64 = 0
        var size = 0
        var end: UInt64 = 0
    }

    private let lock = Lock()
    private var waiters: [UInt: Waiter] = [:]
    /// Readers about to wait, whose signals are awaited already.
    private var registering: Set<UInt> = []
    private var nextID: UInt
    private let source: any LineSource
    private let lineLock = Lock()
    private var newest = Lines()  // guarded by `lineLock`
    private let attentionLock = Lock()
    /// The next line will be told; guarded by `attentionLock`.
    private var isAttentive = false

    /// Makes the readers of a source. Readers have numbers of their own among all files: `index` is 0 or 1.
    init(_ source: any LineSource, index: UInt) {
        self.source = source
        nextID = 2 + index
    }

    deinit {
        lock.destroy()
        attentionLock.destroy()
        lineLock.destroy()
    }

    /// Answers a read, or lets it wait for the next line.
    func read(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64, _ size: Int, _ flags: CInt) {
        let handle = fileSystem.mount.pointee.handles.pointee[number]
        let isNonblocking = flags & O_NONBLOCK != 0
        let isLast = isDead(fileSystem, handle) || source.isAtEnd(fileSystem)
        if isLast || isNonblocking || maySkipRound(fileSystem, handle, number),
            let bytes = next(fileSystem, number, size)
        {
            if !isNonblocking { fileSystem.notifier.lengthen(source.happening, Self.rest(1, bytes.count)) }
            if bytes.count < size { fileSystem.armAgain(number) }
            _ = cfuse_reply_bytes(request, bytes, bytes.count)
            return
        }
        if isDead(fileSystem, handle) {
            failDead(fileSystem, request, number)
            return
        }
        if source.isAtEnd(fileSystem) {
            _ = fuse_reply_buf(request, nil, 0)
            return
        }
        if isNonblocking {
            fileSystem.armAgain(number)
            fileSystem.fail(
                request,
                handle.pointee.node,
                EAGAIN,
                source.nothingYet + ", and the file is nonblocking: poll first"
            )
            return
        }
        wait(fileSystem, request, number, size)
    }

    private func wait(_ fileSystem: CardFileSystem, _ request: OpaquePointer, _ number: UInt64, _ size: Int) {
        let handle = fileSystem.mount.pointee.handles.pointee[number]
        let account: UnsafeMutablePointer<UserShares.Account>?
        switch fileSystem.mount.pointee.users.take(.lineReads, callingUser(request)) {
        case .taken(let own): account = own
        case .refused(let reach):
            fileSystem.refuse(request, handle.pointee.node, .lineReads, reach)
            return
        }
        let id = lock.locked {
            nextID += 2
            registering.insert(nextID)
            return nextID
        }
        // Before anybody can answer the request: afterwards it may be gone.
        cfuse_on_interrupt(request, cancelLineReader, UnsafeMutableRawPointer(bitPattern: id))
        fileSystem.device.watchPresence(true)
        let isWaiting = lock.locked {
            guard registering.remove(id) != nil else { return false }
            waiters[id] = Waiter(request: request, number: number, size: size, account: account)
            return true
        }
        guard isWaiting else {
            ended(fileSystem, account)
            _ = fuse_reply_err(request, EINTR)
            return
        }
        attend(fileSystem)
        // A line may have come between the look and the wait, or the card may have gone. The handle may be another file's by
        // now; then a round more is made.
        if isDead(fileSystem, handle) { fileSystem.notifier.raise(.removal) }
        if backlog(fileSystem, handle, number) > 0 || source.isAtEnd(fileSystem) {
            fileSystem.notifier.raise(source.happening)
        }
    }

    /// A wait has ended.
    private func ended(_ fileSystem: CardFileSystem, _ account: UnsafeMutablePointer<UserShares.Account>?) {
        fileSystem.device.watchPresence(false)
        fileSystem.mount.pointee.users.give(.lineReads, account)
    }

    /// Asks that the next line be told to the notifier.
    func attend(_ fileSystem: CardFileSystem) {
        attentionLock.locked {
            if !isAttentive { source.watch(fileSystem, true) }
            isAttentive = true
        }
    }

    /// A line has come. On the thread that completes DMA: no more lines are told until a round has been made.
    func told(_ fileSystem: CardFileSystem) {
        attentionLock.locked {
            if isAttentive { source.watch(fileSystem, false) }
            isAttentive = false
        }
        fileSystem.notifier.raise(source.happening)
    }

    /// Whether a read is answered without waiting for a round: with the rest of a line, or because nobody was woken for some time.
    private func maySkipRound(
        _ fileSystem: CardFileSystem,
        _ handle: UnsafeMutablePointer<Handle>,
        _ number: UInt64
    ) -> Bool {
        let backlog = backlog(fileSystem, handle, number)
        return backlog == .max || backlog > 0 && fileSystem.notifier.mayBegin(source.happening)
    }

    /// How long to rest after so many were woken with so many bytes, in nanoseconds: some twenty times what it took the machine.
    private static func rest(_ woken: Int, _ bytes: Int) -> UInt64 {
        UInt64(woken) * Notifier.rest + UInt64(bytes) * 10
    }

    /// Lines for an open file now; more than any read asks for when a part of a line is left.
    private func backlog(
        _ fileSystem: CardFileSystem,
        _ handle: UnsafeMutablePointer<Handle>,
        _ number: UInt64
    ) -> UInt64 {
        let end = source.end(fileSystem)
        return fileSystem.mount.pointee.handles.pointee.lock(for: number).locked {
            if handle.pointee.textLength > 0 { return .max }
            return end > handle.pointee.cursor ? end - handle.pointee.cursor : 0
        }
    }

    /// Whether poll(2) finds an open file readable.
    func isReadable(_ fileSystem: CardFileSystem, _ number: UInt64) -> Bool {
        backlog(fileSystem, fileSystem.mount.pointee.handles.pointee[number], number) > 0 || source.isAtEnd(fileSystem)
    }

    /// Ends the waits of those who opened the file before the card was removed. On the notifier's thread.
    func endDead(_ fileSystem: CardFileSystem) {
        let dead: [Waiter] = lock.locked {
            let dead = waiters.filter { isDead(fileSystem, fileSystem.mount.pointee.handles.pointee[$0.value.number]) }
            for id in dead.keys { waiters[id] = nil }
            return Array(dead.values)
        }
        for waiter in dead {
            ended(fileSystem, waiter.account)
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

    /// Answers those who wait and for whom there is something now, and wakes those who poll. On the notifier's thread; answers
    /// how long to rest.
    func serve(_ fileSystem: CardFileSystem) -> UInt64 {
        let end = source.end(fileSystem)
        let isAtEnd = source.isAtEnd(fileSystem)
        var woken = 0
        var given = 0
        for id in lock.locked({ waiters.keys.sorted() }) {
            // Who is not served stays in the list throughout, where a signal finds it. The lock is held for one at a time: a
            // thread that serves requests waits for it.
            let served: (waiter: Waiter, bytes: [UInt8])? = lock.locked {
                guard let waiter = waiters[id] else { return nil }
                let bytes = next(fileSystem, waiter.number, waiter.size)
                guard bytes != nil || isAtEnd else { return nil }
                waiters[id] = nil
                if let bytes, bytes.count < waiter.size { fileSystem.armAgain(waiter.number) }
                return (waiter, bytes ?? [])
            }
            guard let (waiter, bytes) = served else { continue }
            ended(fileSystem, waiter.account)
            _ = cfuse_reply_bytes(waiter.request, bytes, bytes.count)
            woken += 1
            given += bytes.count
        }
        woken += fileSystem.poll.notify(source.happening, PollTable.events(source.happening))
        if lock.locked({ !waiters.isEmpty }) || fileSystem.poll.isAwaited(source.happening) {
            attend(fileSystem)
            // What came meanwhile was told to nobody.
            if source.end(fileSystem) != end || source.isAtEnd(fileSystem) != isAtEnd {
                fileSystem.notifier.raise(source.happening)
            }
        }
        return Self.rest(woken, given)
    }

    /// A signal for a reader.
    func cancel(_ fileSystem: CardFileSystem, _ id: UInt) {
        let waiter: Waiter? = lock.locked {
            // Its own thread answers a reader that is not in the list yet.
            registering.remove(id)
            return waiters.removeValue(forKey: id)
        }
        guard let waiter else { return }
        ended(fileSystem, waiter.account)
        _ = fuse_reply_err(waiter.request, EINTR)
    }

    /// Ends all waits with an errno, for a mount that ends.
    func endAll(_ code: CInt) {
        let all = lock.locked {
            defer { waiters = [:] }
            return Array(waiters.values)
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
                guard let text = lines(fileSystem, handle, size) else { return nil }
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

extension LineReaders {
    /// Lines from the cursor of an open file on, made once for all who stand there.
    private func lines(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>, _ size: Int) -> String? {
        // Of a card that was removed not all that is there is given.
        if isDead(fileSystem, handle) { return source.lines(fileSystem, handle, size) }
        let cursor = handle.pointee.cursor
        let known = lineLock.locked { newest }
        if !known.text.isEmpty, known.cursor == cursor, known.size == size {
            handle.pointee.cursor = known.end
            return known.text
        }
        guard let text = source.lines(fileSystem, handle, size) else { return nil }
        let made = Lines(text: text, cursor: cursor, size: size, end: handle.pointee.cursor)
        lineLock.locked { newest = made }
        return text
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
