import CHardware
import PCIBus
import Synchronization

/// The IOMMU of a function: one table of atomic entries for a logical space of 32 bits.
struct IOMMU: @unchecked Sendable {  // tables of atomics; the record of faults is under the lock of the card
    /// What an access does to memory.
    enum Direction: String { case read, write }

    /// What can be translated: page 0 catches null pointers, and the addresses of interrupt messages are not memory.
    static let ranges: [ClosedRange<UInt64>] = [0x1000...0xfedf_ffff, 0xfef0_0000...0xffff_ffff]

    private static let pageCount = 0x100000

    struct Faults {
        var count: UInt64 = 0
        var logical: UInt32 = 0
        var direction = Direction.read
    }

    /// The address lines the card drives. Constant once the card is made.
    let addressMask: UnsafeMutablePointer<UInt32>
    /// Frame << 12 | access bits; 0 where nothing is mapped.
    private let table: UnsafeMutablePointer<Atomic<UInt64>>
    /// Bytes that are mapped.
    let mappedBytes: UnsafeMutablePointer<Atomic<Int>>
    let physical: PhysicalMemory
    /// Under the lock of the card.
    let faults: UnsafeMutablePointer<Faults>

    init(physical: PhysicalMemory, pages: HostPages) throws(BusError) {
        self.physical = physical
        table = try pages.map(Self.pageCount * 8).bindMemory(to: Atomic<UInt64>.self, capacity: Self.pageCount)
        mappedBytes = .allocate(capacity: 1)
        mappedBytes.initialize(to: Atomic(0))
        addressMask = .allocate(capacity: 1)
        addressMask.initialize(to: .max)
        faults = .allocate(capacity: 1)
        faults.initialize(to: Faults())
    }

    func destroy() {
        mappedBytes.deinitialize(count: 1)
        mappedBytes.deallocate()
        faults.deallocate()
        addressMask.deallocate()
    }

    /// Where an access of the card goes; nil when it may not. The engine that asks has pinned its translations, so the page
    /// stays until it unpins them: this load comes after the pin in the one order of all such accesses, and whoever clears an
    /// entry looks for pins afterwards.
    @inline(__always) @_noLocks func translate(_ logical: UInt32, _ direction: Direction) -> UnsafeMutableRawPointer? {
        let logical = logical & addressMask.pointee
        let entry = table[Int(logical >> 12)].load(ordering: .sequentiallyConsistent)
        guard entry & (direction == .read ? 1 : 2) != 0, let page = physical.page(entry >> 12) else { return nil }
        return page + Int(logical & 0xfff)
    }

    /// Has what the next translation needs brought into the cache: frames lie without order, so that each is a miss otherwise.
    @inline(__always) @_noLocks func expect(_ logical: UInt32) {
        let logical = logical & addressMask.pointee
        physical.expect(table[Int(logical >> 12)].load(ordering: .relaxed) >> 12)
    }

    func set(_ page: Int, frame: UInt64, _ access: DMAAccess) {
        table[page].store(frame << 12 | UInt64(access.rawValue & 3), ordering: .releasing)
    }

    func clear(_ page: Int) { table[page].store(0, ordering: .sequentiallyConsistent) }

    /// Keeps what was refused. The lock of the card is held.
    @_noLocks func record(_ logical: UInt32, _ direction: Direction) {
        faults.pointee.count &+= 1
        faults.pointee.logical = logical
        faults.pointee.direction = direction
    }
}
