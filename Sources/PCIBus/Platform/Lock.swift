public import CHardware

/// A pthread mutex with a condition variable, at a fixed address, for state shared between threads of the daemon.
///
/// A value is a handle: copies name the same lock. Whoever makes one destroys it. (`Synchronization.Mutex` is opaque to
/// ThreadSanitizer on Linux, and neither it nor its closure may be used on the data path.)
public struct Lock: @unchecked Sendable {  // pthread objects are made for sharing
    @usableFromInline let mutex: UnsafeMutablePointer<pthread_mutex_t>
    @usableFromInline let condition: UnsafeMutablePointer<pthread_cond_t>

    /// Makes a lock. Its condition waits on CLOCK_MONOTONIC.
    public init() {
        mutex = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        mutex.initialize(to: pthread_mutex_t())
        condition.initialize(to: pthread_cond_t())
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    /// Frees the lock, which nobody may hold or wait on.
    public func destroy() {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// Takes the lock; blocks while another thread holds it.
    @inlinable @_noLocks public func lock() { chw_mutex_lock(mutex) }

    /// Gives the lock back.
    @inlinable @_noLocks public func unlock() { chw_mutex_unlock(mutex) }

    /// Wakes one waiter.
    @inlinable @_noLocks public func signal() { chw_condition_signal(condition) }

    /// Wakes all waiters.
    @inlinable @_noLocks public func broadcast() { chw_condition_broadcast(condition) }

    /// Waits for a wake-up, the lock held before and after.
    public func wait() { pthread_cond_wait(condition, mutex) }

    /// Waits for a wake-up until a time of CLOCK_MONOTONIC in nanoseconds; false when the time came first.
    public func wait(until deadline: UInt64) -> Bool {
        var time = timespec(tv_sec: Int(deadline / 1_000_000_000), tv_nsec: Int(deadline % 1_000_000_000))
        return pthread_cond_timedwait(condition, mutex, &time) != ETIMEDOUT
    }

    /// Runs a closure with the lock held.
    @inlinable public func locked<T, E: Error>(_ body: () throws(E) -> T) throws(E) -> T {
        lock()
        defer { unlock() }
        return try body()
    }
}
