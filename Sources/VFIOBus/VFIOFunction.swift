import CHardware
import CVFIO
import Glibc
public import PCIBus

/// A PCI function behind vfio-pci.
///
/// Accesses to configuration space and the control calls serialise on one lock. Between ``release()`` and ``reclaim()``
/// everything answers ENODEV.
public final class VFIOFunction: PCIFunction, @unchecked Sendable {  // everything that changes is guarded by `lock`
    /// Where the function sits.
    public let address: PCIAddress
    /// The name of the bus for people.
    public let busName = "vfio"

    let kernel: any VFIOKernel
    let lock = Lock()
    /// The open descriptors; nil while the function is given back.
    var session: VFIOSession?
    var mappings: [Int: RegisterMapping] = [:]
    /// Bytes this process has mapped for the card, each of which the kernel has locked.
    var lockedBytes = 0
    /// The vectors that are connected: their index, and the thread that waits for them.
    var interrupts: (index: Int, pump: EventPump)?
    private var bars: [BaseAddressRegister] = []
    private var eventSink: (@Sendable (FunctionEvent) -> Void)?
    private var events: EventPump?
    /// Revision and class code as they read when the function was taken.
    private var classWord: UInt32 = 0

    init(kernel: any VFIOKernel, address: PCIAddress) throws(BusError) {
        self.kernel = kernel
        self.address = address
        try reclaim()
    }

    deinit {
        close()
        lock.destroy()
    }

    // MARK: Taking and giving back

    /// Takes the function that sits at the address now. Nothing when it was not given back. Passive level; throws what
    /// ``VFIOBus/open(_:)`` does.
    public func reclaim() throws(BusError) {
        guard lock.locked({ self.session == nil }) else { return }
        let sysfs = SysfsFunction(kernel: kernel, address: address)
        if sysfs.driver == "vfio-pci" { sysfs.restoreAddresses() }
        let session = try VFIOSession.open(kernel, address)
        let pump: EventPump?
        do throws(BusError) {
            try checkAddresses(session)
            pump = try watch(session)
        } catch {
            session.close(kernel)
            throw error
        }
        lock.locked {
            self.session = session
            bars = Self.describe(sysfs.resources, session.bars)
            classWord = (try? access(session, ConfigurationSpace.revisionID, .long)) ?? .max
            events = pump
        }
    }

    /// Closes all descriptors: the kernel unmaps what the IOMMU still translated, masks the vectors, and whoever waits to
    /// unplug the function goes on. Passive level; not from the event sink.
    public func release() {
        disconnectInterrupts()
        let (session, pump) = lock.locked { () -> (VFIOSession?, EventPump?) in
            defer {
                self.session = nil
                events = nil
                mappings = [:]
                lockedBytes = 0
            }
            return (self.session, events)
        }
        pump?.stop()
        session?.close(kernel)
    }

    /// Gives the function back for good. A second call does nothing. Passive level.
    public func close() {
        setEventSink(nil)
        release()
    }

    /// Names who is told of the kernel's request to have the function back (the REQ interrupt) and of errors that the function
    /// reported (ERR). Any thread.
    public func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) { lock.locked { eventSink = sink } }

    /// A card that lost its power while nobody had it open has lost its base addresses, and the kernel does not notice.
    private func checkAddresses(_ session: VFIOSession) throws(BusError) {
        let resources = SysfsFunction(kernel: kernel, address: address).resources
        for (index, resource) in resources.enumerated() where resource.start != 0 && session.bars[index] != nil {
            let low = try access(session, ConfigurationSpace.baseAddress0 + 4 * index, .long)
            guard low & ~0xf == 0, resource.start & 0xffff_fff0 != 0 else { continue }
            throw BusError(
                EIO,
                "\(address) has forgotten its base addresses, as it does without power: as root, echo 1 > "
                    + "/sys/bus/pci/devices/\(address)/remove; echo 1 > /sys/bus/pci/rescan; cardfs bind \(address)"
            )
        }
    }

    /// Has the kernel tell of errors and of its wish to have the function back, as far as this function can.
    private func watch(_ session: VFIOSession) throws(BusError) -> EventPump? {
        let indices = [InterruptIndex.request, InterruptIndex.error].filter { session.interrupts[$0] > 0 }
        guard !indices.isEmpty else { return nil }
        let pump = try EventPump(count: indices.count)
        for (index, descriptor) in zip(indices, pump.descriptors) {
            let result = InterruptRequest.connect(kernel, session.device, index, [descriptor])
            guard result >= 0 else {
                throw BusError(-result, "events of \(address) cannot be connected: \(meaning(-result))")
            }
        }
        try pump.start(name: "vfio-events") { [weak self] source, _ in
            self?.tell(indices[source] == InterruptIndex.request ? .releaseRequested : .errorReported)
        }
        return pump
    }

    private func tell(_ event: FunctionEvent) {
        let sink = lock.locked { eventSink }
        sink?(event)
    }

    /// The answer to whoever asks for something of a function that was given back.
    var absence: BusError {
        BusError(ENODEV, "\(address) was given back to the kernel: write start to ctl once it is back")
    }

    // MARK: Configuration space

    /// Bytes of configuration space the kernel lets through: 256, or 4096 for PCI Express.
    public var configurationSize: Int {
        lock.locked { session.map { $0.configuration.byteCount >= 4096 ? 4096 : 256 } ?? 4096 }
    }

    /// One access through the configuration region, of which the kernel answers some fields (BARs, IDs, MSI) itself. Any thread.
    public func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        lock.lock()
        defer { lock.unlock() }
        guard let session else { throw absence }
        // vfio-pci answers the IDs out of its own memory, also for a card that is gone. The class code comes from the card.
        if offset < ConfigurationSpace.command, classWord != 0, classWord != .max {
            let now = try access(session, ConfigurationSpace.revisionID, .long)
            if now == 0 || now == .max { return now & UInt32(truncatingIfNeeded: width.allOnes) }
        }
        let value = try access(session, offset, width)
        if offset == ConfigurationSpace.command { restoreMappings(command: value) }
        return value
    }

    /// One access through the configuration region, of which the kernel keeps some fields (BARs, MSI) for itself. Any thread.
    public func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let session else { throw absence }
        try Self.check(offset, width, session)
        var bytes = value.littleEndian
        let done = kernel.write(
            session.device,
            &bytes,
            width.byteCount,
            at: session.configuration.fileOffset + UInt64(offset)
        )
        guard done == width.byteCount else { throw failed("write to", offset, done) }
        if offset == ConfigurationSpace.command { restoreMappings(command: value) }
    }

    /// One access, the lock held.
    private func access(_ session: VFIOSession, _ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        try Self.check(offset, width, session)
        var bytes: UInt32 = 0
        let done = kernel.read(
            session.device,
            &bytes,
            width.byteCount,
            at: session.configuration.fileOffset + UInt64(offset)
        )
        guard done == width.byteCount else { throw failed("read of", offset, done) }
        return UInt32(littleEndian: bytes)
    }

    private func failed(_ what: String, _ offset: Int, _ done: Int) -> BusError {
        let code = done < 0 ? CInt(-done) : EIO
        return BusError(
            code,
            "\(what) configuration space of \(address) at 0x\(String(offset, radix: 16)) failed: \(meaning(code))"
        )
    }

    private static func check(_ offset: Int, _ width: AccessWidth, _ session: VFIOSession) throws(BusError) {
        guard width != .quad, offset >= 0, offset + width.byteCount <= Int(session.configuration.byteCount),
            offset % width.byteCount == 0
        else {
            throw BusError(
                EINVAL,
                "configuration access of \(width.byteCount) bytes at \(offset): it takes 1, 2 or 4 bytes, naturally aligned"
            )
        }
    }

    // MARK: BARs

    /// The BARs as the host placed them, from the file `resource` of sysfs.
    public var baseAddressRegisters: [BaseAddressRegister] { lock.locked { bars } }

    private static func describe(
        _ resources: [(start: UInt64, byteCount: UInt64, flags: UInt64)],
        _ regions: [RegionInformation?]
    ) -> [BaseAddressRegister] {
        // IORESOURCE_IO, IORESOURCE_PREFETCH and IORESOURCE_MEM_64 of linux/ioport.h.
        zip(resources, regions).enumerated().compactMap { index, pair in
            let (resource, region) = pair
            guard let region, region.byteCount > 0, resource.byteCount > 0 else { return nil }
            return BaseAddressRegister(
                index: index,
                kind: resource.flags & 0x100 != 0 ? .io : resource.flags & 0x10_0000 != 0 ? .memory64 : .memory32,
                isPrefetchable: resource.flags & 0x2000 != 0,
                address: PhysicalAddress(resource.start),
                byteCount: region.byteCount
            )
        }
    }

    /// Maps a BAR as far as the kernel allows; what it does not is reached by pread(2) and pwrite(2), one call for each access.
    /// EINVAL for a BAR that is not there, EBUSY for one that is mapped.
    public func map(bar index: Int) throws(BusError) -> RegisterWindow {
        lock.lock()
        defer { lock.unlock() }
        guard let session else { throw absence }
        guard (0..<6).contains(index), let region = session.bars[index], region.byteCount > 0 else {
            throw BusError(EINVAL, "\(address) has no BAR\(index)")
        }
        guard mappings[index] == nil else { throw BusError(EBUSY, "BAR\(index) of \(address) is mapped already") }
        let mapping = RegisterMapping(kernel, device: session.device, region)
        mappings[index] = mapping
        return mapping.window
    }

    /// Ends the mapping of a BAR, with no access to it under way.
    public func unmap(bar index: Int) { lock.locked { mappings[index] = nil } }

    /// Where pages of a mapping were replaced while the function did not decode memory, the device comes back once it does.
    /// The lock is held.
    private func restoreMappings(command: UInt32) {
        guard UInt16(truncatingIfNeeded: command) & ConfigurationSpace.Command.memorySpace.rawValue != 0 else { return }
        for mapping in mappings.values { mapping.restore() }
    }

    // MARK: Reset

    /// VFIO_DEVICE_RESET: a function level reset, or of the slot or bus where the function is alone on it. The kernel restores
    /// configuration space.
    public func resetFunction() throws(BusError) {
        try lock.locked { () throws(BusError) in
            guard let session else { throw absence }
            guard session.canReset else {
                throw BusError(
                    EOPNOTSUPP,
                    "\(address) has no reset: neither of the function nor of a bus it has for itself"
                )
            }
            let result = kernel.control(session.device, cvfio_device_reset, nil)
            guard result >= 0 else {
                throw BusError(-result, "\(address) could not be reset: \(meaning(-result))")
            }
        }
        try changeCommand(clear: .busMaster)
    }

    /// None: what there is to control is in the function.
    public var controls: [BusControl] { [] }
}
