public import CHardware
public import PCIBus

/// The thread of a card that runs deferred procedure calls and timers, at dispatch level.
///
/// An interrupt service routine queues a call and returns; the call runs here, where it may take locks and complete
/// requests. Each call also has one timer, which queues it when its time comes. The table is fixed when the card starts.
public struct DeferredThread: ~Copyable {
    /// The most calls a card can have.
    public static let capacity = 8

    /// A call in the table: what an interrupt routine needs to queue it.
    public struct Call {
        fileprivate var routine: chw_routine
        fileprivate var context: UnsafeMutableRawPointer
        fileprivate var isQueued = false
        fileprivate var deadline: UInt64 = .max
    }

    /// The words the threads share, guarded by the lock.
    private struct State {
        var count = 0
        var isEnding = false
        /// When the thread will wake by itself; 0 while it runs calls.
        var sleepsUntil: UInt64 = 0
        var thread: Thread?
    }

    private let lock: Lock
    private let clock: Clock
    private let calls: UnsafeMutablePointer<Call>
    private let state: UnsafeMutablePointer<State>

    /// Makes the table; the thread starts with ``start(_:name:)``.
    public init(clock: Clock) {
        lock = Lock()
        self.clock = clock
        calls = .allocate(capacity: Self.capacity)
        state = .allocate(capacity: 1)
        state.initialize(to: State())
    }

    deinit {
        calls.deallocate()
        state.deinitialize(count: 1)
        state.deallocate()
        lock.destroy()
    }

    /// Adds a call (KeInitializeDpc) and answers its number. Passive level.
    public func register(context: UnsafeMutableRawPointer, routine: @escaping chw_routine) -> Int {
        lock.lock()
        defer { lock.unlock() }
        let index = state.pointee.count
        precondition(index < Self.capacity)
        (calls + index).initialize(to: Call(routine: routine, context: context))
        state.pointee.count = index + 1
        return index
    }

    /// Starts the thread of the table at `table`, which stays there until ``stop()`` returns. Throws when the host
    /// gives no thread.
    public static func start(_ table: UnsafeMutablePointer<DeferredThread>, name: String) throws(BusError) {
        let address = UInt(bitPattern: table)
        table.pointee.state.pointee.thread = try Thread(starting: name) {
            UnsafeMutablePointer<DeferredThread>(bitPattern: address)?.pointee.run()
        }
    }

    /// Ends the thread. No call runs when this returns. Passive level.
    public func stop() {
        lock.lock()
        state.pointee.isEnding = true
        let thread = state.pointee.thread
        state.pointee.thread = nil
        lock.broadcast()
        lock.unlock()
        thread?.join()
    }

    /// Queues a call; once if it is queued already (KeInsertQueueDpc). Any level; does not wait.
    @_noLocks public func queue(_ call: Int) {
        lock.lock()
        if !calls[call].isQueued {
            calls[call].isQueued = true
            lock.signal()
        }
        lock.unlock()
    }

    /// Queues the call when the clock reaches `deadline`, or at an earlier time set before (KeSetTimer). Any level.
    @_noLocks public func setTimer(_ call: Int, _ deadline: UInt64) {
        lock.lock()
        if deadline < calls[call].deadline {
            calls[call].deadline = deadline
            if deadline < state.pointee.sleepsUntil { lock.signal() }
        }
        lock.unlock()
    }

    /// Looks at the timers anew after a stepped clock was moved.
    public func clockMoved() {
        lock.lock()
        lock.broadcast()
        lock.unlock()
    }

    /// Makes a deferred call at its level.
    static func perform(_ routine: chw_routine, _ context: UnsafeMutableRawPointer) {
        let before = ExecutionLevel.dispatch.enter()
        routine(context)
        let level = ExecutionLevel.current
        ExecutionLevel.leave(to: before)
        if level != .dispatch { Verifier.note(.levelNotRestored, "a deferred call returned at \(level.name)") }
    }

    private func run() {
        lock.lock()
        while !state.pointee.isEnding {
            let now = clock.now()
            var earliest = UInt64.max
            var ran = false
            for index in 0..<state.pointee.count {
                if calls[index].deadline <= now {
                    calls[index].deadline = .max
                    calls[index].isQueued = true
                }
                if calls[index].isQueued {
                    calls[index].isQueued = false
                    let routine = calls[index].routine
                    let context = calls[index].context
                    lock.unlock()
                    Self.perform(routine, context)
                    lock.lock()
                    ran = true
                }
                earliest = min(earliest, calls[index].deadline)
            }
            if ran || state.pointee.isEnding { continue }
            state.pointee.sleepsUntil = earliest
            if clock.isStepped || earliest == .max { lock.wait() } else { _ = lock.wait(until: earliest) }
            state.pointee.sleepsUntil = 0
        }
        lock.unlock()
    }
}
