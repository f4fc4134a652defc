public import PCIBus

/// The types of a resource descriptor (CmResourceType values).
public enum ResourceType: UInt8, Sendable {
    /// CmResourceTypePort.
    case port = 1
    /// CmResourceTypeInterrupt.
    case interrupt = 2
    /// CmResourceTypeMemory.
    case memory = 3
}

/// One resource the platform has assigned to a card (CM_PARTIAL_RESOURCE_DESCRIPTOR).
public struct ResourceDescriptor: Equatable, Sendable {
    /// What it is.
    public var type: ResourceType
    /// Where it begins; for interrupts the first vector.
    public var start: UInt64
    /// Bytes, or vectors.
    public var length: UInt64
    /// The BAR a memory or port resource comes from. Lists may hold other descriptors between the BARs, so the place in
    /// the list says nothing.
    public var bar: Int?
    /// How an interrupt resource interrupts.
    public var interruptKind: InterruptKind?

    /// Describes a resource.
    public init(type: ResourceType, start: UInt64, length: UInt64, bar: Int? = nil, interruptKind: InterruptKind? = nil)
    {
        self.type = type
        self.start = start
        self.length = length
        self.bar = bar
        self.interruptKind = interruptKind
    }
}

/// What a card is given at its start: the same resources as the bus numbers them (raw) and as the host does (translated).
public struct ResourceLists: Sendable {
    /// Bus addresses: what the BARs hold.
    public var raw: [ResourceDescriptor]
    /// Physical addresses: what is mapped.
    public var translated: [ResourceDescriptor]

    /// Makes lists that name the same resources in the same order.
    public init(raw: [ResourceDescriptor], translated: [ResourceDescriptor]) {
        self.raw = raw
        self.translated = translated
    }

    /// The lists of a function. `busAddresses` are the BARs as configuration space holds them.
    static func of(_ function: any PCIFunction) throws(BusError) -> ResourceLists {
        var raw: [ResourceDescriptor] = []
        var translated: [ResourceDescriptor] = []
        for bar in function.usableBARs {
            let type: ResourceType = bar.kind == .io ? .port : .memory
            let address = try busAddress(of: bar, function)
            raw.append(ResourceDescriptor(type: type, start: address, length: bar.byteCount, bar: bar.index))
            translated.append(
                ResourceDescriptor(type: type, start: bar.address.value, length: bar.byteCount, bar: bar.index)
            )
        }
        for kind in InterruptKind.allCases {
            guard let count = function.interruptVectors[kind], count > 0 else { continue }
            let interrupt = ResourceDescriptor(
                type: .interrupt,
                start: 0,
                length: UInt64(count),
                interruptKind: kind
            )
            raw.append(interrupt)
            translated.append(interrupt)
        }
        return ResourceLists(raw: raw, translated: translated)
    }

    /// The address a base address register holds now.
    static func busAddress(of bar: BaseAddressRegister, _ function: any PCIFunction) throws(BusError) -> UInt64 {
        let offset = ConfigurationSpace.baseAddress0 + 4 * bar.index
        let address = UInt64(try function.readConfiguration(offset, .long)) & (bar.kind == .io ? ~3 : ~15)
        guard bar.kind == .memory64 else { return address }
        return address | UInt64(try function.readConfiguration(offset + 4, .long)) << 32
    }

    /// The translated memory resource of a BAR.
    public func memory(bar: Int) -> ResourceDescriptor? { translated.first { $0.type == .memory && $0.bar == bar } }
}

/// What a function says it is.
public struct PCIIdentity: Hashable, Sendable {
    /// Vendor ID.
    public var vendor: UInt16
    /// Device ID.
    public var device: UInt16
    /// Base class, subclass and programming interface, 24 bits.
    public var classCode: UInt32
    /// Revision ID.
    public var revision: UInt8
    /// Subsystem vendor ID.
    public var subsystemVendor: UInt16
    /// Subsystem ID.
    public var subsystem: UInt16

    /// Reads the identity out of configuration space. Throws when nobody answers.
    public init(of function: any PCIFunction) throws(BusError) {
        vendor = UInt16(truncatingIfNeeded: try function.readConfiguration(ConfigurationSpace.vendorID, .word))
        guard vendor != 0xffff, vendor != 0 else {
            throw BusError(
                19,
                "no card answers at \(function.address): its vendor ID reads \(hexadecimal(vendor, digits: 4))"
            )
        }
        device = UInt16(truncatingIfNeeded: try function.readConfiguration(ConfigurationSpace.deviceID, .word))
        classCode = try function.readConfiguration(ConfigurationSpace.revisionID, .long) >> 8
        revision = UInt8(truncatingIfNeeded: try function.readConfiguration(ConfigurationSpace.revisionID, .byte))
        subsystemVendor = UInt16(
            truncatingIfNeeded: try function.readConfiguration(ConfigurationSpace.subsystemVendorID, .word)
        )
        subsystem = UInt16(truncatingIfNeeded: try function.readConfiguration(ConfigurationSpace.subsystemID, .word))
    }

    /// Makes an identity.
    public init(vendor: UInt16, device: UInt16, classCode: UInt32 = 0, revision: UInt8 = 0) {
        self.vendor = vendor
        self.device = device
        self.classCode = classCode
        self.revision = revision
        subsystemVendor = 0
        subsystem = 0
    }
}
