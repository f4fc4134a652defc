import CHardware
import Glibc
import PCIBus

/// Memory that ``SystemMemory`` gave out. A handle; whoever has it frees it, once.
public struct SystemAllocation: @unchecked Sendable {  // a description; who may touch the bytes is the owner's business
    /// Which allocator it came from.
    public let allocator: MemoryAllocator
    /// First byte.
    public let base: UnsafeMutableRawPointer
    /// Bytes that were asked for. What lies behind belongs to nobody.
    public let byteCount: Int
    /// Bytes it takes.
    public let chargedBytes: Int
    /// Whether it may be paged out; nil for what is no pool.
    public let type: PoolType?
    /// Whose it is; nil for what is no pool.
    public let tag: PoolTag?
    fileprivate let serial: UInt64

    /// The bytes. Throws ``Status/invalidDeviceState`` for paged memory above APC level, where a page fault cannot be served.
    public func bytes() throws(StatusError) -> UnsafeMutableRawBufferPointer {
        if type == .paged, ExecutionLevel.current > .apc {
            throw StatusError(.invalidDeviceState, "paged memory is touched at \(ExecutionLevel.current.name)")
        }
        return UnsafeMutableRawBufferPointer(start: base, count: byteCount)
    }

    /// An MDL of the whole of it.
    public var descriptor: MemoryDescriptorList {
        MemoryDescriptorList(virtualAddress: VirtualAddress(base), byteCount: byteCount)
    }
}

/// The allocators that need no adapter: the pool, and memory that is given out in whole pages.
///
/// (The two that need one are ``DMAAdapter/allocateCommonBuffer(byteCount:alignment:)`` and
/// ``DMAAdapter/allocateContiguousMemory(byteCount:lowest:highest:boundary:)``.) Any thread, at the levels of the routines.
public final class SystemMemory: @unchecked Sendable {  // guarded by `lock`
    /// Where the processor's cache lines begin: every allocation but the pool's is aligned to at least that.
    public static let cacheLineByteCount = 64

    /// How much pool requests take.
    public let rounding: PoolRounding
    private let lock = Lock()
    private let resident = ResidentHeap()
    private var live: [UInt64: SystemAllocation] = [:]
    private var serial: UInt64 = 0
    private var counts: [MemoryAllocator: MemoryStatistics] = [:]
    private let limit: Int

    /// Makes an empty heap of at most `limit` bytes.
    public init(rounding: PoolRounding = .vista, limit: Int = 64 << 20) {
        self.rounding = rounding
        self.limit = limit
    }

    deinit {
        for allocation in live.values { release(allocation) }
        resident.destroy()
        lock.destroy()
    }

    /// Takes pool memory (ExAllocatePoolWithTag), not zeroed. ``Status/invalidParameter`` for no bytes,
    /// ``Status/insufficientResources`` when there are not enough, ``Status/invalidDeviceState`` at a wrong level.
    public func allocatePool(
        _ byteCount: Int,
        _ type: PoolType,
        tag: PoolTag
    ) throws(StatusError) -> SystemAllocation {
        try (type == .paged ? LevelRule.allocatePagedPool : .allocateNonPagedPool).check()
        guard byteCount > 0 else { throw StatusError(.invalidParameter, "a pool request of no bytes, tag \(tag)") }
        return try take(.pool, byteCount, rounding.chargedBytes(for: min(byteCount, limit + 1)), type, tag) { charged in
            type == .paged ? malloc(charged) : self.resident.take(charged, alignment: 16)
        }
    }

    /// Takes whole pages that processor caches do not reorder (MmAllocateNonCachedMemory). x86 snoops its caches for DMA,
    /// so ordinary resident pages do. Zeroed, since pages of a process are. Errors as ``allocatePool(_:_:tag:)``.
    public func allocateNonCached(_ byteCount: Int) throws(StatusError) -> SystemAllocation {
        try LevelRule.allocateNonCached.check()
        guard byteCount > 0 else { throw StatusError(.invalidParameter, "non-cached memory of no bytes") }
        let pages = Page.roundedUp(min(byteCount, limit + 1))
        return try take(.nonCached, byteCount, pages, nil, nil) { charged in
            let memory = self.resident.take(charged, alignment: UInt(Page.size))
            if let memory { memset(memory, 0, charged) }
            return memory
        }
    }

    private func take(
        _ allocator: MemoryAllocator,
        _ byteCount: Int,
        _ charged: Int,
        _ type: PoolType?,
        _ tag: PoolTag?,
        _ get: (Int) -> UnsafeMutableRawPointer?
    ) throws(StatusError) -> SystemAllocation {
        try lock.locked { () throws(StatusError) in
            let used = counts.values.reduce(0) { $0 + $1.chargedBytes }
            guard charged <= limit - used, let base = get(charged) else {
                counts[allocator, default: MemoryStatistics()].failures += 1
                throw StatusError(
                    .insufficientResources,
                    "no \(byteCount) bytes of \(allocator.rawValue) memory are left"
                )
            }
            serial += 1
            let allocation = SystemAllocation(
                allocator: allocator,
                base: base,
                byteCount: byteCount,
                chargedBytes: charged,
                type: type,
                tag: tag,
                serial: serial
            )
            live[serial] = allocation
            counts[allocator, default: MemoryStatistics()].add(byteCount, charged)
            return allocation
        }
    }

    /// Gives memory back (ExFreePoolWithTag, MmFreeNonCachedMemory). Throws ``Status/invalidParameter`` for what is not out:
    /// a second time, another heap's, or under another tag.
    public func free(_ allocation: SystemAllocation, tag: PoolTag? = nil) throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard let known = live[allocation.serial], known.base == allocation.base, tag == nil || tag == known.tag
            else {
                throw StatusError(
                    .invalidParameter,
                    "memory is freed that is not out, or not under the tag \(tag?.description ?? "it has")"
                )
            }
            live[allocation.serial] = nil
            counts[known.allocator, default: MemoryStatistics()].remove(known.byteCount, known.chargedBytes)
            release(known)
        }
    }

    private func release(_ allocation: SystemAllocation) {
        if allocation.type == .paged {
            chw_free(allocation.base)
        } else {
            resident.give(allocation.base, allocation.chargedBytes)
        }
    }

    /// What an allocator has given out.
    public func statistics(_ allocator: MemoryAllocator) -> MemoryStatistics {
        lock.locked { counts[allocator] ?? MemoryStatistics() }
    }

    /// Resident bytes that RLIMIT_MEMLOCK did not admit to be locked.
    public var unlockedBytes: Int { lock.locked { resident.unlockedBytes } }
}

/// Resident memory in chunks: prefaulted, and locked where the limit admits it. First fit; under the lock of its owner.
private final class ResidentHeap {
    private static let chunkByteCount = 64 << 10
    private var chunks: [(base: UnsafeMutableRawPointer, byteCount: Int)] = []
    /// Free ranges by rising address.
    private var free: [Range<UInt>] = []
    private(set) var unlockedBytes = 0

    func destroy() {
        for chunk in chunks { munmap(chunk.base, chunk.byteCount) }
    }

    func take(_ byteCount: Int, alignment: UInt) -> UnsafeMutableRawPointer? {
        if let memory = fit(byteCount, alignment) { return memory }
        let size = max(Self.chunkByteCount, Page.roundedUp(byteCount))
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE
        guard let chunk = mmap(nil, size, PROT_READ | PROT_WRITE, flags, -1, 0),
            chunk != UnsafeMutableRawPointer(bitPattern: -1)
        else { return nil }
        if mlock(chunk, size) != 0 { unlockedBytes += size }
        chunks.append((chunk, size))
        let start = UInt(bitPattern: chunk)
        insert(start..<start + UInt(size))
        return fit(byteCount, alignment)
    }

    private func fit(_ byteCount: Int, _ alignment: UInt) -> UnsafeMutableRawPointer? {
        let size = (UInt(byteCount) + 15) & ~15
        for (index, range) in free.enumerated() {
            let start = (range.lowerBound + alignment - 1) & ~(alignment - 1)
            guard start >= range.lowerBound, start <= range.upperBound, range.upperBound - start >= size else {
                continue
            }
            free.remove(at: index)
            if start + size < range.upperBound { free.insert(start + size..<range.upperBound, at: index) }
            if start > range.lowerBound { free.insert(range.lowerBound..<start, at: index) }
            return UnsafeMutableRawPointer(bitPattern: start)
        }
        return nil
    }

    func give(_ base: UnsafeMutableRawPointer, _ byteCount: Int) {
        let start = UInt(bitPattern: base)
        insert(start..<start + (UInt(byteCount) + 15) & ~15)
    }

    private func insert(_ range: Range<UInt>) {
        var range = range
        let isChunkStart: (UInt) -> Bool = { [chunks] address in
            chunks.contains { UInt(bitPattern: $0.base) == address }
        }
        // Neighbours become one, but not across chunks: those are unmapped one by one.
        if let index = free.firstIndex(where: { $0.upperBound == range.lowerBound }), !isChunkStart(range.lowerBound) {
            range = free.remove(at: index).lowerBound..<range.upperBound
        }
        if let index = free.firstIndex(where: { $0.lowerBound == range.upperBound }), !isChunkStart(range.upperBound) {
            range = range.lowerBound..<free.remove(at: index).upperBound
        }
        free.insert(range, at: free.firstIndex { $0.lowerBound > range.lowerBound } ?? free.endIndex)
    }
}
