import CHardware
import PCIBus
public import Synchronization

/// Follows requests through the framework, step by step, while it is on.
///
/// The steps are those in which a read gets from an application to its driver's handler: the call, the kernel that takes it
/// over, the packet, the dispatch to the device, the queue, the handler; then its end. A request is followed from its first
/// step on or not at all, so that one that was made while the trace was off costs the data path one look at ``isOn``.
///
/// Lives at a fixed address. The last 16,384 steps are kept; a reader that is later is told how many it missed.
public struct RequestTrace: ~Copyable {
    /// A step on the way of a request.
    public enum Step: UInt8, Sendable {
        /// A program called read(2), write(2), fsync(2) or close(2).
        case called = 1
        /// The kernel took it over and sent it to this process.
        case received
        /// A record was made of it (the I/O manager's IRP).
        case packet
        /// It was handed to the device's driver.
        case dispatched
        /// It was put into a queue.
        case queued
        /// The queue gave it to the driver's handler (EvtIoRead, EvtIoWrite).
        case handled
        /// It was completed.
        case completed
    }

    /// One step of one request.
    public struct Entry: Sendable {
        /// CLOCK_REALTIME in nanoseconds.
        public var time: UInt64 = 0
        /// Numbers the requests that were followed.
        public var request: UInt64 = 0
        /// What was done.
        public var step = Step.called
        /// To which request.
        public var kind = RequestKind.read
        /// ``Step/called``: bytes; ``Step/queued``: requests before it; ``Step/completed``: bytes done.
        public var count: UInt64 = 0
        /// ``Step/called``: the process; ``Step/packet``: the flags; ``Step/completed``: the status.
        public var detail: UInt64 = 0

        /// An entry to be filled.
        public init() {}

        @_noLocks init(_ request: UInt64, _ step: Step, _ kind: RequestKind, _ count: UInt64, _ detail: UInt64) {
            time = chw_clock_nanoseconds(CLOCK_REALTIME)
            self.request = request
            self.step = step
            self.kind = kind
            self.count = count
            self.detail = detail
        }
    }

    /// Steps kept.
    public static var capacity: UInt64 { @_noLocks get { 16_384 } }

    /// Whether requests that come now are followed.
    public let isOn = Atomic<Bool>(false)

    private let lock = Lock()
    private let entries: UnsafeMutablePointer<Entry>
    /// Entries written and requests numbered so far; guarded by `lock`.
    private let counts: UnsafeMutablePointer<(next: UInt64, requests: UInt64)>
    private let attention = Atomic<UInt32>(0)
    private let deferred: UnsafeMutablePointer<DeferredThread>
    private let call: UnsafeMutablePointer<Int>

    init(deferred: UnsafeMutablePointer<DeferredThread>) {
        self.deferred = deferred
        // Untouched pages of an anonymous mapping take no memory while the trace is off.
        let bytes = Int(Self.capacity) * MemoryLayout<Entry>.stride
        let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapping, Int(bitPattern: mapping) != -1 else { preconditionFailure("no address space for the trace") }
        entries = mapping.bindMemory(to: Entry.self, capacity: Int(Self.capacity))
        counts = .allocate(capacity: 1)
        counts.initialize(to: (0, 0))
        call = .allocate(capacity: 1)
        call.initialize(to: -1)
    }

    deinit {
        munmap(entries, Int(Self.capacity) * MemoryLayout<Entry>.stride)
        counts.deallocate()
        call.deallocate()
        lock.destroy()
    }

    /// Names the deferred call that tells readers. Before anything is traced.
    func setCall(_ call: Int) { self.call.pointee = call }

    /// Begins to follow a request that a program's call of `length` bytes made: its first three steps. Any level.
    @_noLocks public func begin(
        _ trace: UnsafeMutablePointer<RequestTrace>,
        _ record: UnsafeMutablePointer<RequestRecord>,
        process: Int32
    ) {
        lock.lock()
        counts.pointee.requests &+= 1
        record.pointee.traceNumber = counts.pointee.requests
        lock.unlock()
        record.pointee.trace = trace
        let length = UInt64(record.pointee.length)
        note(record, .called, length, UInt64(UInt32(bitPattern: process)))
        note(record, .received)
        note(record, .packet, length, UInt64(record.pointee.flags.rawValue))
    }

    /// Notes a step of a request that is followed. Any level.
    @_noLocks func note(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ step: Step,
        _ count: UInt64 = 0,
        _ detail: UInt64 = 0
    ) {
        let entry = Entry(record.pointee.traceNumber, step, record.pointee.kind, count, detail)
        lock.lock()
        entries[Int(truncatingIfNeeded: counts.pointee.next & (16_384 &- 1))] = entry
        counts.pointee.next &+= 1
        lock.unlock()
        if attention.load(ordering: .sequentiallyConsistent) != 0 { deferred.pointee.queue(call.pointee) }
    }

    /// The number of the next entry, and of the oldest that is kept.
    public var bounds: Range<UInt64> {
        lock.locked {
            let next = counts.pointee.next
            return (next > Self.capacity ? next - Self.capacity : 0)..<next
        }
    }

    /// Copies entries from `cursor` on, at most `limit`, and moves the cursor behind them; `lost` is how many it skipped.
    public func read(from cursor: inout UInt64, limit: Int) -> (entries: [Entry], lost: UInt64) {
        lock.lock()
        defer { lock.unlock() }
        let next = counts.pointee.next
        let oldest = next > Self.capacity ? next - Self.capacity : 0
        let lost = cursor < oldest ? oldest - cursor : 0
        cursor = max(cursor, oldest)
        let count = min(UInt64(limit), next - cursor)
        let result = (0..<count).map { entries[Int((cursor + $0) % Self.capacity)] }
        cursor += count
        return (result, lost)
    }

    /// Asks that the next step be told, or no longer; once for each reader that waits.
    public func watch(_ on: Bool) {
        if on {
            attention.wrappingAdd(1, ordering: .sequentiallyConsistent)
        } else {
            attention.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        }
    }
}

extension RequestRecord {
    /// Notes a step if this request is followed: costs a look at a word of the record if not. Any level.
    @inlinable @_noLocks public static func note(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ step: RequestTrace.Step,
        _ count: UInt64 = 0,
        _ detail: UInt64 = 0
    ) {
        if let trace = record.pointee.trace { noteStep(trace, record, step, count, detail) }
    }

    @usableFromInline @_noLocks static func noteStep(
        _ trace: UnsafeMutablePointer<RequestTrace>,
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ step: RequestTrace.Step,
        _ count: UInt64,
        _ detail: UInt64
    ) {
        trace.pointee.note(record, step, count, detail)
    }
}
