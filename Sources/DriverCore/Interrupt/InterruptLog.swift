import CHardware
import PCIBus
import Synchronization

/// The interrupts of a card, in order and without loss: the last 65,536 are kept, and a reader that is later is told how
/// many it missed.
///
/// Lives at a fixed address; written from interrupt service routines.
public struct InterruptLog: ~Copyable {
    /// One interrupt.
    public struct Entry: Sendable {
        /// CLOCK_REALTIME in nanoseconds.
        public var time: UInt64 = 0
        /// The vector that fired.
        public var vector: UInt32 = 0
        /// How many interrupts this delivery stands for.
        public var count: UInt32 = 0

        /// An entry to be filled.
        public init() {}

        @_noLocks init(time: UInt64, vector: UInt32, count: UInt32) {
            self.time = time
            self.vector = vector
            self.count = count
        }
    }

    /// Entries kept.
    public static let capacity: UInt64 = 65_536

    private let lock: Lock
    private let entries: UnsafeMutablePointer<Entry>
    /// Entries ever written, and interrupts they stand for; guarded by `lock`.
    private let counts: UnsafeMutablePointer<(next: UInt64, total: UInt64)>
    private let attention: Atomic<UInt32>

    /// An empty log.
    public init() {
        lock = Lock()
        // Untouched pages of an anonymous mapping take no memory, unlike those an allocator clears.
        let bytes = Int(Self.capacity) * MemoryLayout<Entry>.stride
        let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapping, Int(bitPattern: mapping) != -1 else {
            preconditionFailure("no address space for the interrupt log")
        }
        entries = mapping.bindMemory(to: Entry.self, capacity: Int(Self.capacity))
        counts = .allocate(capacity: 1)
        counts.initialize(to: (0, 0))
        attention = Atomic(0)
    }

    deinit {
        munmap(entries, Int(Self.capacity) * MemoryLayout<Entry>.stride)
        counts.deallocate()
        lock.destroy()
    }

    /// Adds an interrupt; true if a reader waits for it. Device level.
    @_noLocks func append(vector: UInt32, count: UInt32) -> Bool {
        let time = chw_clock_nanoseconds(CLOCK_REALTIME)
        lock.lock()
        entries[Int(truncatingIfNeeded: counts.pointee.next & (65_536 &- 1))] = Entry(
            time: time,
            vector: vector,
            count: count
        )
        counts.pointee.next &+= 1
        counts.pointee.total &+= UInt64(count)
        lock.unlock()
        return attention.load(ordering: .sequentiallyConsistent) != 0
    }

    /// The sequence number the next interrupt will get: the cursor of a file that is being opened.
    public var end: UInt64 { lock.locked { counts.pointee.next } }

    /// Interrupts so far, coalesced ones counted singly.
    public var totalCount: UInt64 { lock.locked { counts.pointee.total } }

    /// Copies entries from `cursor` on into `buffer` and moves the cursor behind them. `lost` is how many it skipped.
    public borrowing func read(
        from cursor: inout UInt64,
        into buffer: UnsafeMutableBufferPointer<Entry>
    ) -> (first: UInt64, count: Int, lost: UInt64) {
        lock.lock()
        defer { lock.unlock() }
        let next = counts.pointee.next
        let oldest = next > Self.capacity ? next - Self.capacity : 0
        let lost = cursor < oldest ? oldest - cursor : 0
        cursor = max(cursor, oldest)
        let first = cursor
        let count = min(buffer.count, Int(next - cursor))
        for index in 0..<count { buffer[index] = entries[Int((cursor + UInt64(index)) % Self.capacity)] }
        cursor += UInt64(count)
        return (first, count, lost)
    }

    /// Asks that the next interrupt be told (or no longer), once for each reader that waits.
    public func watch(_ on: Bool) {
        if on {
            attention.wrappingAdd(1, ordering: .sequentiallyConsistent)
        } else {
            attention.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        }
    }
}
