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
}
