/// Offsets and bits of the type 0 configuration header (PCI Local Bus Specification 3.0, 6.1) and the capabilities cardfs uses.
public enum ConfigurationSpace {
    /// Vendor ID, 16 bits; 0xffff when nobody answers.
    public static let vendorID = 0x00
    /// Device ID, 16 bits.
    public static let deviceID = 0x02
    /// Command, 16 bits.
    public static let command = 0x04
    /// Status, 16 bits.
    public static let status = 0x06
    /// Revision ID, 8 bits, below the 24-bit class code.
    public static let revisionID = 0x08
    /// Class code, 24 bits at 0x09…0x0b.
    public static let classCode = 0x09
    /// Header type, 8 bits.
    public static let headerType = 0x0e
    /// The first of six base address registers.
    public static let baseAddress0 = 0x10
    /// Subsystem vendor ID, 16 bits.
    public static let subsystemVendorID = 0x2c
    /// Subsystem ID, 16 bits.
    public static let subsystemID = 0x2e
    /// Pointer to the first capability, 8 bits.
    public static let capabilitiesPointer = 0x34
    /// Interrupt line, 8 bits.
    public static let interruptLine = 0x3c
    /// Interrupt pin, 8 bits: 0 none, 1…4 INTA…INTD.
    public static let interruptPin = 0x3d

    /// Bits of the command register.
    public struct Command: OptionSet, Sendable {
        /// The bits.
        public let rawValue: UInt16
        /// Makes a set.
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        /// Responds to I/O accesses.
        public static let ioSpace = Command(rawValue: 1 << 0)
        /// Responds to memory accesses.
        public static let memorySpace = Command(rawValue: 1 << 1)
        /// May act as a bus master: without it no DMA and no message-signalled interrupt leaves the card.
        public static let busMaster = Command(rawValue: 1 << 2)
        /// INTx is not asserted.
        public static let interruptDisable = Command(rawValue: 1 << 10)
    }

    /// Where the power management capability has its control and status register (PMCSR), from the capability on.
    public static let powerManagementControl = 4
    /// Bytes of the power management capability.
    public static let powerManagementByteCount = 8

    /// Capability IDs.
    public enum Capability {
        /// PCI Power Management.
        public static let powerManagement: UInt8 = 0x01
        /// MSI.
        public static let msi: UInt8 = 0x05
        /// PCI Express.
        public static let express: UInt8 = 0x10
        /// MSI-X.
        public static let msix: UInt8 = 0x11
    }
}

extension PCIFunction {
    /// The offset of a capability of at least `byteCount` bytes in the list, or nil. Follows at most 48 links, since a broken card
    /// may make a circle; one that does not end before byte 256 is none.
    public func capability(_ id: UInt8, byteCount: Int = 2) throws(BusError) -> Int? {
        let status = try readConfiguration(ConfigurationSpace.status, .word)
        guard status & 0x10 != 0, status != 0xffff else { return nil }
        var offset = Int(try readConfiguration(ConfigurationSpace.capabilitiesPointer, .byte)) & ~3
        for _ in 0..<48 {
            guard offset >= 0x40 else { return nil }
            let header = try readConfiguration(offset, .word)
            if UInt8(truncatingIfNeeded: header) == id { return offset + byteCount <= 0x100 ? offset : nil }
            offset = Int(header >> 8) & ~3
        }
        return nil
    }

    /// Sets and clears bits of the command register in one read and one write.
    public func changeCommand(
        set: ConfigurationSpace.Command = [],
        clear: ConfigurationSpace.Command = []
    ) throws(BusError) {
        let old = UInt16(truncatingIfNeeded: try readConfiguration(ConfigurationSpace.command, .word))
        let new = (old & ~clear.rawValue) | set.rawValue
        try writeConfiguration(UInt32(new), ConfigurationSpace.command, .word)
    }
}
