import PCIBus

/// What sysfs says of a function: its IOMMU group, its driver and where the host placed its BARs.
struct SysfsFunction {
    let kernel: any VFIOKernel
    let directory: String

    init(kernel: any VFIOKernel, address: PCIAddress) {
        self.kernel = kernel
        directory = "/sys/bus/pci/devices/\(address)"
    }

    /// Whether there is such a function.
    var exists: Bool { kernel.text(directory + "/vendor") != nil }

    /// The number of the IOMMU group; nil for a function that no IOMMU isolates, which is also so in the group that VFIO makes up
    /// in its mode without IOMMU.
    var group: String? {
        guard let group = last(kernel.link(directory + "/iommu_group")) else { return nil }
        return kernel.text("/sys/kernel/iommu_groups/\(group)/name") == "vfio-noiommu\n" ? nil : group
    }

    /// The kernel driver that has it; nil for none.
    var driver: String? { last(kernel.link(directory + "/driver")) }

    /// The last component of a path.
    private func last(_ path: String?) -> String? { path?.split(separator: "/").last.map(String.init) }

    /// Where the host sees each BAR: start and flags of the lines of `resource`, one for each BAR (IORESOURCE_* of
    /// linux/ioport.h). A BAR that is not there has size 0.
    var resources: [(start: UInt64, byteCount: UInt64, flags: UInt64)] {
        (kernel.text(directory + "/resource") ?? "").split(separator: "\n").prefix(6).map { line in
            let fields = line.split(separator: " ").compactMap { UInt64($0.dropFirst(2), radix: 16) }
            guard fields.count == 3, fields[1] > fields[0], fields[1] - fields[0] < BaseAddressRegister.largest else {
                return (0, 0, 0)
            }
            return (fields[0], fields[1] - fields[0] + 1, fields[2])
        }
    }
}
