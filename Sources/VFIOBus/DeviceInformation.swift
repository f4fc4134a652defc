import CVFIO
import PCIBus

/// A capability in the chain behind an information structure (struct vfio_info_cap_header).
struct InformationCapability {
    /// What it is.
    var id: UInt16
    /// Its version.
    var version: UInt16
    /// Its bytes, the header included.
    var bytes: ArraySlice<UInt8>

    /// A number at an offset in the capability, little-endian as every machine with vfio-pci; 0 beyond the end.
    func number<T: FixedWidthInteger>(_ offset: Int, as type: T.Type = T.self) -> T {
        let size = MemoryLayout<T>.size
        guard offset + size <= bytes.count else { return 0 }
        let start = bytes.startIndex + offset
        return (0..<size).reduce(0) { $0 | T(truncatingIfNeeded: bytes[start + $1]) << T(8 * $1) }
    }
}

/// An information structure of variable size, asked for again with room for the capabilities it announces.
struct InformationQuery {
    /// The bytes the kernel filled in.
    private(set) var bytes: [UInt8]

    /// Asks with a structure of `byteCount` bytes whose first 4 hold its size (`argsz`); `prepare` fills in the rest.
    /// Answers an errno made negative instead when the kernel refuses.
    static func ask(
        _ kernel: any VFIOKernel,
        _ descriptor: CInt,
        _ request: UInt,
        byteCount: Int,
        prepare: (UnsafeMutableRawPointer) -> Void = { _ in }
    ) -> (result: CInt, query: InformationQuery) {
        var size = byteCount
        // Twice suffices, since what the kernel announces does not grow; the bound keeps a wrong answer from repeating.
        for _ in 0..<3 {
            var bytes = [UInt8](repeating: 0, count: size)
            let result = bytes.withUnsafeMutableBytes { buffer -> CInt in
                guard let base = buffer.baseAddress else { return 0 }
                base.storeBytes(of: UInt32(size), as: UInt32.self)
                prepare(base)
                return kernel.control(descriptor, request, base)
            }
            let query = InformationQuery(bytes: bytes)
            let wanted = Int(query.number(0, as: UInt32.self))
            if result < 0 || wanted <= size || wanted > 1 << 20 { return (result, query) }
            size = wanted
        }
        return (0, InformationQuery(bytes: [UInt8](repeating: 0, count: byteCount)))
    }

    /// A number at an offset; 0 beyond the end.
    func number<T: FixedWidthInteger>(_ offset: Int, as type: T.Type = T.self) -> T {
        InformationCapability(id: 0, version: 0, bytes: bytes[...]).number(offset)
    }

    /// The capabilities of the chain that begins at `offset`; 0 for none. At most 32, since a broken chain may be a circle.
    func capabilities(at offset: Int) -> [InformationCapability] {
        var found: [InformationCapability] = []
        var next = offset
        while next > 0, next + 8 <= bytes.count, found.count < 32 {
            let header = InformationCapability(id: 0, version: 0, bytes: bytes[next...])
            found.append(
                InformationCapability(id: header.number(0), version: header.number(2), bytes: bytes[next...])
            )
            next = Int(header.number(4, as: UInt32.self))
        }
        return found
    }
}

/// One region of a device: a BAR, or configuration space.
struct RegionInformation: Equatable {
    /// A part of the region that may be mapped; offsets in the region.
    struct Area: Equatable {
        var offset: UInt64
        var byteCount: UInt64
    }

    /// Bytes; 0 for a region that is not there.
    var byteCount: UInt64
    /// Where it begins in the device's file.
    var fileOffset: UInt64
    /// The parts the kernel lets this process map: all of it, none, or what the sparse capability lists.
    var mappable: [Area]

    /// Describes a region that is only reached by calls.
    init(byteCount: UInt64, fileOffset: UInt64) {
        self.byteCount = byteCount
        self.fileOffset = fileOffset
        mappable = []
    }

    /// Asks for a region; nil when the device has none of that index.
    init?(_ kernel: any VFIOKernel, _ device: CInt, index: Int) {
        let (result, query) = InformationQuery.ask(
            kernel,
            device,
            cvfio_device_get_region_info,
            byteCount: MemoryLayout<vfio_region_info>.size,
            prepare: { $0.storeBytes(of: UInt32(index), toByteOffset: 8, as: UInt32.self) }
        )
        guard result >= 0 else { return nil }
        let flags: UInt32 = query.number(4)
        byteCount = query.number(16)
        fileOffset = query.number(24)
        mappable = []
        // What is told is used in signed numbers, and as an offset in the device's file.
        guard byteCount <= BaseAddressRegister.largest, fileOffset <= UInt64(Int64.max) - byteCount else { return nil }
        guard flags & UInt32(VFIO_REGION_INFO_FLAG_MMAP) != 0, byteCount > 0 else { return }
        mappable = [Area(offset: 0, byteCount: byteCount)]
        guard flags & UInt32(VFIO_REGION_INFO_FLAG_CAPS) != 0 else { return }
        let chain = query.capabilities(at: Int(query.number(12, as: UInt32.self)))
        guard let sparse = chain.first(where: { $0.id == UInt16(VFIO_REGION_INFO_CAP_SPARSE_MMAP) }) else { return }
        let count = min(Int(sparse.number(8, as: UInt32.self)), 64)
        mappable = (0..<count).map { index in
            Area(offset: sparse.number(16 + 16 * index), byteCount: sparse.number(24 + 16 * index))
        }.filter { $0.byteCount > 0 && $0.offset < byteCount && $0.byteCount <= byteCount - $0.offset }
    }
}

/// What the IOMMU of a container can translate (struct vfio_iommu_type1_info).
struct IOMMUInformation: Equatable {
    /// The addresses that may be mapped, as closed ranges.
    var ranges: [ClosedRange<UInt64>]
    /// The smallest page.
    var pageSize: UInt64
    /// Mappings that may still be made; nil when the kernel does not say.
    var mappingsLeft: UInt32?

    /// Asks for it. A kernel that lists no ranges leaves the whole space but page 0 and the window of interrupt messages of x86.
    init?(_ kernel: any VFIOKernel, _ container: CInt) {
        let (result, query) = InformationQuery.ask(
            kernel,
            container,
            cvfio_iommu_get_info,
            byteCount: MemoryLayout<vfio_iommu_type1_info>.size
        )
        guard result >= 0 else { return nil }
        let flags: UInt32 = query.number(4)
        let sizes: UInt64 = flags & UInt32(VFIO_IOMMU_INFO_PGSIZES) != 0 ? query.number(8) : 4096
        pageSize = sizes == 0 ? 4096 : 1 << UInt64(sizes.trailingZeroBitCount)
        ranges = [0x1000...0xfedf_ffff, 0xfef0_0000...0x7f_ffff_ffff]
        guard flags & UInt32(VFIO_IOMMU_INFO_CAPS) != 0 else { return }
        for capability in query.capabilities(at: Int(query.number(16, as: UInt32.self))) {
            switch CInt(capability.id) {
            case VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                let count = min(Int(capability.number(8, as: UInt32.self)), 256)
                let listed = (0..<count).compactMap { index -> ClosedRange<UInt64>? in
                    let start: UInt64 = capability.number(16 + 16 * index)
                    let end: UInt64 = capability.number(24 + 16 * index)
                    return start <= end ? start...end : nil
                }
                if !listed.isEmpty { ranges = listed.sorted { $0.lowerBound < $1.lowerBound } }
            case VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                mappingsLeft = capability.number(8)
            default: break
            }
        }
    }
}
