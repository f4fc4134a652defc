public import CHardware
public import Synchronization

/// Time as the driver sees it: CLOCK_MONOTONIC, or a clock that a test moves by hand.
///
/// A value is a handle; copies name the same clock.
public struct Clock: @unchecked Sendable {  // the only shared word is atomic
    /// 0 while real time is used; else the manual time plus 1.
    @usableFromInline let manual: UnsafeMutablePointer<Atomic<UInt64>>

    private init(manual start: UInt64) {
        manual = .allocate(capacity: 1)
        manual.initialize(to: Atomic(start))
    }

    private static let real = Clock(manual: 0)

    /// The clock that follows CLOCK_MONOTONIC, of which there is one.
    public static func monotonic() -> Clock { real }

    /// A clock that stands at `start` nanoseconds until it is moved.
    public static func stepped(from start: UInt64 = 1_000_000_000) -> Clock { Clock(manual: start &+ 1) }

    /// Whether a test moves this clock.
    @inlinable public var isStepped: Bool { manual.pointee.load(ordering: .relaxed) != 0 }

    /// Nanoseconds since an arbitrary start.
    @inlinable @_noLocks public func now() -> UInt64 {
        let stepped = manual.pointee.load(ordering: .acquiring)
        return stepped == 0 ? chw_clock_nanoseconds(CLOCK_MONOTONIC) : stepped &- 1
    }

    /// Moves a stepped clock on. Those who wait for a deadline are told by whoever calls this.
    public func advance(byNanoseconds step: UInt64) {
        precondition(isStepped)
        manual.pointee.wrappingAdd(step, ordering: .acquiringAndReleasing)
    }

    /// Frees a stepped clock.
    public func destroy() {
        precondition(isStepped)
        manual.deinitialize(count: 1)
        manual.deallocate()
    }
}
