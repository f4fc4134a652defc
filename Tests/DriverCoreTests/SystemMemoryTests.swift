import CHardware
import Glibc
import PCIBus
import Testing

@testable import DriverCore

@Suite struct SystemMemoryTests {
    let tag = PoolTag("Card")!

    @Test(arguments: [
        (5120, 8192, 5120), (4096, 4096, 4096), (1024, 1024, 1024), (4097, 8192, 4097), (1, 1, 1), (8192, 8192, 8192),
    ])
    func `more than a page takes whole pages, as a policy`(byteCount: Int, classic: Int, vista: Int) throws {
        #expect(PoolRounding.classic.chargedBytes(for: byteCount) == classic)
        #expect(PoolRounding.vista.chargedBytes(for: byteCount) == vista)
        for (rounding, charged) in [(PoolRounding.classic, classic), (.vista, vista)] {
            let memory = SystemMemory(rounding: rounding)
            let allocation = try memory.allocatePool(byteCount, .nonPaged, tag: tag)
            let bytes = try allocation.bytes()
            #expect(allocation.chargedBytes == charged && bytes.count == byteCount)
            #expect(memory.statistics(.pool).wastedBytes == charged - byteCount)
        }
    }

    @Test func `4 KB and 1 KB asked for one by one take 5 KB, 5 KB at once take 8`() throws {
        let memory = SystemMemory(rounding: .classic)
        let whole = try memory.allocatePool(5120, .nonPaged, tag: tag)
        #expect(memory.statistics(.pool).chargedBytes == 8192 && memory.statistics(.pool).wastedBytes == 3072)
        try memory.free(whole)
        _ = try memory.allocatePool(4096, .nonPaged, tag: tag)
        _ = try memory.allocatePool(1024, .nonPaged, tag: tag)
        #expect(memory.statistics(.pool).chargedBytes == 5120 && memory.statistics(.pool).wastedBytes == 0)
    }

    @Test func `non-cached memory is whole pages on a page, of which the caller has what it asked for`() throws {
        let memory = SystemMemory()
        for byteCount in [1, 64, 4096, 4097, 100_000] {
            let allocation = try memory.allocateNonCached(byteCount)
            let bytes = try allocation.bytes()
            #expect(UInt(bitPattern: allocation.base) % 4096 == 0 && bytes.count == byteCount)
            #expect(allocation.chargedBytes == (byteCount + 4095) / 4096 * 4096 && bytes.allSatisfy { $0 == 0 })
            #expect(allocation.descriptor.byteCount == byteCount && allocation.descriptor.byteOffset == 0)
            memset(allocation.base, 0xff, byteCount)
        }
        #expect(
            UInt(SystemMemory.cacheLineByteCount).nonzeroBitCount == 1 && 4096 % SystemMemory.cacheLineByteCount == 0
        )
    }

    @Test func `pool memory is counted by who asked, freed once, and under its own tag`() throws {
        let memory = SystemMemory()
        let first = try memory.allocatePool(100, .nonPaged, tag: tag)
        let second = try memory.allocatePool(200, .paged, tag: tag)
        let other = try #require(PoolTag("None"))
        #expect(status { () throws(StatusError) in try memory.free(first, tag: other) } == .invalidParameter)
        #expect(memory.statistics(.pool).count == 2 && memory.statistics(.pool).byteCount == 300)
        try memory.free(first, tag: tag)
        #expect(status { () throws(StatusError) in try memory.free(first) } == .invalidParameter)
        #expect(status { () throws(StatusError) in try SystemMemory().free(second) } == .invalidParameter)
        try memory.free(second)
        var expected = MemoryStatistics()
        expected.total = 2
        expected.peakBytes = 300
        #expect(memory.statistics(.pool) == expected)
    }

    @Test(arguments: [("", false), ("a", true), ("Wdfx", true), ("Wdfxx", false), ("a\n", false), ("Ä", false)])
    func `a tag is one to four printable characters`(text: String, isTag: Bool) {
        #expect((PoolTag(text) != nil) == isTag)
    }

    @Test func `no bytes and too many are refused, and nothing is kept`() throws {
        let memory = SystemMemory(limit: 10_000)
        for bytes in [0, -1] {
            #expect(
                status { () throws(StatusError) in _ = try memory.allocatePool(bytes, .nonPaged, tag: tag) }
                    == .invalidParameter
            )
            #expect(status { () throws(StatusError) in _ = try memory.allocateNonCached(bytes) } == .invalidParameter)
        }
        _ = try memory.allocateNonCached(8000)
        for bytes in [1809, .max] {
            #expect(
                status { () throws(StatusError) in _ = try memory.allocatePool(bytes, .paged, tag: tag) }
                    == .insufficientResources
            )
            #expect(
                status { () throws(StatusError) in _ = try memory.allocateNonCached(bytes) } == .insufficientResources
            )
        }
        #expect(memory.statistics(.pool).failures == 2 && memory.statistics(.pool).count == 0)
        _ = try memory.allocatePool(1808, .nonPaged, tag: tag)
    }

    @Test func `paged memory is neither taken nor touched above APC level`() throws {
        let memory = SystemMemory()
        let paged = try memory.allocatePool(64, .paged, tag: tag)
        let resident = try memory.allocatePool(64, .nonPaged, tag: tag)
        try ExecutionLevel.apc.run { _ = try paged.bytes() }
        ExecutionLevel.dispatch.run {
            #expect(status { () throws(StatusError) in _ = try paged.bytes() } == .invalidDeviceState)
            #expect(status { () throws(StatusError) in _ = try resident.bytes() } == .success)
            #expect(
                status { () throws(StatusError) in _ = try memory.allocatePool(1, .paged, tag: tag) }
                    == .invalidDeviceState
            )
            #expect(status { () throws(StatusError) in _ = try memory.allocateNonCached(1) } == .invalidDeviceState)
            #expect(
                status { () throws(StatusError) in _ = try memory.allocatePool(1, .nonPaged, tag: tag) } == .success
            )
        }
        #expect(memory.statistics(.pool).count == 3)
    }

    @Test(.enabled(if: MDLTests.locksAreReal))
    func `resident memory is locked, and paged memory is not`() throws {
        let memory = SystemMemory()
        /// The kernel refuses to throw away pages that are locked.
        func isLocked(_ base: UnsafeMutableRawPointer) -> Bool {
            let page = UInt(bitPattern: base) & ~UInt(Page.size - 1)
            return madvise(UnsafeMutableRawPointer(bitPattern: page), Page.size, MADV_DONTNEED) != 0
        }
        for size in [16, Page.size, 40_000, 200_000] {
            let pool = try memory.allocatePool(size, .nonPaged, tag: tag)
            let nonCached = try memory.allocateNonCached(size)
            for allocation in [pool, nonCached] {
                #expect(isLocked(allocation.base) && isLocked(allocation.base + (size - 1)))
            }
        }
        #expect(memory.unlockedBytes == 0)
        // A page of its own is asked for, so that nobody else's bytes are thrown away.
        let paged = try memory.allocatePool(1 << 20, .paged, tag: tag)
        #expect(!isLocked(paged.base + Page.size))
    }

    @Test func `allocations never overlap, and what is freed is used again`() throws {
        let memory = SystemMemory()
        var generator = SystemRandomNumberGenerator()
        var live: [(SystemAllocation, UInt8)] = []
        for round in 0..<2000 {
            if live.count > 60 || (!live.isEmpty && Bool.random(using: &generator)) {
                let (allocation, value) = live.remove(at: Int.random(in: 0..<live.count, using: &generator))
                #expect(try allocation.bytes().allSatisfy { $0 == value })
                try memory.free(allocation)
            } else {
                let size = Int.random(in: 1...20_000, using: &generator)
                let allocation =
                    round % 5 == 0
                    ? try memory.allocateNonCached(size)
                    : try memory.allocatePool(size, round % 2 == 0 ? .paged : .nonPaged, tag: tag)
                let value = UInt8(truncatingIfNeeded: round)
                memset(allocation.base, CInt(value), size)
                live.append((allocation, value))
            }
        }
        for (allocation, value) in live {
            #expect(try allocation.bytes().allSatisfy { $0 == value })
            try memory.free(allocation)
        }
        for allocator in MemoryAllocator.allCases { #expect(memory.statistics(allocator).chargedBytes == 0) }
    }
}
