import CHardware
public import PCIBus
import Synchronization

/// A simulated PCIe card with one SpaceWire link: configuration space, registers, DMA engines with threads of their own,
/// behind an IOMMU. Registers and descriptors are those of the SpaceWire Light core (J. van Rantwijk, version 20130504).
///
/// After ``close()`` accesses find nobody: reads are all ones.
public final class SimulatedFunction: PCIFunction, @unchecked Sendable {  // every part has its own lock
    /// Where the function sits.
    public let address: PCIAddress
    /// The name of the bus for people.
    public let busName = "simulated"
    /// Bytes of configuration space: PCI Express's 4096.
    public let configurationSize = ConfigurationSpaceModel.byteCount

    /// What the machine grants.
    public let mapRegisterLimit: Int?

    let card: Card
    private let pages = HostPages()
    private let memory: MemoryMap
    private let lifecycle = Lock()
    private var threads: [Thread] = []
    private let onClose: @Sendable () -> Void

    init(
        address: PCIAddress,
        configuration: SimulatedBus.Configuration,
        onClose: @escaping @Sendable () -> Void
    ) throws(BusError) {
        self.address = address
        self.onClose = onClose
        let seed = UInt64(address.bus) << 8 | UInt64(address.device) << 3 | UInt64(address.function)
        memory = try MemoryMap(seed: seed &* 4099, pages: pages)
        mapRegisterLimit = configuration.mapRegisters
        memory.iommu.addressMask.pointee = UInt32(
            truncatingIfNeeded: UInt64(1) << UInt64(configuration.addressBits) - 1
        )
        let made = try CardParts(address: address, configuration: configuration, iommu: memory.iommu, pages: pages)
        let parts = UnsafeMutablePointer<CardParts>.allocate(capacity: 1)
        parts.initialize(to: made)
        let card = Card(parts: parts)
        self.card = card
        do {
            threads.append(try Thread(starting: "spw-tx") { card.run(card.tx) })
            threads.append(try Thread(starting: "spw-rx") { card.run(card.rx) })
        } catch {
            endThreads()
            throw error
        }
    }

    deinit {
        close()
        card.parts.pointee.destroy()
        card.parts.deallocate()
        lifecycle.destroy()
    }

    // MARK: Configuration space

    /// Reads configuration space as one access. Any thread.
    public func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        try Self.check(offset, width)
        return card.readConfiguration(offset, width)
    }

    /// Writes configuration space as one access; bits that are not writable keep their value. Any thread.
    public func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        try Self.check(offset, width)
        card.writeConfiguration(value, offset, width)
    }

    private static func check(_ offset: Int, _ width: AccessWidth) throws(BusError) {
        guard width != .quad, offset >= 0, offset < ConfigurationSpaceModel.byteCount, offset % width.byteCount == 0
        else {
            throw BusError(
                EINVAL,
                "configuration access of \(width.byteCount) bytes at \(offset): it takes 1, 2 or 4 bytes, naturally aligned"
            )
        }
    }

    // MARK: BARs

    /// Registers (64-bit), the card's configuration registers, the MSI-X table.
    public var baseAddressRegisters: [BaseAddressRegister] {
        let addresses = PlatformAddresses(address)
        return [(0, addresses.bar0), (2, addresses.bar2), (4, addresses.bar4)].map { (index: Int, place: UInt32) in
            BaseAddressRegister(
                index: index,
                kind: index == 0 ? .memory64 : .memory32,
                isPrefetchable: false,
                address: PhysicalAddress(UInt64(place)),
                byteCount: RegisterBlock.byteCount(bar: index)
            )
        }
    }

    /// Maps a BAR: every access goes through a function of the model. EINVAL for a BAR that does not exist.
    public func map(bar index: Int) throws(BusError) -> RegisterWindow {
        var window = chw_window()
        window.context = UnsafeMutableRawPointer(card.parts)
        window.byte_count = RegisterBlock.byteCount(bar: index)
        switch index {
        case 0:
            window.load = { SimulatedCard.load($0, bar: 0, $1, $2) }
            window.store = { SimulatedCard.store($0, bar: 0, $1, $2, $3) }
        case 2:
            window.load = { SimulatedCard.load($0, bar: 2, $1, $2) }
            window.store = { SimulatedCard.store($0, bar: 2, $1, $2, $3) }
        case 4:
            window.load = { SimulatedCard.load($0, bar: 4, $1, $2) }
            window.store = { SimulatedCard.store($0, bar: 4, $1, $2, $3) }
        default: throw BusError(EINVAL, "\(address) has no BAR\(index): it has 0, 2 and 4")
        }
        return RegisterWindow(window)
    }

    /// Ends the mapping of a BAR; the model holds nothing for it.
    public func unmap(bar index: Int) {}

    // MARK: Memory

    /// 32 bits without page 0 and without the addresses of interrupt messages.
    public var logicalAddressRanges: [ClosedRange<LogicalAddress>] {
        IOMMU.ranges.map { LogicalAddress($0.lowerBound)...LogicalAddress($0.upperBound) }
    }

    /// Takes zeroed memory of the simulated machine, whose page frames do not follow each other. Any thread.
    public func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try memory.allocate(byteCount: byteCount)
    }

    /// As ``allocateMemory(byteCount:)``, in a file of its own (memfd_create(2)) that can be mapped to be read. Any thread.
    public func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try memory.allocate(byteCount: byteCount, isShared: true)
    }

    /// Gives memory back; a card that still reaches it gets a bus error. Any thread.
    public func freeMemory(_ memory: DMAMemory) { self.memory.free(memory) { card.settle() } }

    /// Maps memory for the card: EINVAL for what is not aligned, empty, outside the ranges or neither readable nor writable;
    /// EEXIST for an overlap; EFAULT for memory that was not allocated here; ENOSPC beyond 65,535 mappings. Any thread.
    public func mapDMA(
        _ base: UnsafeMutableRawPointer,
        byteCount: Int,
        at logical: LogicalAddress,
        access: DMAAccess
    ) throws(BusError) {
        try memory.map(base, byteCount: byteCount, at: logical, access: access)
    }

    /// Takes whole mappings away: when it returns, the card is not in the middle of an access to them. Any thread.
    public func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        try memory.unmap(at: logical, byteCount: byteCount) { card.settle() }
    }

    var mappedBytes: Int { memory.iommu.mappedBytes.pointee.load(ordering: .relaxed) }

    // MARK: Interrupts and reset

    /// Four vectors of MSI-X or MSI, for transmitter, receiver, link and time-codes, and bus errors; or the line INTA.
    public var interruptVectors: [InterruptKind: Int] {
        [.msix: MSIXTable.vectorCount, .msi: MSIXTable.vectorCount, .intx: 1]
    }

    /// Programs and enables the vectors. EINVAL for a count the card lacks (MSI grants 1, 2 or 4), EBUSY when vectors are
    /// connected.
    ///
    /// The routine is called by an engine's thread, or by the thread whose register write raised the interrupt, before that
    /// write returns; never by two threads at once for one vector. For a line it is called as long as the line is pulled.
    public func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        let available = interruptVectors[kind] ?? 0
        guard (1...available).contains(count), kind != .msi || count != 3 else {
            throw BusError(EINVAL, "\(address) has \(available) vectors of \(kind.rawValue), not \(count)")
        }
        guard card.connect(kind, count, sink) else {
            throw BusError(EBUSY, "interrupts of \(address) are connected already")
        }
    }

    /// Disables the vectors and waits until the routine is left. Not to be called by the routine.
    public func disconnectInterrupts() { card.disconnect() }

    /// Function level reset; the content of the memory windows, which are block RAM, stays. ENODEV when the card is gone.
    public func resetFunction() throws(BusError) {
        card.lock.lock()
        let isPresent = card.isPresent
        if isPresent { card.resetFunction(cause: ResetCause.function) }
        card.unlockAndDeliver()
        card.settle()
        if !isPresent { throw BusError(ENODEV, "\(address) does not answer, so it cannot be reset") }
    }

    /// Ends the threads and the connection of interrupts; the function can then be opened again. Memory is given back with
    /// the last reference. A second call does nothing.
    public func close() {
        if endThreads() { onClose() }
    }

    /// False when they have ended already.
    @discardableResult private func endThreads() -> Bool {
        let ending = lifecycle.locked {
            defer { threads = [] }
            return threads
        }
        guard !ending.isEmpty else { return false }
        disconnectInterrupts()
        card.lock.lock()
        card.state.pointee.isClosing = true
        card.interrupt(card.tx)
        card.interrupt(card.rx)
        card.lock.unlock()
        for thread in ending { thread.join() }
        return true
    }
}
