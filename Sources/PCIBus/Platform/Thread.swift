import CHardware

/// A thread of the daemon, which is joined or detached exactly once.
public struct Thread: @unchecked Sendable {  // the handle is an integer
    private let handle: pthread_t

    /// Starts a thread, without which the process cannot go on: it ends if there is none.
    public init(name: String, _ body: @escaping @Sendable () -> Void) {
        do {
            try self.init(starting: name, body)
        } catch {
            preconditionFailure(error.sentence)
        }
    }

    /// Starts a thread with a name (at most 15 bytes are shown) and all signals blocked, so that they reach the thread that
    /// waits for them; except those a thread raises by its own access, which the kernel would turn into its end.
    ///
    /// Throws EAGAIN when the user may have no more threads, or there is no memory for its stack.
    public init(starting name: String, _ body: @escaping @Sendable () -> Void) throws(BusError) {
        final class Start: Sendable {
            let name: String
            let body: @Sendable () -> Void
            init(name: String, body: @escaping @Sendable () -> Void) {
                self.name = name
                self.body = body
            }
        }
        var all = sigset_t()
        var old = sigset_t()
        sigfillset(&all)
        for own in [SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP] { sigdelset(&all, own) }
        pthread_sigmask(SIG_SETMASK, &all, &old)
        defer { pthread_sigmask(SIG_SETMASK, &old, nil) }

        var created = pthread_t()
        let start = Unmanaged.passRetained(Start(name: name, body: body))
        let result = pthread_create(
            &created,
            nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                chw_name_thread(start.name)
                start.body()
                return nil
            },
            start.toOpaque()
        )
        guard result == 0 else {
            start.release()
            throw BusError(result, "the host gives no thread for \(name)")
        }
        handle = created
    }

    /// Gets the thread out of a system call that waits, with EINTR; it must have called ``allowInterrupts()``.
    public func interrupt() { pthread_kill(handle, SIGUSR1) }

    /// Lets ``interrupt()`` reach the calling thread: SIGUSR1 is unblocked and does nothing but end a wait.
    public static func allowInterrupts() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGUSR1, &action, nil)
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGUSR1)
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    /// Lets the thread go: nobody will join it, because it may never end.
    public func detach() { pthread_detach(handle) }

    /// Whether the calling thread is this one.
    public var isCurrent: Bool { pthread_equal(handle, pthread_self()) != 0 }

    /// Waits for the thread to end. A thread that waits for itself is a defect, and the process ends.
    public func join() {
        precondition(!isCurrent, "a thread cannot wait for its own end")
        pthread_join(handle, nil)
    }
}
