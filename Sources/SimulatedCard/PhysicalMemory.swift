import CHardware
import PCIBus
import Synchronization

/// The memory of the simulated machine as one function sees it: page frames of a physical space, each behind a page of
/// this process.
///
/// Frames of an allocation never follow each other, so that whoever takes physical for logical addresses, or a buffer for
/// contiguous, fails here and not first on silicon. The order is the same in every run.
struct PhysicalMemory: @unchecked Sendable {  // a table of atomics
    /// The first frame, at 4 GiB: above what a 32-bit device could reach without an IOMMU.
    static var firstFrame: UInt64 { @_noLocks get { 0x10_0000 } }
    /// 4 GiB of frames.
    static var frameCount: Int { @_noLocks get { 0x100000 } }
    /// The host address of each frame; 0 where nothing is.
    private let table: UnsafeMutablePointer<Atomic<UInt>>

    /// The table is dense: the frames of one allocation have entries all over it.
    init(pages: HostPages) throws(BusError) {
        table = try pages.map(Self.frameCount * 8, isDense: true)
            .bindMemory(to: Atomic<UInt>.self, capacity: Self.frameCount)
    }

    /// The page of this process behind a frame. The engine that asks has pinned its translations.
    @_noLocks func page(_ frame: UInt64) -> UnsafeMutableRawPointer? {
        let index = Int(truncatingIfNeeded: frame &- Self.firstFrame)
        guard index >= 0, index < Self.frameCount else { return nil }
        return UnsafeMutableRawPointer(bitPattern: table[index].load(ordering: .acquiring))
    }

    /// Has the entry of a frame brought into the cache.
    @inline(__always) @_noLocks func expect(_ frame: UInt64) {
        let index = Int(truncatingIfNeeded: frame &- Self.firstFrame)
        if index >= 0, index < Self.frameCount { chw_prefetch(table + index) }
    }

    /// Puts a page of this process behind a frame, or nothing.
    func set(_ frame: UInt64, to page: UnsafeMutableRawPointer?) {
        table[Int(frame &- Self.firstFrame)]
            .store(page.map { UInt(bitPattern: $0) } ?? 0, ordering: .sequentiallyConsistent)
    }

    /// The frame number `index` takes: every index another frame, in an order without pattern.
    static func frame(_ index: Int, seed: UInt64) -> UInt64 {
        let mask = UInt64(frameCount - 1)
        // Each line is a bijection of 20 bits: an odd factor, or a shift mixed in from above.
        var value = (UInt64(index) &+ seed) & mask
        value = value &* 0x9_e375 & mask
        value ^= value >> 9
        value = value &* 0x5_4b2d & mask
        value ^= value >> 11
        return firstFrame + value
    }
}

/// Allocations and mappings of a function: the part of the platform that is asked at set-up.
final class MemoryMap: @unchecked Sendable {  // everything is under its lock, or a table of atomics
    private struct Allocation {
        var byteCount: Int
        var frames: UnsafeMutablePointer<UInt64>
        var indices: [Int]
        var file: CInt?
    }

    private struct Mapping {
        var first: UInt64
        var end: UInt64
    }

    /// As many as the kernel's type 1 IOMMU grants by default (dma_entry_limit).
    static let mappingLimit = 65_535

    let physical: PhysicalMemory
    let iommu: IOMMU
    private let lock = Lock()
    private let seed: UInt64
    private var allocations: [UInt: Allocation] = [:]
    private var nextIndex = 0
    private var freeIndices: [Int] = []
    private var mappings: [Mapping] = []

    init(seed: UInt64, pages: HostPages) throws(BusError) {
        self.seed = seed
        physical = try PhysicalMemory(pages: pages)
        iommu = try IOMMU(physical: physical, pages: pages)
    }

    deinit {
        for base in allocations.keys { remove(base) }
        iommu.destroy()
        lock.destroy()
    }

    // MARK: Memory

    /// Zeroed pages; where they are shared, in a file that others can map to read them.
    func allocate(byteCount: Int, isShared: Bool = false) throws(BusError) -> DMAMemory {
        guard byteCount > 0, byteCount <= PhysicalMemory.frameCount * pageBytes else {
            throw BusError(EINVAL, "cannot allocate \(byteCount) bytes for DMA")
        }
        let byteCount = Page.roundedUp(byteCount)
        let pages = byteCount / pageBytes
        return try lock.locked { () throws(BusError) in
            // A few frames more than needed, for those that are passed over below.
            guard pages + 64 <= PhysicalMemory.frameCount - nextIndex + freeIndices.count else {
                throw BusError(ENOMEM, "the simulated machine has no \(byteCount) bytes of memory left")
            }
            let (base, file) = try Self.pages(byteCount, isShared: isShared)
            let frames = UnsafeMutablePointer<UInt64>.allocate(capacity: pages)
            var indices: [Int] = []
            indices.reserveCapacity(pages)
            var skipped: [Int] = []
            while indices.count < pages {
                let index = takeIndex()
                let frame = PhysicalMemory.frame(index, seed: seed)
                if let last = indices.last, PhysicalMemory.frame(last, seed: seed) + 1 == frame, skipped.count < 64 {
                    skipped.append(index)
                    continue
                }
                frames[indices.count] = frame
                physical.set(frame, to: base + indices.count * pageBytes)
                indices.append(index)
            }
            freeIndices.append(contentsOf: skipped)
            allocations[UInt(bitPattern: base)] = Allocation(
                byteCount: byteCount,
                frames: frames,
                indices: indices,
                file: file
            )
            return DMAMemory(base: base, byteCount: byteCount, frames: UnsafePointer(frames), file: file)
        }
    }

    private static func pages(
        _ byteCount: Int,
        isShared: Bool
    ) throws(BusError) -> (base: UnsafeMutableRawPointer, file: CInt?) {
        guard isShared else { return (try HostPages.take(byteCount, isDense: true), nil) }
        var base: UnsafeMutableRawPointer?
        let file = chw_shared_memory("cardfs-ring", byteCount, &base)
        guard file >= 0, let base else { throw HostPages.failure(byteCount, -file) }
        return (base, file)
    }

    private func takeIndex() -> Int {
        if nextIndex < PhysicalMemory.frameCount {
            nextIndex += 1
            return nextIndex - 1
        }
        return freeIndices.removeLast()
    }

    /// Gives memory back; `settle` returns when no engine is in the middle of an access.
    func free(_ memory: DMAMemory, settle: () -> Void) {
        lock.locked {
            let base = UInt(bitPattern: memory.base)
            guard let allocation = allocations[base] else { return }
            for page in 0..<allocation.indices.count { physical.set(allocation.frames[page], to: nil) }
            settle()
            remove(base)
        }
    }

    private func remove(_ base: UInt) {
        guard let allocation = allocations.removeValue(forKey: base) else { return }
        freeIndices.append(contentsOf: allocation.indices)
        allocation.frames.deallocate()
        munmap(UnsafeMutableRawPointer(bitPattern: base), allocation.byteCount)
        if let file = allocation.file { close(file) }
    }

    // MARK: Mappings (the rules of VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA, type 1 version 2)

    func map(
        _ base: UnsafeMutableRawPointer,
        byteCount: Int,
        at logical: LogicalAddress,
        access: DMAAccess
    ) throws(BusError) {
        let (first, end) = try Self.range(logical, byteCount)
        guard UInt(bitPattern: base) & 0xfff == 0 else {
            throw BusError(EINVAL, "the memory to map does not begin on a page")
        }
        guard !access.isDisjoint(with: [.read, .write]) else {
            throw BusError(EINVAL, "a mapping that may neither be read nor written")
        }
        guard IOMMU.ranges.contains(where: { $0.contains(first) && $0.contains(end - 1) }) else {
            throw BusError(EINVAL, "\(logical) and \(byteCount) bytes on are not in a range the IOMMU translates")
        }
        try lock.locked { () throws(BusError) in
            let at = position(of: first)
            if at < mappings.count, mappings[at].first < end {
                throw BusError(EEXIST, "\(logical) and \(byteCount) bytes on overlap a mapping")
            }
            guard mappings.count < Self.mappingLimit else {
                throw BusError(ENOSPC, "the IOMMU has its \(Self.mappingLimit) mappings")
            }
            let start = UInt(bitPattern: base)
            guard
                let owner = allocations.first(where: { owner, allocation in
                    owner <= start && UInt(byteCount) <= UInt(allocation.byteCount)
                        && start - owner <= UInt(allocation.byteCount - byteCount)
                })
            else {
                throw BusError(EFAULT, "the memory to map was not allocated for DMA")
            }
            let firstPage = Int(start - owner.key) / pageBytes
            for page in 0..<byteCount / pageBytes {
                iommu.set(Int(first >> 12) + page, frame: owner.value.frames[firstPage + page], access)
            }
            mappings.insert(Mapping(first: first, end: end), at: at)
            iommu.mappedBytes.pointee.wrappingAdd(byteCount, ordering: .relaxed)
        }
    }

    /// Takes mappings away; `settle` returns when no engine is in the middle of an access.
    func unmap(at logical: LogicalAddress, byteCount: Int, settle: () -> Void) throws(BusError) {
        let (first, end) = try Self.range(logical, byteCount)
        try lock.locked { () throws(BusError) in
            let from = position(of: first)
            var to = from
            while to < mappings.count, mappings[to].first < end { to += 1 }
            guard from < to else { return }
            guard mappings[from].first >= first, mappings[to - 1].end <= end else {
                throw BusError(EINVAL, "\(logical) and \(byteCount) bytes on would cut a mapping in two")
            }
            for mapping in mappings[from..<to] {
                for page in Int(mapping.first >> 12)..<Int(mapping.end >> 12) { iommu.clear(page) }
                iommu.mappedBytes.pointee.wrappingSubtract(Int(mapping.end - mapping.first), ordering: .relaxed)
            }
            mappings.removeSubrange(from..<to)
            settle()
        }
    }

    /// The first mapping that ends behind `logical`.
    private func position(of logical: UInt64) -> Int {
        var low = 0
        var high = mappings.count
        while low < high {
            let middle = (low + high) / 2
            if mappings[middle].end <= logical { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private static func range(_ logical: LogicalAddress, _ byteCount: Int) throws(BusError) -> (UInt64, UInt64) {
        let (end, wraps) = logical.value.addingReportingOverflow(UInt64(clamping: byteCount))
        guard byteCount > 0, byteCount & 0xfff == 0, logical.value & 0xfff == 0, !wraps else {
            throw BusError(EINVAL, "\(logical) and \(byteCount) bytes on are not whole pages")
        }
        return (logical.value, end)
    }
}
