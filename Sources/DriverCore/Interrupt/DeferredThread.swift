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

    private let lock: Lock
    private let clock: Clock
    private let calls: UnsafeMutablePointer<Call>
    private var count = 0
    private var isEnding = false
    /// When the thread will wake by itself; `.max` while it runs calls. Guarded by `lock`.
    private var sleepsUntil: UInt64 = 0
    private var thread: Thread?

    /// Makes the table; the thread starts with ``start(_:name:)``.
    public init(clock: Clock) {
        lock = Lock()
        self.clock = clock
        calls = .allocate(capacity: Self.capacity)
    }

    deinit {
        calls.deallocate()
        lock.destroy()
    }

    /// Adds a call (KeInitializeDpc) and answers its number. Passive level.
    public mutating func register(context: UnsafeMutableRawPointer, routine: @escaping chw_routine) -> Int {
        lock.lock()
        defer { lock.unlock() }
        precondition(count < Self.capacity)
        (calls + count).initialize(to: Call(routine: routine, context: context))
        count += 1
        return count - 1
    }

    /// Starts the thread of the table at `table`, which stays there until ``stop()`` returns.
    public static func start(_ table: UnsafeMutablePointer<DeferredThread>, name: String) {
        let address = UInt(bitPattern: table)
        table.pointee.thread = Thread(name: name) {
            UnsafeMutablePointer<DeferredThread>(bitPattern: address)?.pointee.run()
        }
    }

    /// Ends the thread. No call runs when this returns. Passive level.
    public mutating func stop() {
        lock.lock()
        isEnding = true
        lock.broadcast()
        lock.unlock()
        thread?.join()
        thread = nil
    }

    /// Queues a call; once if it is queued already (KeInsertQueueDpc). Any level; does not wait.
    @_noLocks public mutating func queue(_ call: Int) {
        lock.lock()
        if !calls[call].isQueued {
            calls[call].isQueued = true
            lock.signal()
        }
        lock.unlock()
    }

    /// Queues the call when the clock reaches `deadline`, or at an earlier time set before (KeSetTimer). Any level.
    @_noLocks public mutating func setTimer(_ call: Int, _ deadline: UInt64) {
        lock.lock()
        if deadline < calls[call].deadline {
            calls[call].deadline = deadline
            if deadline < sleepsUntil { lock.signal() }
        }
        lock.unlock()
    }

    /// Looks at the timers anew after a stepped clock was moved.
    public mutating func clockMoved() {
        lock.lock()
        lock.broadcast()
        lock.unlock()
    }

    private mutating func run() {
        lock.lock()
        while !isEnding {
            let now = clock.now()
            var earliest = UInt64.max
            var ran = false
            for index in 0..<count {
                if calls[index].deadline <= now {
                    calls[index].deadline = .max
                    calls[index].isQueued = true
                }
                if calls[index].isQueued {
                    calls[index].isQueued = false
                    let routine = calls[index].routine
                    let context = calls[index].context
                    lock.unlock()
                    routine(context)
                    lock.lock()
                    ran = true
                }
                earliest = min(earliest, calls[index].deadline)
            }
            if ran || isEnding { continue }
            sleepsUntil = earliest
            if clock.isStepped || earliest == .max { lock.wait() } else { _ = lock.wait(until: earliest) }
            sleepsUntil = 0
        }
        lock.unlock()
    }
}
