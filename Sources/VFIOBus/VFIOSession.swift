import CHardware
import CVFIO
import Glibc
import PCIBus

/// The open descriptors of a function: container, group and device, from the taking of the function to its giving back.
struct VFIOSession {
    /// The container, which owns the mappings of the IOMMU.
    let container: CInt
    /// The group.
    let group: CInt
    /// The device, whose file holds its regions.
    let device: CInt
    /// What the IOMMU can translate.
    let iommu: IOMMUInformation
    /// BAR 0…5.
    let bars: [RegionInformation?]
    /// Configuration space.
    let configuration: RegionInformation
    /// How many interrupts each index of VFIO_DEVICE_GET_IRQ_INFO has.
    let interrupts: [Int]
    /// Whether VFIO_DEVICE_RESET works.
    let canReset: Bool

    /// Takes the function at `address`: the order is the one of the kernel's VFIO documentation, and what was opened is closed
    /// again, the last first, where a step is refused.
    static func open(_ kernel: any VFIOKernel, _ address: PCIAddress) throws(BusError) -> VFIOSession {
        let group = try isolatedGroup(kernel, address)
        var opened: [CInt] = []
        do throws(BusError) {
            let container = try openContainer(kernel, address)
            opened.append(container)
            let groupDescriptor = try openGroup(kernel, address, group)
            opened.append(groupDescriptor)
            try attach(kernel, address, group, groupDescriptor, container)
            guard let iommu = IOMMUInformation(kernel, container) else {
                throw BusError(EIO, "the kernel tells nothing about the IOMMU behind group \(group)")
            }
            let device = try openDevice(kernel, address, groupDescriptor)
            opened.append(device)
            return try described(kernel, address, container, groupDescriptor, device, iommu)
        } catch {
            for descriptor in opened.reversed() { kernel.close(descriptor) }
            throw error
        }
    }

    /// Closes everything; the kernel unmaps what the IOMMU still translated, and the function is free to be removed.
    func close(_ kernel: any VFIOKernel) {
        kernel.close(device)
        kernel.close(group)
        kernel.close(container)
    }

    // MARK: Steps

    private static func isolatedGroup(_ kernel: any VFIOKernel, _ address: PCIAddress) throws(BusError) -> String {
        let sysfs = SysfsFunction(kernel: kernel, address: address)
        guard sysfs.exists else {
            throw BusError(ENODEV, "there is no PCI function at \(address): cardfs list shows those there are")
        }
        guard let group = sysfs.group else {
            throw BusError(
                EOPNOTSUPP,
                "no IOMMU isolates \(address), and without one its DMA could reach all memory: switch VT-d or AMD-Vi on in the "
                    + "firmware and boot with intel_iommu=on (AMD: on by itself)"
            )
        }
        guard let driver = sysfs.driver else {
            throw BusError(EBUSY, "\(address) is bound to no driver: cardfs bind \(address) hands it to vfio-pci")
        }
        guard driver == "vfio-pci" else {
            throw BusError(
                EBUSY,
                "\(address) belongs to the driver \(driver): cardfs bind \(address) hands it to vfio-pci"
            )
        }
        return group
    }

    private static func openContainer(_ kernel: any VFIOKernel, _ address: PCIAddress) throws(BusError) -> CInt {
        let path = "/dev/vfio/vfio"
        let container = kernel.open(path)
        guard container >= 0 else { throw refusal(opening: path, -container, address) }
        let version = kernel.control(container, cvfio_get_api_version, number: 0)
        let hasType1v2 = kernel.control(container, cvfio_check_extension, number: UInt(VFIO_TYPE1v2_IOMMU)) > 0
        guard version == VFIO_API_VERSION, hasType1v2 else {
            kernel.close(container)
            throw BusError(
                EOPNOTSUPP,
                version == VFIO_API_VERSION
                    ? "this kernel's VFIO has no type 1 version 2 IOMMU: modprobe vfio_iommu_type1"
                    : "this kernel's VFIO speaks version \(version), not \(VFIO_API_VERSION)"
            )
        }
        return container
    }

    private static func openGroup(
        _ kernel: any VFIOKernel,
        _ address: PCIAddress,
        _ group: String
    ) throws(BusError) -> CInt {
        let path = "/dev/vfio/\(group)"
        let descriptor = kernel.open(path)
        if descriptor == -EBUSY {
            throw BusError(
                EBUSY,
                "\(address) is in use: another process has its IOMMU group \(group) open (fuser -v \(path) says which)"
            )
        }
        guard descriptor >= 0 else { throw refusal(opening: path, -descriptor, address) }
        return descriptor
    }

    private static func refusal(opening path: String, _ code: CInt, _ address: PCIAddress) -> BusError {
        switch code {
        case EACCES, EPERM:
            BusError(
                EACCES,
                "no permission to open \(path), which \(address) needs: chown it to this user (a udev rule does so for good), "
                    + "or run as root"
            )
        case ENOENT, ENODEV, ENXIO:
            BusError(
                ENOENT,
                path.hasSuffix("vfio")
                    ? "\(path) is missing: modprobe vfio-pci"
                    : "\(path) is missing: cardfs bind \(address) hands the card to vfio-pci"
            )
        default:
            BusError(code, "\(path) cannot be opened for \(address): \(meaning(code))")
        }
    }

    private static func attach(
        _ kernel: any VFIOKernel,
        _ address: PCIAddress,
        _ group: String,
        _ descriptor: CInt,
        _ container: CInt
    ) throws(BusError) {
        var status = vfio_group_status(argsz: UInt32(MemoryLayout<vfio_group_status>.size), flags: 0)
        var result = kernel.control(descriptor, cvfio_group_get_status, &status)
        guard result >= 0 else {
            throw BusError(-result, "the state of IOMMU group \(group) is not to be had: \(meaning(-result))")
        }
        guard status.flags & UInt32(VFIO_GROUP_FLAGS_VIABLE) != 0 else {
            throw BusError(
                EPERM,
                "IOMMU group \(group) of \(address) is not viable: another card in it belongs to a driver of the kernel; "
                    + "cardfs doctor \(address) names it"
            )
        }
        guard status.flags & UInt32(VFIO_GROUP_FLAGS_CONTAINER_SET) == 0 else {
            throw BusError(EBUSY, "\(address) is in use: its IOMMU group \(group) has a container already")
        }
        var name = container
        result = kernel.control(descriptor, cvfio_group_set_container, &name)
        guard result >= 0 else {
            throw BusError(-result, "IOMMU group \(group) of \(address) cannot be taken: \(meaning(-result))")
        }
        result = kernel.control(container, cvfio_set_iommu, number: UInt(VFIO_TYPE1v2_IOMMU))
        guard result >= 0 else {
            throw BusError(
                -result,
                result == -EPERM
                    ? "the IOMMU of \(address) does not keep interrupts apart: switch interrupt remapping on in the firmware"
                    : "the IOMMU of \(address) cannot be used: \(meaning(-result))"
            )
        }
    }

    private static func openDevice(
        _ kernel: any VFIOKernel,
        _ address: PCIAddress,
        _ group: CInt
    ) throws(BusError) -> CInt {
        var name = Array(address.description.utf8CString)
        let device = name.withUnsafeMutableBytes { kernel.control(group, cvfio_group_get_device_fd, $0.baseAddress) }
        guard device < 0 else { return device }
        switch -device {
        case EBUSY: throw BusError(EBUSY, "\(address) is in use by another process")
        case ENODEV: throw BusError(ENODEV, "\(address) left its IOMMU group while it was being opened")
        case let code: throw BusError(code, "\(address) cannot be opened: \(meaning(code))")
        }
    }

    private static func described(
        _ kernel: any VFIOKernel,
        _ address: PCIAddress,
        _ container: CInt,
        _ group: CInt,
        _ device: CInt,
        _ iommu: IOMMUInformation
    ) throws(BusError) -> VFIOSession {
        var info = vfio_device_info()
        info.argsz = UInt32(MemoryLayout<vfio_device_info>.size)
        let result = kernel.control(device, cvfio_device_get_info, &info)
        guard result >= 0 else {
            throw BusError(-result, "\(address) tells nothing about itself: \(meaning(-result))")
        }
        guard info.flags & UInt32(VFIO_DEVICE_FLAGS_PCI) != 0,
            let configuration = RegionInformation(kernel, device, index: Int(VFIO_PCI_CONFIG_REGION_INDEX)),
            configuration.byteCount >= 256
        else { throw BusError(ENODEV, "\(address) is no PCI function for VFIO") }
        let interrupts = (0..<Int(VFIO_PCI_NUM_IRQS)).map { index -> Int in
            guard index < Int(info.num_irqs) else { return 0 }
            var irq = vfio_irq_info()
            irq.argsz = UInt32(MemoryLayout<vfio_irq_info>.size)
            irq.index = UInt32(index)
            let isThere = kernel.control(device, cvfio_device_get_irq_info, &irq) >= 0
            return isThere && irq.flags & UInt32(VFIO_IRQ_INFO_EVENTFD) != 0 ? Int(irq.count) : 0
        }
        return VFIOSession(
            container: container,
            group: group,
            device: device,
            iommu: iommu,
            bars: (0..<6).map { RegionInformation(kernel, device, index: $0) },
            configuration: configuration,
            interrupts: interrupts,
            canReset: info.flags & UInt32(VFIO_DEVICE_FLAGS_RESET) != 0
        )
    }
}

/// The C library's words for an errno.
func meaning(_ code: CInt) -> String { strerror(code).map { String(cString: $0) } ?? "error \(code)" }
