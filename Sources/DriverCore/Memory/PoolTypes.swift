import PCIBus

/// Whether pool memory may be paged out (POOL_TYPE).
public enum PoolType: Sendable {
    /// Resident: prefaulted, and locked where RLIMIT_MEMLOCK admits it. For every level up to dispatch.
    case nonPaged
    /// May leave RAM at any time: for APC level and below, and not for what paging itself needs.
    case paged
}

/// One to four printable ASCII characters that say whose memory it is.
public struct PoolTag: Hashable, Sendable, CustomStringConvertible {
    /// The characters.
    public let description: String

    /// Makes a tag; nil for none, more than four, or others than 0x20…0x7E.
    public init?(_ text: String) {
        guard (1...4).contains(text.utf8.count), text.utf8.allSatisfy({ (0x20...0x7e).contains($0) }) else {
            return nil
        }
        description = text
    }
}

/// How much memory a pool request takes.
public enum PoolRounding: Sendable {
    /// A request of more than a page takes whole pages, and the tail of the last one is nobody's: 5 KB take 8 KB, while
    /// 4 KB and 1 KB asked for one by one take 5 KB.
    case classic
    /// The tail is given to later requests, so that nothing is to be gained by asking twice.
    case vista

    /// Bytes a request takes.
    public func chargedBytes(for byteCount: Int) -> Int {
        switch self {
        case .classic: byteCount > Page.size ? Page.roundedUp(byteCount) : byteCount
        case .vista: byteCount
        }
    }
}

/// The allocators of I/O memory.
public enum MemoryAllocator: String, CaseIterable, Sendable {
    /// MmAllocateNonCachedMemory.
    case nonCached
    /// MmAllocateContiguousMemorySpecifyCache.
    case contiguous
    /// AllocateCommonBuffer.
    case commonBuffer
    /// ExAllocatePoolWithTag.
    case pool
}

/// What one allocator has given out.
public struct MemoryStatistics: Equatable, Sendable {
    /// Allocations that exist.
    public var count = 0
    /// Allocations made so far.
    public var total = 0
    /// Bytes that were asked for and not freed.
    public var byteCount = 0
    /// Bytes those take.
    public var chargedBytes = 0
    /// The most bytes taken at a time.
    public var peakBytes = 0
    /// Requests that failed.
    public var failures = 0
    /// Bytes taken that nobody can use.
    public var wastedBytes: Int { chargedBytes - byteCount }

    /// Nothing yet.
    public init() {}

    mutating func add(_ byteCount: Int, _ charged: Int) {
        count += 1
        total += 1
        self.byteCount += byteCount
        chargedBytes += charged
        peakBytes = max(peakBytes, chargedBytes)
    }

    mutating func remove(_ byteCount: Int, _ charged: Int) {
        count -= 1
        self.byteCount -= byteCount
        chargedBytes -= charged
    }
}
