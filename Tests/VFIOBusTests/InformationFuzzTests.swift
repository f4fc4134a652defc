import CVFIO
import Fuzz
import Glibc
import Testing

@testable import VFIOBus

/// A kernel whose answers to questions about regions and the IOMMU are made of chance.
private final class ChanceKernel: VFIOKernel, @unchecked Sendable {  // used by one thread
    /// What a structure is filled with, as far as the asker has room.
    var answer: [UInt8] = []

    func control(_ descriptor: CInt, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
        guard let argument else { return -EINVAL }
        let room = Int(argument.load(as: UInt32.self))
        answer.withUnsafeBytes { argument.copyMemory(from: $0.baseAddress!, byteCount: min(room, $0.count)) }
        return 0
    }

    func open(_ path: String) -> CInt { -ENOENT }
    func close(_ descriptor: CInt) {}
    func control(_ descriptor: CInt, _ request: UInt, number: UInt) -> CInt { -ENOTTY }
    func read(_ descriptor: CInt, _ buffer: UnsafeMutableRawPointer, _ byteCount: Int, at offset: UInt64) -> Int {
        -Int(EIO)
    }
    func write(_ descriptor: CInt, _ buffer: UnsafeRawPointer, _ byteCount: Int, at offset: UInt64) -> Int { -Int(EIO) }
    func map(_ descriptor: CInt, byteCount: Int, offset: UInt64, place: UnsafeMutableRawPointer?) -> MappingResult {
        .failed(ENODEV)
    }
    func allocate(byteCount: Int, hugePages: Bool) -> MappingResult { .failed(ENOMEM) }
    func unmap(_ base: UnsafeMutableRawPointer, byteCount: Int) {}
    func text(_ path: String) -> String? { nil }
    func link(_ path: String) -> String? { nil }
    func lockedMemoryLimit() -> UInt64? { nil }
}

/// Chains of capabilities that are whole, broken, endless or made of chance: what is read of them lies in the answer, and what is
/// believed of it lies in the region.
@Suite struct InformationFuzzTests {
    private let kernel = ChanceKernel()

    /// An answer of a structure of `fixed` bytes, with the place of the chain at `link`, and capabilities of `ids` behind it.
    private func answer(_ fuzz: inout Fuzz, fixed: Int, link: Int, flags: UInt32, ids: [UInt16]) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: fixed + fuzz.below(400))
        for index in bytes.indices where fuzz.once(in: 3) {
            bytes[index] = fuzz.pick([0, 1, 2, 0x10, 0x80, 0xff, UInt8(truncatingIfNeeded: fuzz.next())])
        }
        func put(_ value: UInt32, _ offset: Int) {
            guard offset >= 0, offset + 4 <= bytes.count else { return }
            for byte in 0..<4 { bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt32(8 * byte)) }
        }
        put(fuzz.once(in: 4) ? UInt32(truncatingIfNeeded: fuzz.number()) : UInt32(bytes.count), 0)
        put(fuzz.once(in: 4) ? UInt32(truncatingIfNeeded: fuzz.next()) : flags, 4)
        var place = fuzz.once(in: 6) ? Int(UInt32(truncatingIfNeeded: fuzz.number())) : fixed
        put(UInt32(truncatingIfNeeded: place), link)
        for _ in 0..<fuzz.below(40) {
            put(UInt32(fuzz.pick(ids)) | 1 << 16, place)
            let next =
                fuzz.once(in: 6) ? Int(UInt32(truncatingIfNeeded: fuzz.number())) : 8 * fuzz.below(bytes.count / 8)
            put(UInt32(truncatingIfNeeded: next), place + 4)
            put(UInt32(truncatingIfNeeded: fuzz.number()), place + 8)
            place = next
        }
        return bytes
    }

    @Test func `parts of a region that may be mapped lie in the region`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(3000) {
            kernel.answer = answer(
                &fuzz,
                fixed: MemoryLayout<vfio_region_info>.size,
                link: 12,
                flags: UInt32(VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS),
                ids: [UInt16(VFIO_REGION_INFO_CAP_SPARSE_MMAP), 2, 0]
            )
            guard let region = RegionInformation(kernel, 0, index: 0) else { continue }
            #expect(region.mappable.count <= 64, "seed \(fuzz.seed)")
            for area in region.mappable {
                let (end, isTooLarge) = area.offset.addingReportingOverflow(area.byteCount)
                #expect(area.byteCount > 0 && !isTooLarge && end <= region.byteCount, "seed \(fuzz.seed)")
            }
        }
    }

    @Test func `the ranges and the page of an IOMMU are such`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(3000) {
            kernel.answer = answer(
                &fuzz,
                fixed: MemoryLayout<vfio_iommu_type1_info>.size,
                link: 16,
                flags: UInt32(VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS),
                ids: [UInt16(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE), UInt16(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL), 0]
            )
            guard let iommu = IOMMUInformation(kernel, 0) else { continue }
            #expect(!iommu.ranges.isEmpty && iommu.ranges.count <= 256, "seed \(fuzz.seed)")
            #expect(iommu.pageSize.nonzeroBitCount == 1, "seed \(fuzz.seed)")
        }
    }

    // MARK: Kernels that keep to the rules

    /// A structure of `fixed` bytes with the place of its chain at `link`, and capabilities with their IDs behind it.
    private func structure(fixed: Int, link: Int, flags: UInt32, _ words: [Int: UInt64], _ chain: [(UInt16, [UInt64])])
        -> [UInt8]
    {
        var bytes = [UInt8](repeating: 0, count: fixed)
        func put(_ value: UInt64, _ offset: Int, _ count: Int) {
            for byte in 0..<count { bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt64(8 * byte)) }
        }
        put(UInt64(flags), 4, 4)
        for (offset, value) in words { put(value, offset, 8) }
        var place = link
        for (id, content) in chain {
            put(UInt64(bytes.count), place, 4)
            place = bytes.count + 4
            bytes += [UInt8](repeating: 0, count: 8 + 8 * content.count)
            put(UInt64(id) | 1 << 16, place - 4, 4)
            for (index, value) in content.enumerated() { put(value, place + 4 + 8 * index, 8) }
        }
        put(UInt64(bytes.count), 0, 4)
        return bytes
    }

    @Test func `a region is what the kernel says, but for parts that lie outside`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(500) {
            let size = UInt64(1 + fuzz.below(64)) << 12
            var expected = RegionInformation(byteCount: size, fileOffset: UInt64(fuzz.below(9)) << 40)
            let areas = (0..<fuzz.below(6)).map { _ in (UInt64(fuzz.below(70)) << 12, UInt64(fuzz.below(70)) << 12) }
            expected.mappable = areas.filter { $0.1 > 0 && $0.0 + $0.1 <= size }.map {
                .init(offset: $0.0, byteCount: $0.1)
            }
            let sparse = [UInt64(areas.count)] + areas.flatMap { [$0.0, $0.1] }
            var chain: [(UInt16, [UInt64])] = [(UInt16(VFIO_REGION_INFO_CAP_SPARSE_MMAP), sparse)]
            for _ in 0..<fuzz.below(3) { chain.insert((9, [fuzz.next()]), at: fuzz.below(chain.count + 1)) }
            kernel.answer = structure(
                fixed: MemoryLayout<vfio_region_info>.size,
                link: 12,
                flags: UInt32(VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS),
                [16: size, 24: expected.fileOffset],
                chain
            )
            #expect(RegionInformation(kernel, 0, index: 0) == expected, "seed \(fuzz.seed)")
            // Without the flags the chain means nothing.
            kernel.answer[4] = UInt8(VFIO_REGION_INFO_FLAG_MMAP)
            expected.mappable = [.init(offset: 0, byteCount: size)]
            #expect(RegionInformation(kernel, 0, index: 0) == expected, "seed \(fuzz.seed)")
            kernel.answer[4] = UInt8(VFIO_REGION_INFO_FLAG_CAPS)
            expected.mappable = []
            #expect(RegionInformation(kernel, 0, index: 0) == expected, "seed \(fuzz.seed)")
        }
    }

    @Test func `an IOMMU is what the kernel says, its ranges in order`() throws {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(500) {
            let ranges = (0..<fuzz.below(5)).map { _ -> (UInt64, UInt64) in
                let start = fuzz.number()
                return (start, fuzz.once(in: 4) ? start : fuzz.number())
            }
            let left = UInt32(truncatingIfNeeded: fuzz.next())
            let page = UInt64(1) << UInt64(12 + fuzz.below(10))
            let list = ranges.flatMap { [$0.0, $0.1] }
            var chain: [(UInt16, [UInt64])] = [
                (UInt16(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE), [UInt64(ranges.count)] + list)
            ]
            let tellsLeft = fuzz.once(in: 2)
            if tellsLeft { chain.append((UInt16(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL), [UInt64(left)])) }
            if fuzz.once(in: 2) { chain.insert((7, []), at: 0) }
            kernel.answer = structure(
                fixed: MemoryLayout<vfio_iommu_type1_info>.size,
                link: 16,
                flags: UInt32(VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS),
                [8: page | 0x4000_0000],
                chain
            )
            let iommu = try #require(IOMMUInformation(kernel, 0))
            let expected = ranges.filter { $0.0 <= $0.1 }.map { $0.0...$0.1 }.sorted { $0.lowerBound < $1.lowerBound }
            #expect(
                iommu.ranges.map(\.lowerBound)
                    == (expected.isEmpty ? [0x1000, 0xfef0_0000] : expected.map(\.lowerBound))
            )
            if !expected.isEmpty { #expect(Set(iommu.ranges) == Set(expected), "seed \(fuzz.seed)") }
            #expect(iommu.pageSize == page && iommu.mappingsLeft == (tellsLeft ? left : nil), "seed \(fuzz.seed)")
        }
    }
}
