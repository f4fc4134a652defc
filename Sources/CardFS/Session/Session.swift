import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

/// The FUSE session of a mount: libfuse's session object and the threads that receive requests for it.
///
/// Requests are received into DMA memory, placed so that the data of a write begins on a page. A request that needs its
/// memory beyond its callback keeps it, and the thread goes on with another.
public final class Session: @unchecked Sendable {  // the session object is libfuse's, which locks it
    private let fileSystem: CardFileSystem
    private let mount: UnsafeMutablePointer<MountState>
    private let session: OpaquePointer
    private var arguments: fuse_args
    private var threads: [Thread] = []
    /// The mount, as the kernel lists it; nil before it is made.
    private var entry: MountTable.Entry?
    /// It could not be taken away. Written by who ends, read after that.
    private var isLeftBehind = false
    private var isMounted = false
    private let receivers = Receivers()

    /// Makes a session for a file system. `name` is what mount(8) shows as the source.
    public init(_ fileSystem: CardFileSystem, name: String) throws(Refusal) {
        self.fileSystem = fileSystem
        mount = fileSystem.mount
        var words = ["cardfs", "-o", "fsname=\(name),subtype=cardfs,default_permissions"]
        if fileSystem.options.readOnly { words += ["-o", "ro"] }
        if fileSystem.options.allowOther { words += ["-o", "allow_other"] }
        if !fileSystem.options.kernelOptions.isEmpty {
            words += ["-o", fileSystem.options.kernelOptions.joined(separator: ",")]
        }
        arguments = fuse_args(argc: 0, argv: nil, allocated: 0)
        for word in words { fuse_opt_add_arg(&arguments, word) }
        var operations = makeOperations()
        guard let session = cfuse_session_new(&arguments, &operations, fileSystem.mount) else {
            fuse_opt_free_args(&arguments)
            throw Refusal(
                "libfuse did not take the mount options",
                hint: "cardfs mount --help lists them",
                kind: .usage
            )
        }
        self.session = session
    }

    /// Mounts. When it returns, the kernel sends requests, and ``start()`` must follow.
    public func mount(at mountpoint: String) throws(Refusal) {
        guard fuse_session_mount(session, mountpoint) == 0 else {
            let code = errno
            throw Refusal(
                "mounting on \(mountpoint) failed: \(errnoMeaning(code))",
                hint: ProcessLimit.advice(code) ?? "is /dev/fuse there and may you use it? apt-get install fuse3",
                kind: Refusal.Kind(errno: code, otherwise: .unavailable)
            )
        }
        isMounted = true
        entry = MountTable.current().top(at: mountpoint)
    }

    /// Serves a socket on which a test plays the kernel.
    public func serve(socket: CInt) -> Bool { cfuse_session_use_socket(session, socket) == 0 }

    /// Starts the receive threads. Without them the mount is taken away again.
    public func start() throws(Refusal) {
        let spin = fileSystem.options.spinNanoseconds
        if spin > 0 {
            let device = fuse_session_fd(session)
            _ = fcntl(device, F_SETFL, fcntl(device, F_GETFL) | O_NONBLOCK)
        }
        for index in 0..<fileSystem.options.receiveThreads {
            let session = SendableSession(session)
            let mount = Shared(mount)
            let receivers = receivers
            receivers.begin()
            do throws(BusError) {
                let thread = try Thread(starting: "fuse-\(index)") {
                    receiveAll(session.session, mount.value, spin)
                    receivers.end()
                }
                threads.append(thread)
            } catch {
                receivers.end()
                waitUntilEnded()
                throw Refusal(error.sentence, code: error.code)
            }
        }
    }

    /// Receives and serves one request on the calling thread; false at the end of the session. For tests.
    public func serveOne() -> Bool {
        // Captured by themselves: the session object would be retained.
        let (session, mount) = (session, mount)
        guard let buffer = mount.pointee.arena.pointee.takeReceiveBuffer() else { return false }
        var state = ReceiveThreadState(buffer: buffer, replacement: nil)
        let isServed = withUnsafeMutablePointer(to: &state) { receiveOne(session, mount, $0) }
        mount.pointee.arena.pointee.give(.receiveBuffer, state.buffer)
        return isServed
    }

    /// Serves until the mount is gone: unmounted from outside, or ended by ``end()``. What still holds it two seconds after
    /// that is cut off.
    public func waitUntilEnded() {
        receivers.waitForFirstEnd()
        end()
        // The kernel lets go of the receivers once the mount is detached and the last of its files is closed.
        if !receivers.waitForLastEnd(until: chw_clock_nanoseconds(CLOCK_MONOTONIC) + 2_000_000_000) {
            // Somebody keeps a file open. Receivers sit in read(2): only a signal gets them out, and the flag ends them.
            fuse_session_exit(session)
            while !receivers.waitForLastEnd(until: chw_clock_nanoseconds(CLOCK_MONOTONIC) + 10_000_000) {
                for thread in threads { thread.interrupt() }
            }
        }
        for thread in threads { thread.join() }
        threads = []
    }

    /// Ends what waits and detaches the mount, so that no new caller comes. Any thread, any number of times; it is done when this
    /// returns.
    public func end() {
        guard receivers.beginEnding() else { return receivers.waitForEnding() }
        fileSystem.endWaiting()
        if isMounted {
            fuse_session_unmount(session)
            isLeftBehind = entry != nil && entry == MountTable.current().top(at: entry?.mountpoint ?? "")
        }
        receivers.endRequested()
    }

    /// Takes the mount away if that has failed before: a user who may have no more processes can start the program that unmounts
    /// only when the threads have ended. Called last.
    public func sweep() {
        guard isLeftBehind, let entry, MountTable.current().top(at: entry.mountpoint) == entry else { return }
        isLeftBehind = false
        _ = try? Unmounting.unmount(entry.mountpoint, lazily: true)
    }

    deinit {
        fuse_session_destroy(session)
        fuse_opt_free_args(&arguments)
    }
}

/// Receives and serves requests until the session ends.
private func receiveAll(_ session: OpaquePointer, _ mount: UnsafeMutablePointer<MountState>, _ spin: UInt64) {
    guard let buffer = mount.pointee.arena.pointee.takeReceiveBuffer() else { return }
    Thread.allowInterrupts()
    var state = ReceiveThreadState(buffer: buffer, replacement: nil, spin: spin)
    withUnsafeMutablePointer(to: &state) { state in
        while receiveOne(session, mount, state) {}
    }
    mount.pointee.arena.pointee.give(.receiveBuffer, state.buffer)
}

/// Receives one request into the thread's buffer and serves it; false at the end of the session.
private func receiveOne(
    _ session: OpaquePointer,
    _ mount: UnsafeMutablePointer<MountState>,
    _ state: UnsafeMutablePointer<ReceiveThreadState>
) -> Bool {
    let index = state.pointee.buffer
    mount.pointee.owners[Int(index)] = state
    var buffer = fuse_buf()
    buffer.mem = mount.pointee.arena.pointee.message(index)
    let result = fuse_session_receive_buf(session, &buffer)
    if result == -EINTR { return fuse_session_exited(session) == 0 }
    if result == -EAGAIN, state.pointee.spin > 0 {
        lookOrSleep(session, state)
        return fuse_session_exited(session) == 0
    }
    guard result > 0 else { return false }
    fuse_session_process_buf(session, &buffer)
    if state.pointee.spin > 0 {
        state.pointee.looksUntil = chw_clock_nanoseconds(CLOCK_MONOTONIC) &+ state.pointee.spin
    }
    if let replacement = state.pointee.replacement {
        state.pointee.buffer = replacement
        state.pointee.replacement = nil
    }
    return fuse_session_exited(session) == 0
}

/// Between two looks for a request: lets others run for a moment, or sleeps until there is one if none came for long enough. A
/// caller on another processor is answered without the time it takes to wake a thread there.
private func lookOrSleep(_ session: OpaquePointer, _ state: UnsafeMutablePointer<ReceiveThreadState>) {
    guard chw_clock_nanoseconds(CLOCK_MONOTONIC) >= state.pointee.looksUntil else {
        sched_yield()
        return
    }
    var device = pollfd(fd: fuse_session_fd(session), events: Int16(POLLIN), revents: 0)
    _ = poll(&device, 1, -1)
    state.pointee.looksUntil = chw_clock_nanoseconds(CLOCK_MONOTONIC) &+ state.pointee.spin
}

/// Counts the receive threads, and wakes whoever waits for them to end.
private final class Receivers: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var running = 0
    private var hasEnded = false
    private var isEnding = false
    private var isUnmounted = false

    deinit { lock.destroy() }

    func begin() { lock.locked { running += 1 } }

    func end() {
        lock.locked {
            running -= 1
            hasEnded = true
            lock.broadcast()
        }
    }

    /// True for the first caller.
    func beginEnding() -> Bool {
        lock.locked {
            defer { isEnding = true }
            return !isEnding
        }
    }

    func endRequested() {
        lock.locked {
            hasEnded = true
            isUnmounted = true
            lock.broadcast()
        }
    }

    func waitForEnding() { lock.locked { while !isUnmounted { lock.wait() } } }

    func waitForFirstEnd() { lock.locked { while !hasEnded { lock.wait() } } }

    func waitForLastEnd(until deadline: UInt64) -> Bool {
        lock.locked {
            while running > 0 {
                if !lock.wait(until: deadline) { return running == 0 }
            }
            return true
        }
    }
}

private struct SendableSession: @unchecked Sendable {  // libfuse's session may be used by many threads
    let session: OpaquePointer
    init(_ session: OpaquePointer) { self.session = session }
}
