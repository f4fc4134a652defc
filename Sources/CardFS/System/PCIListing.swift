public import PCIBus

/// The PCI functions of a machine, read from sysfs.
public enum PCIListing {
    /// What sysfs says of a function.
    public struct Card: Hashable, Sendable {
        /// Where it sits.
        public var address: PCIAddress
        /// Who made it; nil when sysfs does not say.
        public var vendor: UInt16?
        /// Which product of theirs it is.
        public var device: UInt16?
        /// The 24-bit class code.
        public var classCode: UInt32?
        /// The kernel driver that has it; nil for none.
        public var driver: String?
        /// The IOMMU group it is isolated in; nil for none.
        public var group: String?

        /// Describes a function; what sysfs does not say is nil.
        public init(
            address: PCIAddress,
            vendor: UInt16? = nil,
            device: UInt16? = nil,
            classCode: UInt32? = nil,
            driver: String? = nil,
            group: String? = nil
        ) {
            self.address = address
            self.vendor = vendor
            self.device = device
            self.classCode = classCode
            self.driver = driver
            self.group = group
        }
    }

    /// The functions below `root`, by address; empty when there is no such directory, which is a machine without PCI.
    public static func cards(root: String = "/sys/bus/pci/devices") -> [Card] {
        let addresses = (SystemFile.list(root) ?? []).compactMap { PCIAddress($0) }.sorted()
        return addresses.map { address in
            let directory = "\(root)/\(address)"
            func number(_ name: String, _ limit: UInt64) -> UInt64? {
                guard let text = SystemFile.readWord("\(directory)/\(name)") else { return nil }
                return try? Number.parse(text, limit: limit)
            }
            func link(_ name: String) -> String? {
                SystemFile.readLink("\(directory)/\(name)").map(SystemFile.lastComponent)
            }
            return Card(
                address: address,
                vendor: number("vendor", 0xffff).map { UInt16($0) },
                device: number("device", 0xffff).map { UInt16($0) },
                classCode: number("class", 0xffffff).map { UInt32($0) },
                driver: link("driver"),
                group: link("iommu_group")
            )
        }
    }
}
