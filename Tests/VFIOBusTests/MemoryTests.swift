import CVFIO
import Glibc
import PCIBus
import Testing

@testable import VFIOBus

/// The rules of VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA (drivers/vfio/vfio_iommu_type1.c), with what a person is told.
@Suite struct MemoryTests {
    private let kernel = FakeVFIO()
    private let function: any PCIFunction

    init() throws { function = try VFIOBus(kernel: kernel).open(FakeVFIO.address) }

    private func map(_ count: Int, _ logical: UInt64, _ access: DMAAccess = [.read, .write], skew: Int = 0) throws
        -> BusError?
    {
        let memory = try function.allocateMemory(byteCount: 1 << 20)
        return refusal { () throws(BusError) in
            try function.mapDMA(memory.base + skew, byteCount: count, at: LogicalAddress(logical), access: access)
        }
    }

    @Test(arguments: [
        (0, UInt64(0x10000), 3, 0), (100, 0x10000, 3, 0), (4096, 0x10001, 3, 0), (4096, 0x10000, 3, 8),
        (4096, 0x10000, 0, 0), (8192, 0xfedf_f000, 3, 0), (4096, 0xfee0_0000, 3, 0), (4096, 0, 3, 0),
        (4096, 0x80_0000_0000, 3, 0), (8192, 0xffff_ffff_ffff_f000, 3, 0),
    ])
    func `what is empty, misaligned, without access or outside the IOMMU's ranges is EINVAL`(
        count: Int,
        logical: UInt64,
        access: Int,
        skew: Int
    ) throws {
        let error = try map(count, logical, DMAAccess(rawValue: access), skew: skew)
        #expect(error?.code == EINVAL)
        #expect(error?.sentence.contains("0000:03:00.0") ?? false)
        #expect(kernel.mappings.isEmpty)
    }

    @Test func `the ranges are the kernel's, and without its word those of every IOMMU of x86`() throws {
        #expect(
            function.logicalAddressRanges == [
                LogicalAddress(0x1000)...LogicalAddress(0xfedf_ffff),
                LogicalAddress(0xfef0_0000)...LogicalAddress(0x7f_ffff_ffff),
            ]
        )
        function.release()
        kernel.iommuRanges = [0x40_0000...0x7f_ffff, 0x10_0000...0x1f_ffff]
        try function.reclaim()
        #expect(function.logicalAddressRanges.map(\.lowerBound.value) == [0x10_0000, 0x40_0000])
        #expect(try map(4096, 0x20_0000)?.sentence.contains("0x100000…0x1fffff, 0x400000…0x7fffff") ?? false)
        function.release()
        kernel.iommuRanges = nil
        try function.reclaim()
        #expect(!function.logicalAddressRanges.contains { $0.contains(LogicalAddress(0xfee0_0000)) })
        #expect(!function.logicalAddressRanges.contains { $0.contains(LogicalAddress(0)) })
    }

    @Test(arguments: [0x10000, 0xf000, 0x11000] as [UInt64])
    func `a mapping over another is EEXIST`(logical: UInt64) throws {
        #expect(try map(8192, 0x10000) == nil)
        let error = try map(8192, logical)
        #expect(error?.code == EEXIST && error?.sentence.contains("mapped already") ?? false)
        #expect(kernel.mappings == [0x10000: 8192])
    }

    @Test func `more mappings than the kernel allows are ENOSPC, with the name of the limit`() throws {
        kernel.entryLimit = 1
        #expect(try map(4096, 0x10000) == nil)
        let error = try map(4096, 0x20000)
        #expect(error?.code == ENOSPC && error?.sentence.contains("dma_entry_limit") ?? false)
    }

    @Test func `beyond RLIMIT_MEMLOCK the number of bytes that would do is told`() throws {
        kernel.memoryLimit = 100_000
        #expect(try map(65_536, 0x10000) == nil)
        let error = try map(65_536, 0x100000)
        #expect(error?.code == ENOMEM)
        let sentence = error?.sentence ?? ""
        #expect(
            sentence.contains("at least 131072 bytes must be locked and the memlock limit of this process is 100000")
        )
        #expect(sentence.contains("ulimit -l 128") && sentence.contains("LimitMEMLOCK=131072"))
        try function.unmapDMA(at: LogicalAddress(0x10000), byteCount: 65_536)
        #expect(try map(65_536, 0x100000) == nil)
    }

    @Test(arguments: [(EFAULT, "cannot be locked"), (EOPNOTSUPP, "cannot be locked"), (EIO, "Input/output error")])
    func `any other refusal keeps its errno`(code: CInt, words: String) throws {
        kernel.lock.locked { kernel.answers[cvfio_iommu_map_dma] = -code }
        let error = try map(4096, 0x10000)
        #expect(error?.code == code && error?.sentence.contains(words) ?? false)
    }

    @Test func `an unmapping takes whole mappings, and says when there were fewer`() throws {
        #expect(try map(8192, 0x10000) == nil)
        #expect(try map(4096, 0x12000) == nil)
        func unmap(_ logical: UInt64, _ count: Int) -> CInt? {
            refusal { () throws(BusError) in try function.unmapDMA(at: LogicalAddress(logical), byteCount: count) }?
                .code
        }
        #expect(unmap(0x11000, 4096) == EINVAL)
        #expect(unmap(0x10000, 100) == EINVAL)
        #expect(unmap(0x10000, 0) == EINVAL)
        #expect(kernel.mappings.count == 2)
        #expect(unmap(0x40000, 4096) == EINVAL)
        #expect(unmap(0x10000, 12288) == nil)
        #expect(kernel.mappings.isEmpty)
    }

    @Test(arguments: [(100, 0, 4096), (4 << 20, 2, 4 << 20), (3 << 20, 2, 4 << 20), (3 << 20, 1, 3 << 20)])
    func `memory is zeroed whole pages, huge ones where there are enough`(count: Int, huge: Int, expected: Int) throws {
        kernel.hugePages = huge
        let memory = try function.allocateMemory(byteCount: count)
        #expect(memory.byteCount == expected && UInt(bitPattern: memory.base) % 4096 == 0)
        #expect(kernel.hugePages == (expected >= 2 << 20 && expected % (2 << 20) == 0 ? 0 : huge))
        #expect(UnsafeRawBufferPointer(start: memory.base, count: memory.byteCount).allSatisfy { $0 == 0 })
        function.freeMemory(memory)
    }

    @Test func `shared memory can be mapped by others, to be read`() throws {
        let memory = try function.allocateSharedMemory(byteCount: 5000)
        let file = try #require(memory.file)
        #expect(memory.byteCount == 8192)
        let other = mmap(nil, 8192, PROT_READ, MAP_SHARED, file, 0)
        defer { munmap(other, 8192) }
        memory.base.storeBytes(of: 0x1234_5678, toByteOffset: 4096, as: UInt32.self)
        #expect(other?.load(fromByteOffset: 4096, as: UInt32.self) == 0x1234_5678)
        #expect(mmap(nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == UnsafeMutableRawPointer(bitPattern: -1))
        #expect(ftruncate(file, 0) == -1)
        function.freeMemory(memory)
        #expect(fcntl(file, F_GETFD) == -1)
    }
}
