import CHardware
import CVFIO
import Glibc
public import PCIBus

extension VFIOFunction {
    /// The ranges the kernel lists for the container, without page 0.
    public var logicalAddressRanges: [ClosedRange<LogicalAddress>] {
        lock.locked {
            (session?.iommu.ranges ?? []).map { LogicalAddress($0.lowerBound)...LogicalAddress($0.upperBound) }
        }
    }

    /// Takes zeroed memory, from huge pages where `byteCount` fills some and the machine has them. It is locked while it is
    /// mapped for the card, which is when the kernel counts it against RLIMIT_MEMLOCK.
    public func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        let huge = 2 << 20
        if byteCount >= huge {
            let size = (byteCount + huge - 1) & ~(huge - 1)
            if case .mapped(let base) = kernel.allocate(byteCount: size, hugePages: true) {
                return DMAMemory(base: base, byteCount: size, frames: nil)
            }
        }
        let size = Page.roundedUp(byteCount)
        switch kernel.allocate(byteCount: size, hugePages: false) {
        case .mapped(let base): return DMAMemory(base: base, byteCount: size, frames: nil)
        case .failed(let code):
            throw BusError(code, "no \(size) bytes of memory for the DMA of \(address): \(meaning(code))")
        }
    }

    /// As ``allocateMemory(byteCount:)``, in a file of its own (memfd_create(2)) that can be mapped to be read; never from
    /// the reserve of huge pages.
    public func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        let size = Page.roundedUp(byteCount)
        var base: UnsafeMutableRawPointer?
        let file = chw_shared_memory("cardfs-ring", size, &base)
        guard file >= 0, let base else {
            throw BusError(-file, "no \(size) bytes of shared memory for the DMA of \(address): \(meaning(-file))")
        }
        madvise(base, size, CInt(MADV_DONTFORK))
        return DMAMemory(base: base, byteCount: size, frames: nil, file: file)
    }

    /// Gives memory back to the machine. Nothing of it may be mapped for the card.
    public func freeMemory(_ memory: DMAMemory) {
        kernel.unmap(memory.base, byteCount: memory.byteCount)
        if let file = memory.file { Glibc.close(file) }
    }

    /// VFIO_IOMMU_MAP_DMA, which locks the memory and writes it into the IOMMU's tables.
    public func mapDMA(
        _ base: UnsafeMutableRawPointer,
        byteCount: Int,
        at logical: LogicalAddress,
        access: DMAAccess
    ) throws(BusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let session else { throw absence }
        let start = logical.value
        let (end, wraps) = start.addingReportingOverflow(UInt64(byteCount) &- 1)
        guard byteCount > 0, !wraps, session.iommu.ranges.contains(where: { $0.contains(start) && $0.contains(end) })
        else {
            throw BusError(
                EINVAL,
                "\(byteCount) bytes at \(logical) cannot be mapped for \(address): its IOMMU translates "
                    + session.iommu.ranges.map { "0x\(hex($0.lowerBound))…0x\(hex($0.upperBound))" }.joined(
                        separator: ", "
                    )
            )
        }
        var request = vfio_iommu_type1_dma_map()
        request.argsz = UInt32(MemoryLayout<vfio_iommu_type1_dma_map>.size)
        request.flags =
            (access.contains(.read) ? UInt32(VFIO_DMA_MAP_FLAG_READ) : 0)
            | (access.contains(.write) ? UInt32(VFIO_DMA_MAP_FLAG_WRITE) : 0)
        request.vaddr = UInt64(UInt(bitPattern: base))
        request.iova = start
        request.size = UInt64(byteCount)
        let result = kernel.control(session.container, cvfio_iommu_map_dma, &request)
        guard result >= 0 else { throw mappingRefusal(-result, byteCount, logical) }
        lockedBytes += byteCount
    }

    /// VFIO_IOMMU_UNMAP_DMA.
    public func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let session else { throw absence }
        var request = vfio_iommu_type1_dma_unmap()
        request.argsz = UInt32(MemoryLayout<vfio_iommu_type1_dma_unmap>.size)
        request.iova = logical.value
        request.size = UInt64(byteCount)
        let result = kernel.control(session.container, cvfio_iommu_unmap_dma, &request)
        guard result >= 0 else {
            throw BusError(
                -result,
                "\(byteCount) bytes at \(logical) of \(address) cannot be unmapped"
                    + (result == -EINVAL ? ": they are not aligned, or cut a mapping in two" : ": \(meaning(-result))")
            )
        }
        lockedBytes -= min(lockedBytes, Int(clamping: request.size))
        guard request.size == UInt64(byteCount) else {
            throw BusError(
                EINVAL,
                "of \(byteCount) bytes at \(logical) only \(request.size) were mapped for \(address)"
            )
        }
    }

    private func mappingRefusal(_ code: CInt, _ byteCount: Int, _ logical: LogicalAddress) -> BusError {
        let what = "\(byteCount) bytes at \(logical) cannot be mapped for \(address)"
        switch code {
        case EINVAL:
            return BusError(code, "\(what): they are empty, not aligned to pages, or neither readable nor writable")
        case EEXIST: return BusError(code, "\(what): part of them is mapped already")
        case ENOSPC:
            return BusError(
                code,
                "\(what): the kernel allows no more mappings (parameter dma_entry_limit of vfio_iommu_type1)"
            )
        case EFAULT, EOPNOTSUPP: return BusError(code, "\(what): this memory cannot be locked")
        case ENOMEM:
            let needed = lockedBytes + byteCount
            guard let limit = kernel.lockedMemoryLimit() else {
                return BusError(code, "\(what): the machine is out of memory that can be locked")
            }
            return BusError(
                code,
                "\(what): at least \(needed) bytes must be locked and the memlock limit of this process is \(limit): ulimit -l \((needed + 1023) / 1024), "
                    + "in a systemd unit LimitMEMLOCK=\(needed)"
            )
        default: return BusError(code, "\(what): \(meaning(code))")
        }
    }

    private func hex(_ value: UInt64) -> String { String(value, radix: 16) }
}
