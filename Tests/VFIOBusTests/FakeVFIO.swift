import CHardware
import CVFIO
import Glibc
import PCIBus

@testable import VFIOBus

/// A kernel that answers as VFIO does, with one function at 0000:03:00.0 in IOMMU group 7, and refuses where it is told to.
///
/// The device is a sparse file in which region `i` begins at `i << 32`, so that pread(2) and pwrite(2) work on it as on the real
/// one. A BAR that is mapped is a file of its own.
final class FakeVFIO: VFIOKernel, @unchecked Sendable {  // guarded by `lock`
    enum Kind { case container, group, device }

    static let address = PCIAddress(bus: 3, device: 0, function: 0)
    static let directory = "/sys/bus/pci/devices/0000:03:00.0"

    let lock = Lock()
    var texts: [String: String] = [:]
    var links: [String: String] = [:]
    /// Errno of an open(2).
    var refusedOpens: [String: CInt] = [:]
    /// Result of a request in place of the usual one: an errno made negative, or a number.
    var answers: [UInt: CInt] = [:]
    /// What was asked, in order.
    var requests: [UInt] = []
    var open: [CInt: Kind] = [:]
    var groupFlags = UInt32(VFIO_GROUP_FLAGS_VIABLE)
    var deviceFlags = UInt32(VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET)
    var regions: [RegionInformation?] = []
    var vectors = [1, 1, 4, 1, 1]
    /// A region's parts that may be mapped are told by the sparse capability, rather than by the flag alone.
    var isSparse: Set<Int> = []
    var refusesMapping = false
    var hugePages = 0
    /// The card was pulled out: everything but the IDs, which VFIO keeps, reads as this.
    var absence: UInt8?

    // The IOMMU.
    var iommuRanges: [ClosedRange<UInt64>]? = [0x1000...0xfedf_ffff, 0xfef0_0000...0x7f_ffff_ffff]
    var mappings: [UInt64: UInt64] = [:]
    var memoryLimit: UInt64?
    var entryLimit = 65_535

    // Interrupts.
    var connected: [Int: [CInt]] = [:]
    var isMasked = false
    var isPending = false
    var unmasks = 0
    /// Vectors the platform has, when it has fewer.
    var platformVectors: Int?

    /// The function's `config` in sysfs, which reaches the card itself; nil when this process may not open it.
    var cardFile: CInt?

    private let device: CInt
    private let barFiles: [CInt]

    init() {
        func file() -> CInt {
            var template = Array("/tmp/fake-vfio-XXXXXX".utf8CString)
            let descriptor = mkstemp(&template)
            unlink(template)
            return descriptor
        }
        device = file()
        ftruncate(device, 10 << 32)
        barFiles = (0..<6).map { _ in file() }
        regions = (0..<9).map { _ in nil }
        texts[Self.directory + "/vendor"] = "0x1234\n"
        links[Self.directory + "/iommu_group"] = "../../../kernel/iommu_groups/7"
        links[Self.directory + "/driver"] = "../../bus/pci/drivers/vfio-pci"
        addBAR(0, 0x10000, start: 0xfe60_0000, flags: 0x40200)
        setRegion(Int(VFIO_PCI_CONFIG_REGION_INDEX), byteCount: 256, mappable: [])
        configure(0x1234, at: 0)
        configure(0x11e8, at: 2)
        configure(0x0010, at: 8)
        configure(0x00ff, at: 10)
    }

    deinit {
        Glibc.close(device)
        for file in barFiles { Glibc.close(file) }
        if let cardFile { Glibc.close(cardFile) }
        lock.destroy()
    }

    // MARK: What a test sets

    func setRegion(_ index: Int, byteCount: UInt64, mappable: [(UInt64, UInt64)]) {
        var region = RegionInformation(byteCount: byteCount, fileOffset: UInt64(index) << 32)
        region.mappable = mappable.map { RegionInformation.Area(offset: $0.0, byteCount: $0.1) }
        regions[index] = region
    }

    func addBAR(_ index: Int, _ byteCount: UInt64, start: UInt64, flags: UInt64) {
        setRegion(index, byteCount: byteCount, mappable: [(0, byteCount)])
        ftruncate(barFiles[index], off_t(byteCount))
        configure(UInt16(truncatingIfNeeded: start), at: 0x10 + 4 * index)
        configure(UInt16(truncatingIfNeeded: start >> 16), at: 0x12 + 4 * index)
        if flags & 0x10_0000 != 0 { configure(UInt16(truncatingIfNeeded: start >> 32), at: 0x14 + 4 * index) }
        var lines = (texts[Self.directory + "/resource"] ?? "").split(separator: "\n").map(String.init)
        while lines.count < 7 { lines.append("0x0000000000000000 0x0000000000000000 0x0000000000000000") }
        lines[index] =
            "0x\(hexadecimal(start, digits: 16)) 0x\(hexadecimal(start + byteCount - 1, digits: 16)) 0x\(hexadecimal(flags, digits: 16))"
        texts[Self.directory + "/resource"] = lines.joined(separator: "\n") + "\n"
    }

    func configure(_ value: UInt16, at offset: Int) {
        var bytes = value
        pwrite(device, &bytes, 2, off_t(7) << 32 + off_t(offset))
    }

    /// Lets this process reach the card past VFIO; its BARs hold `addresses`.
    func exposeCard(_ addresses: [UInt32]) {
        var template = Array("/tmp/fake-vfio-XXXXXX".utf8CString)
        let file = mkstemp(&template)
        unlink(template)
        var words: [UInt32] = [0x11e8_1234, 0, 0, 0] + addresses
        pwrite(file, &words, 4 * words.count, 0)
        cardFile = file
    }

    /// What the BARs of the card hold.
    func cardAddresses(_ count: Int) -> [UInt32] {
        var words = [UInt32](repeating: 0, count: count)
        if let cardFile { pread(cardFile, &words, 4 * count, 0x10) }
        return words
    }

    var command: UInt16 {
        var value: UInt16 = 0
        pread(device, &value, 2, off_t(7) << 32 + 4)
        return value
    }

    /// The 32-bit word of a BAR in the file that is mapped, or in the one that is read by calls.
    func word(bar: Int, _ offset: Int, mapped: Bool) -> UInt32 {
        var value: UInt32 = 0
        pread(mapped ? barFiles[bar] : device, &value, 4, off_t(offset) + (mapped ? 0 : off_t(bar) << 32))
        return value
    }

    func setWord(_ value: UInt32, bar: Int, _ offset: Int, mapped: Bool) {
        var value = value
        pwrite(mapped ? barFiles[bar] : device, &value, 4, off_t(offset) + (mapped ? 0 : off_t(bar) << 32))
    }

    /// Accesses to a mapped BAR end in SIGBUS, as they do while the function does not decode memory.
    func setDecoding(_ on: Bool, bar: Int) {
        ftruncate(barFiles[bar], on ? off_t(regions[bar]?.byteCount ?? 0) : 0)
    }

    /// The card interrupts, or an event happens.
    func fire(_ index: Int, vector: Int = 0, times: UInt64 = 1) {
        lock.lock()
        defer { lock.unlock() }
        guard let descriptors = connected[index], vector < descriptors.count else { return }
        if index == InterruptIndex.intx {
            if isMasked {
                isPending = true
                return
            }
            isMasked = true
        }
        var count = times
        Glibc.write(descriptors[vector], &count, 8)
    }

    // MARK: System calls

    func open(_ path: String) -> CInt {
        lock.lock()
        defer { lock.unlock() }
        if let code = refusedOpens[path] { return -code }
        if path == Self.directory + "/config" { return cardFile.map { dup($0) } ?? -EACCES }
        guard path == "/dev/vfio/vfio" || path == "/dev/vfio/7" else { return -ENOENT }
        let descriptor = Glibc.open("/dev/null", O_RDWR | O_CLOEXEC)
        open[descriptor] = path == "/dev/vfio/vfio" ? .container : .group
        return descriptor
    }

    func close(_ descriptor: CInt) {
        lock.lock()
        defer { lock.unlock() }
        if open[descriptor] == .container { mappings = [:] }
        if open[descriptor] == .device { connected = [:] }
        open[descriptor] = nil
        Glibc.close(descriptor)
    }

    func control(_ descriptor: CInt, _ request: UInt, number: UInt) -> CInt {
        lock.lock()
        defer { lock.unlock() }
        requests.append(request)
        if let answer = answers[request] { return answer }
        switch (request, open[descriptor]) {
        case (cvfio_get_api_version, .container): return VFIO_API_VERSION
        case (cvfio_check_extension, .container): return number == UInt(VFIO_TYPE1v2_IOMMU) ? 1 : 0
        case (cvfio_set_iommu, .container): return number == UInt(VFIO_TYPE1v2_IOMMU) ? 0 : -ENODEV
        default: return -ENOTTY
        }
    }

    func control(_ descriptor: CInt, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
        lock.lock()
        defer { lock.unlock() }
        requests.append(request)
        if let answer = answers[request] { return answer }
        switch (request, open[descriptor]) {
        case (cvfio_group_get_status, .group):
            argument!.storeBytes(of: groupFlags, toByteOffset: 4, as: UInt32.self)
            return 0
        case (cvfio_group_set_container, .group): return 0
        case (cvfio_group_get_device_fd, .group):
            guard String(cString: argument!.assumingMemoryBound(to: CChar.self)) == "0000:03:00.0" else {
                return -ENODEV
            }
            let opened = dup(device)
            open[opened] = .device
            return opened
        case (cvfio_iommu_get_info, .container): return describeIOMMU(argument!)
        case (cvfio_iommu_map_dma, .container): return mapDMA(argument!)
        case (cvfio_iommu_unmap_dma, .container): return unmapDMA(argument!)
        case (cvfio_device_get_info, .device):
            for (place, word) in [deviceFlags, 9, 5].enumerated() {
                argument!.storeBytes(of: word, toByteOffset: 4 + 4 * place, as: UInt32.self)
            }
            return 0
        case (cvfio_device_get_region_info, .device): return describeRegion(argument!)
        case (cvfio_device_get_irq_info, .device):
            let index = Int(argument!.load(fromByteOffset: 8, as: UInt32.self))
            argument!.storeBytes(of: UInt32(VFIO_IRQ_INFO_EVENTFD), toByteOffset: 4, as: UInt32.self)
            argument!.storeBytes(of: UInt32(vectors[index]), toByteOffset: 12, as: UInt32.self)
            return 0
        case (cvfio_device_set_irqs, .device): return setInterrupts(argument!)
        case (cvfio_device_reset, .device): return absence == nil ? 0 : -ENOTTY
        default: return -ENOTTY
        }
    }

    private func describeRegion(_ argument: UnsafeMutableRawPointer) -> CInt {
        let index = Int(argument.load(fromByteOffset: 8, as: UInt32.self))
        guard index < regions.count, let region = regions[index] else { return -EINVAL }
        var flags = UInt32(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)
        if !region.mappable.isEmpty { flags |= UInt32(VFIO_REGION_INFO_FLAG_MMAP) }
        argument.storeBytes(of: region.byteCount, toByteOffset: 16, as: UInt64.self)
        argument.storeBytes(of: region.fileOffset, toByteOffset: 24, as: UInt64.self)
        if isSparse.contains(index) {
            flags |= UInt32(VFIO_REGION_INFO_FLAG_CAPS)
            let size = 32 + 16 + 16 * region.mappable.count
            if argument.load(as: UInt32.self) >= size {
                argument.storeBytes(of: 32, toByteOffset: 12, as: UInt32.self)
                argument.storeBytes(of: UInt32(VFIO_REGION_INFO_CAP_SPARSE_MMAP), toByteOffset: 32, as: UInt32.self)
                argument.storeBytes(of: UInt32(region.mappable.count), toByteOffset: 40, as: UInt32.self)
                for (place, area) in region.mappable.enumerated() {
                    argument.storeBytes(of: area.offset, toByteOffset: 48 + 16 * place, as: UInt64.self)
                    argument.storeBytes(of: area.byteCount, toByteOffset: 56 + 16 * place, as: UInt64.self)
                }
            } else {
                argument.storeBytes(of: UInt32(size), as: UInt32.self)
            }
        }
        argument.storeBytes(of: flags, toByteOffset: 4, as: UInt32.self)
        return 0
    }

    private func describeIOMMU(_ argument: UnsafeMutableRawPointer) -> CInt {
        argument.storeBytes(of: UInt32(VFIO_IOMMU_INFO_PGSIZES), toByteOffset: 4, as: UInt32.self)
        argument.storeBytes(of: 0x1000, toByteOffset: 8, as: UInt64.self)
        guard let iommuRanges else { return 0 }
        let header = MemoryLayout<vfio_iommu_type1_info>.stride
        let size = header + 16 + 16 * iommuRanges.count + 16
        argument.storeBytes(
            of: UInt32(VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS),
            toByteOffset: 4,
            as: UInt32.self
        )
        guard argument.load(as: UInt32.self) >= size else {
            argument.storeBytes(of: UInt32(size), as: UInt32.self)
            return 0
        }
        let second = header + 16 + 16 * iommuRanges.count
        argument.storeBytes(of: UInt32(header), toByteOffset: 16, as: UInt32.self)
        argument.storeBytes(of: UInt32(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE), toByteOffset: header, as: UInt32.self)
        argument.storeBytes(of: UInt32(second), toByteOffset: header + 4, as: UInt32.self)
        argument.storeBytes(of: UInt32(iommuRanges.count), toByteOffset: header + 8, as: UInt32.self)
        for (place, range) in iommuRanges.enumerated() {
            argument.storeBytes(of: range.lowerBound, toByteOffset: header + 16 + 16 * place, as: UInt64.self)
            argument.storeBytes(of: range.upperBound, toByteOffset: header + 24 + 16 * place, as: UInt64.self)
        }
        argument.storeBytes(of: UInt32(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL), toByteOffset: second, as: UInt32.self)
        argument.storeBytes(of: 0, toByteOffset: second + 4, as: UInt32.self)
        argument.storeBytes(of: UInt32(entryLimit), toByteOffset: second + 8, as: UInt32.self)
        return 0
    }

    /// The rules of vfio_dma_do_map.
    private func mapDMA(_ argument: UnsafeMutableRawPointer) -> CInt {
        let request = argument.load(as: vfio_iommu_type1_dma_map.self)
        let mask: UInt64 = 0xfff
        guard request.flags & UInt32(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE) != 0, request.size > 0,
            (request.size | request.iova | request.vaddr) & mask == 0,
            !request.iova.addingReportingOverflow(request.size - 1).overflow,
            !request.vaddr.addingReportingOverflow(request.size - 1).overflow
        else { return -EINVAL }
        let end = request.iova + (request.size - 1)
        if mappings.contains(where: { $0.key <= end && $0.key + ($0.value - 1) >= request.iova }) { return -EEXIST }
        if mappings.count >= entryLimit { return -ENOSPC }
        if let memoryLimit, mappings.values.reduce(0, +) + request.size > memoryLimit { return -ENOMEM }
        mappings[request.iova] = request.size
        return 0
    }

    /// The rules of vfio_dma_do_unmap, version 2.
    private func unmapDMA(_ argument: UnsafeMutableRawPointer) -> CInt {
        var request = argument.load(as: vfio_iommu_type1_dma_unmap.self)
        guard request.size > 0, (request.size | request.iova) & 0xfff == 0 else { return -EINVAL }
        let end = request.iova + (request.size - 1)
        let touched = mappings.filter { $0.key <= end && $0.key + ($0.value - 1) >= request.iova }
        guard touched.allSatisfy({ $0.key >= request.iova && $0.key + ($0.value - 1) <= end }) else { return -EINVAL }
        for start in touched.keys { mappings[start] = nil }
        request.size = touched.values.reduce(0, +)
        argument.storeBytes(of: request, as: vfio_iommu_type1_dma_unmap.self)
        return 0
    }

    private func setInterrupts(_ argument: UnsafeMutableRawPointer) -> CInt {
        let flags = CInt(argument.load(fromByteOffset: 4, as: UInt32.self))
        let index = Int(argument.load(fromByteOffset: 8, as: UInt32.self))
        let count = Int(argument.load(fromByteOffset: 16, as: UInt32.self))
        if flags == VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER {
            connected[index] = nil
            return 0
        }
        if flags == VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK {
            guard index == InterruptIndex.intx, let descriptor = connected[index]?.first else { return -EINVAL }
            unmasks += 1
            isMasked = isPending
            if isPending {
                isPending = false
                chw_eventfd_signal(descriptor)
            }
            return 0
        }
        guard flags == VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, count <= vectors[index] else {
            return -EINVAL
        }
        if index == InterruptIndex.msi || index == InterruptIndex.msix, let platformVectors, count > platformVectors {
            return CInt(platformVectors)
        }
        connected[index] = (0..<count).map { argument.load(fromByteOffset: 20 + 4 * $0, as: CInt.self) }
        return 0
    }

    func read(_ descriptor: CInt, _ buffer: UnsafeMutableRawPointer, _ byteCount: Int, at offset: UInt64) -> Int {
        lock.lock()
        defer { lock.unlock() }
        if let absence, offset >= 7 << 32 + 4 {
            memset(buffer, CInt(absence), byteCount)
            return byteCount
        }
        return pread(descriptor, buffer, byteCount, off_t(offset))
    }

    func write(_ descriptor: CInt, _ buffer: UnsafeRawPointer, _ byteCount: Int, at offset: UInt64) -> Int {
        pwrite(descriptor, buffer, byteCount, off_t(offset))
    }

    func map(_ descriptor: CInt, byteCount: Int, offset: UInt64, place: UnsafeMutableRawPointer?) -> MappingResult {
        guard !refusesMapping, offset >> 32 < UInt64(barFiles.count) else { return .failed(EINVAL) }
        let flags = MAP_SHARED | (place == nil ? 0 : MAP_FIXED)
        let within = off_t(truncatingIfNeeded: offset & 0xffff_ffff)
        let base = mmap(place, byteCount, PROT_READ | PROT_WRITE, flags, barFiles[Int(offset >> 32)], within)
        guard let base, Int(bitPattern: base) != -1 else { return .failed(errno) }
        return .mapped(base)
    }

    func allocate(byteCount: Int, hugePages wanted: Bool) -> MappingResult {
        lock.lock()
        defer { lock.unlock() }
        if wanted {
            guard byteCount <= hugePages * 2 << 20 else { return .failed(ENOMEM) }
            hugePages -= byteCount >> 21
        }
        return LinuxKernel().allocate(byteCount: byteCount, hugePages: false)
    }

    func unmap(_ base: UnsafeMutableRawPointer, byteCount: Int) { munmap(base, byteCount) }
    func text(_ path: String) -> String? { lock.locked { texts[path] } }
    func link(_ path: String) -> String? { lock.locked { links[path] } }
    func lockedMemoryLimit() -> UInt64? { lock.locked { memoryLimit } }
}

/// Waits until a condition holds, at most a minute: the machine may be busy.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 60_000_000_000
    while !condition() {
        if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
        usleep(200)
    }
    return true
}

/// The error a call throws; nil for none.
func refusal(_ body: () throws(BusError) -> Void) -> BusError? {
    do throws(BusError) { try body() } catch { return error }
    return nil
}
