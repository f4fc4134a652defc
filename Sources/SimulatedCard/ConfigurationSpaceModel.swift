import CHardware
import PCIBus

/// The 4096 bytes of configuration space, with the bits that can be written. Under the lock of the card.
struct ConfigurationSpaceModel {
    static var byteCount: Int { @_noLocks get { 4096 } }
    /// Where the capabilities are.
    static var powerManagement: Int { @_noLocks get { 0x40 } }
    static var msi: Int { @_noLocks get { 0x50 } }
    static var express: Int { @_noLocks get { 0x60 } }
    static var msix: Int { @_noLocks get { 0xb0 } }
    static var vendorSpecific: Int { @_noLocks get { 0xc0 } }
    static var serialNumber: Int { @_noLocks get { 0x100 } }
    let addresses: PlatformAddresses
    private let address: PCIAddress
    /// What the vendor-specific capability says: address bits, bit 8 gathering, bit 9 slave interface.
    private let limits: UInt32
    private let bytes: UnsafeMutableRawPointer
    /// Bits that take what is written.
    private let writable: UnsafeMutableRawPointer
    /// Bits that a written 1 clears.
    private let clearable: UnsafeMutableRawPointer

    init(address: PCIAddress, limits: UInt32, pages: HostPages) throws(BusError) {
        self.address = address
        self.limits = limits
        addresses = PlatformAddresses(address)
        bytes = try pages.map(Self.byteCount)
        writable = try pages.map(Self.byteCount)
        clearable = try pages.map(Self.byteCount)
        restore()
    }

    // MARK: Access

    @_noLocks func load8(_ offset: Int) -> UInt8 { bytes.load(fromByteOffset: offset, as: UInt8.self) }

    @_noLocks func load16(_ offset: Int) -> UInt16 {
        UInt16(littleEndian: bytes.load(fromByteOffset: offset, as: UInt16.self))
    }

    @_noLocks func load32(_ offset: Int) -> UInt32 {
        UInt32(littleEndian: bytes.load(fromByteOffset: offset, as: UInt32.self))
    }

    func load(_ offset: Int, _ width: AccessWidth) -> UInt32 {
        switch width {
        case .byte: UInt32(load8(offset))
        case .word: UInt32(load16(offset))
        case .long, .quad: load32(offset)
        }
    }

    /// A configuration write, as far as it changes bits.
    func store(_ value: UInt32, _ offset: Int, _ width: AccessWidth) {
        for index in 0..<width.byteCount {
            let new = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index)))
            let at = offset + index
            let mask = writable.load(fromByteOffset: at, as: UInt8.self)
            let clear = clearable.load(fromByteOffset: at, as: UInt8.self)
            let result = (load8(at) & ~mask | new & mask) & ~(new & clear)
            bytes.storeBytes(of: result, toByteOffset: at, as: UInt8.self)
        }
    }

    // MARK: What it means

    var isBusMaster: Bool { @_noLocks get { load8(0x04) & 4 != 0 } }

    /// In D0.
    var isAwake: Bool { @_noLocks get { load8(Self.powerManagement + 4) & 3 == 0 } }

    var isMSIEnabled: Bool { @_noLocks get { load8(Self.msi + 2) & 1 != 0 } }

    /// How many vectors of MSI the platform has granted.
    var grantedVectors: UInt32 { @_noLocks get { 1 << UInt32(load8(Self.msi + 2) >> 4 & 7) } }

    /// The INTx pin may pull its line.
    var isLineEnabled: Bool { @_noLocks get { load8(0x05) & 4 == 0 } }

    var isMSIXEnabled: Bool { @_noLocks get { load8(Self.msix + 3) & 0x80 != 0 } }

    var isMSIXMasked: Bool { @_noLocks get { load8(Self.msix + 3) & 0x40 != 0 } }

    /// Whether an access to where the platform placed a BAR finds it there.
    @_noLocks func decodes(bar: Int) -> Bool {
        guard load8(0x04) & 2 != 0, isAwake else { return false }
        switch bar {
        case 0: return load32(0x10) & ~0xf == addresses.bar0 && load32(0x14) == 0
        case 2: return load32(0x18) & ~0xf == addresses.bar2
        default: return load32(0x20) & ~0xf == addresses.bar4
        }
    }

    // MARK: The platform's part

    /// Enables or disables MSI-X, as the platform does when vectors are connected.
    func setMSIX(enabled: Bool) {
        bytes.storeBytes(of: enabled ? 0x80 : 0, toByteOffset: Self.msix + 3, as: UInt8.self)
    }

    /// Grants 1, 2 or 4 vectors of MSI and says where their messages go; disables it with 0.
    func setMSI(vectors: Int) {
        let control: UInt8 = vectors == 0 ? 0x84 : 0x85 | UInt8(vectors.trailingZeroBitCount) << 4
        bytes.storeBytes(of: control, toByteOffset: Self.msi + 2, as: UInt8.self)
        let address = vectors == 0 ? 0 : InterruptController.messageAddress
        bytes.storeBytes(of: address.littleEndian, toByteOffset: Self.msi + 4, as: UInt32.self)
        let data = vectors == 0 ? 0 : UInt16(InterruptController.messageData)
        bytes.storeBytes(of: data.littleEndian, toByteOffset: Self.msi + 12, as: UInt16.self)
    }

    /// The status register shows whether the card has a reason to pull its line, also where it may not.
    @_noLocks func setInterruptStatus(_ isPending: Bool) {
        let old = load8(0x06)
        bytes.storeBytes(of: isPending ? old | 8 : old & ~8, toByteOffset: 0x06, as: UInt8.self)
    }

    /// Lets the pin pull its line.
    func enableLine() { bytes.storeBytes(of: load8(0x05) & ~4, toByteOffset: 0x05, as: UInt8.self) }

    /// Puts a power state the card does not have back to what it was.
    func setPowerState(_ value: UInt8) {
        let at = Self.powerManagement + 4
        bytes.storeBytes(of: load8(at) & ~3 | value, toByteOffset: at, as: UInt8.self)
    }

    /// The values after power-on, and what the platform writes then: where the BARs are, and that memory is decoded.
    func restore() {
        let line = load8(ConfigurationSpace.interruptLine)
        for part in [bytes, writable, clearable] { memset(part, 0, Self.byteCount) }
        header()
        powerManagementCapability()
        // MSI: 4 vectors, 64-bit addresses, no masks.
        put(
            Self.msi,
            UInt32(ConfigurationSpace.Capability.msi) | UInt32(Self.express) << 8 | 0x0084 << 16,
            writable: 0x0071_0000
        )
        put(Self.msi + 4, 0, writable: ~3)
        put(Self.msi + 8, 0, writable: .max)
        put(Self.msi + 12, 0, writable: 0xffff)
        expressCapability()
        // MSI-X: 4 vectors, table at 0 and pending bits at 0x800 of BAR4.
        put(
            Self.msix,
            UInt32(ConfigurationSpace.Capability.msix) | UInt32(Self.vendorSpecific) << 8 | 3 << 16,
            writable: 0xc000_0000
        )
        // Vendor-specific, 8 bytes, the first kind: the limits of the bus master.
        put(Self.vendorSpecific, 0x0108_0009)
        put(Self.vendorSpecific + 4, limits)
        put(Self.msix + 4, 4)
        put(Self.msix + 8, 0x800 | 4)
        // Device serial number, version 1, the last extended capability: an EUI-64 made of the address.
        put(Self.serialNumber, 0x0001_0003)
        put(
            Self.serialNumber + 4,
            UInt32(address.domain) << 16 | UInt32(address.bus) << 8 | UInt32(address.device) << 3
                | UInt32(address.function)
        )
        put(Self.serialNumber + 8, 0x000a_35ff)
        if line != 0 { bytes.storeBytes(of: line, toByteOffset: ConfigurationSpace.interruptLine, as: UInt8.self) }
    }

    /// As an FPGA is after it was loaded: nobody has written addresses yet, and nothing is decoded.
    func forget() {
        restore()
        for offset in [0x10, 0x14, 0x18, 0x20] {
            bytes.storeBytes(of: load32(offset) & 0xf, toByteOffset: offset, as: UInt32.self)
        }
        bytes.storeBytes(of: 0, toByteOffset: 0x04, as: UInt16.self)
        bytes.storeBytes(of: 0, toByteOffset: ConfigurationSpace.interruptLine, as: UInt8.self)
    }

    private func header() {
        // FPGA cards usually carry the vendor ID of the FPGA.
        put(0x00, 0x5350_10ee)
        // Memory space, bus master, parity response, SERR#, INTx disable. The status has a capability list and error bits.
        put(0x04, 0x0010_0002, writable: 0x0546, clearable: 0xf900_0000)
        put(0x08, 0x0280_0001)
        put(0x0c, 0, writable: 0xff)
        put(0x10, addresses.bar0 | 4, writable: ~(256 << 10 - 1))
        put(0x14, 0, writable: .max)
        put(0x18, addresses.bar2, writable: ~0xfff)
        put(0x20, addresses.bar4, writable: ~0xfff)
        put(0x2c, 0x0001_10ee)
        put(0x34, UInt32(Self.powerManagement))
        put(0x3c, 1 << 8 | 16, writable: 0xff)
    }

    private func powerManagementCapability() {
        // Version 3, D0 and D3hot only, no PME. No_Soft_Reset is 0: the way back from D3hot resets the card.
        put(
            Self.powerManagement,
            UInt32(ConfigurationSpace.Capability.powerManagement) | UInt32(Self.msi) << 8 | 3 << 16
        )
        put(Self.powerManagement + 4, 0, writable: 3)
    }

    private func expressCapability() {
        let at = Self.express
        // Version 2, endpoint.
        put(at, UInt32(ConfigurationSpace.Capability.express) | UInt32(Self.msix) << 8 | 0x0002 << 16)
        // 256-byte payloads, extended tags, L0s below 64 ns, L1 below 1 us, role-based errors, function level reset.
        put(at + 0x04, 0x1000_8021)
        // Relaxed ordering, no snoop, 512-byte reads. Starting a function level reset is no bit that stays.
        put(at + 0x08, 0x0000_2810, writable: 0x7fff, clearable: 0x000f_0000)
        // 5 GT/s, 4 lanes, no ASPM (and said so: the optionality bit).
        put(at + 0x0c, 0x0040_0042)
        // Common clock; the link runs at 5 GT/s on 4 lanes with the slot's clock.
        put(at + 0x10, 0x1042_0040, writable: 0x00c8)
        // Completion time-out ranges A to D and its disable.
        put(at + 0x24, 0x0000_001f)
        put(at + 0x28, 0, writable: 0x001f)
        // 2.5 and 5 GT/s; the target is 5.
        put(at + 0x2c, 0x0000_0006)
        put(at + 0x30, 0x0000_0002, writable: 0x000f)
    }

    private func put(_ offset: Int, _ value: UInt32, writable mask: UInt32 = 0, clearable clear: UInt32 = 0) {
        bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
        writable.storeBytes(of: mask.littleEndian, toByteOffset: offset, as: UInt32.self)
        clearable.storeBytes(of: clear.littleEndian, toByteOffset: offset, as: UInt32.self)
    }
}

/// Where the platform places the BARs of a function: 1 MiB for each, below 4 GiB since BAR0 is not prefetchable.
struct PlatformAddresses {
    let bar0: UInt32
    let bar2: UInt32
    let bar4: UInt32

    init(_ address: PCIAddress) {
        let slot = (UInt32(address.bus) &* 8 &+ UInt32(address.device) &* 64 &+ UInt32(address.function)) & 511
        bar0 = 0xd000_0000 + slot << 20
        bar2 = bar0 + 256 << 10
        bar4 = bar2 + 0x1000
    }
}

extension Card {
    /// A configuration read. Any thread.
    func readConfiguration(_ offset: Int, _ width: AccessWidth) -> UInt32 {
        lock.locked {
            guard isPresent else { return UInt32(truncatingIfNeeded: silence & width.allOnes) }
            return state.pointee.configuration.load(offset, width)
        }
    }

    /// A configuration write, with what it does to the card. Any thread.
    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) {
        lock.lock()
        guard isPresent else { return lock.unlock() }
        let configuration = state.pointee.configuration
        let power = configuration.load8(ConfigurationSpaceModel.powerManagement + 4) & 3
        let wasMaster = isBusMaster
        configuration.store(value, offset, width)

        let newPower = configuration.load8(ConfigurationSpaceModel.powerManagement + 4) & 3
        if newPower == 1 || newPower == 2 { configuration.setPowerState(power) }
        if power == 3, configuration.isAwake { reset(cause: ResetCause.power) }

        // Initiate Function Level Reset, bit 15 of the device control register.
        let control = ConfigurationSpaceModel.express + 9
        if (offset..<offset + width.byteCount).contains(control), value >> (8 * UInt32(control - offset)) & 0x80 != 0 {
            resetFunction(cause: ResetCause.function)
        }

        if wasMaster != isBusMaster {
            interrupt(tx)
            interrupt(rx)
        }
        evaluateInterrupts()
        releasePending()
        unlockAndDeliver()
        // What the card was in the middle of is over when the write is.
        settle()
    }
}
