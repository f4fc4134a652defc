public import CHardware
public import DriverCore
public import PCIBus
import Synchronization

/// Drives a PCIe card that carries the SpaceWire Light core with its AMBA interface.
///
/// Descriptor rings lie in common buffers. A write goes out of the memory it arrived in, a read is answered from the memory
/// the card wrote; the card reaches both through mappings made when the hardware was prepared.
public final class SpaceWireDriver: CardDriver {
    /// For people.
    public static let name = "SpaceWire Light"

    /// 10ee:5350.
    public static func matches(_ identity: PCIIdentity) -> Bool {
        identity.vendor == 0x10ee && identity.device == 0x5350
    }

    /// The core's registers, the card's, and the original card's memory windows.
    public static var registerMap: RegisterMap {
        RegisterMap(
            registers: [
                .init("control", at: SpaceWireLayout.control, isDriverOwned: true, "core control"),
                .init("status", at: SpaceWireLayout.status, isDriverOwned: true, "core status, sticky bits"),
                .init("txscaler", at: SpaceWireLayout.txScaler, "transmit clock divider minus 1"),
                .init("timecode", at: SpaceWireLayout.timeCode, "time-code received and to send"),
                .init(
                    "rxdesc",
                    at: SpaceWireLayout.rxDescriptorPointer,
                    isDriverOwned: true,
                    "next receive descriptor"
                ),
                .init(
                    "txdesc",
                    at: SpaceWireLayout.txDescriptorPointer,
                    isDriverOwned: true,
                    "next transmit descriptor"
                ),
                .init("id", at: SpaceWireLayout.id, isWritable: false, "identification, 0x53505743"),
                .init("version", at: SpaceWireLayout.version, isWritable: false, "version of the card"),
                .init("scratch", at: SpaceWireLayout.scratch, "a register without effect"),
                .init("flow", at: SpaceWireLayout.flow, isWritable: false, "bit 0 no credit, bit 1 no descriptor"),
                .init("memory1", at: SpaceWireLayout.writeMemory, "first word of the 8 KiB write memory"),
                .init("memory2", at: SpaceWireLayout.readMemory, "first word of the 8 KiB read memory"),
            ],
            window: SpaceWireLayout.writeMemory..<SpaceWireLayout.writeMemory + SpaceWireLayout.memoryByteCount,
            protectedBARs: [2],
            presence: SpaceWireLayout.id,
            carriedOutByDriver: SpaceWireLayout.coreByteCount
        )
    }

    /// 32-bit addresses, any number of runs, a megabyte at a time, words aligned to 4.
    public static var dmaDescription: DeviceDescription? {
        DeviceDescription(
            addressWidth: 32,
            scatterGather: true,
            maximumLength: PayloadArena.payloadByteCount,
            alignment: 4
        )
    }

    /// As the card's vendor-specific capability says, where it has one.
    public static func dmaDescription(of function: any PCIFunction) -> DeviceDescription? {
        let limits = SpaceWireLimits(of: function)
        return DeviceDescription(
            addressWidth: limits.addressWidth,
            scatterGather: limits.scatterGather,
            maximumLength: PayloadArena.payloadByteCount,
            alignment: 4
        )
    }

    // The device owns this driver and ends it first.
    unowned let device: Device
    let transmit: TransmitPort
    let receive: ReceivePort
    let signals: UnsafeMutablePointer<InterruptSignals>
    private let entry: UnsafeMutablePointer<SpaceWireEntry>
    private let linkAddress: UnsafeMutablePointer<LinkPort>
    /// The registers of the link.
    var link: LinkPort { linkAddress.pointee }
    private(set) var window = RegisterWindow.none
    private(set) var transmitTable: CommonBuffer?
    private var transmitSlots: CommonBuffer?
    private var receiveTable: CommonBuffer?
    private var receiveData: CommonBuffer?
    /// For a card that cannot reach the memory of requests.
    private(set) var mapper: TransmitMapper?
    /// The engines the card has; the first is the one it begins with.
    private(set) var engines: [DMAEngine] = [.scatterGather, .common]
    private var mappingCall = 0
    /// The channels of the machine's slave DMA controller: to the card, from it.
    var systemAdapters: [SystemDMAAdapter] = []
    /// Held by whoever takes the rings from the card: a recovery, a flush, a start or a suspension. Taken before the locks of
    /// the channels.
    let recovery = Lock()
    /// Whether the engines may be touched: from `startIO` to `suspendIO`. Guarded by `recovery`.
    private(set) var isWorking = false
    /// Whether the card has the registers around the core (``SpaceWireLayout/flow``).
    private(set) var isFullCard = false

    /// Makes the channels and their deferred calls.
    public init(device: Device) throws(StatusError) {
        self.device = device
        signals = .allocate(capacity: 1)
        signals.initialize(to: InterruptSignals(deferred: device.deferred))
        transmit = TransmitPort(pool: device.pool, signals: signals)
        receive = ReceivePort(pool: device.pool, signals: signals)
        entry = .allocate(capacity: 1)
        entry.initialize(to: SpaceWireEntry(transmit: transmit, receive: receive))
        let registers = UnsafeMutablePointer<LinkRegisters>.allocate(capacity: 1)
        registers.initialize(to: LinkRegisters())
        linkAddress = .allocate(capacity: 1)
        linkAddress.initialize(
            to: LinkPort(transmit: transmit, receive: receive, registers: registers, signals: signals)
        )
        device.registers.pointee.setStoreRoutine(context: linkAddress) { storeFromOutside($0, $1, $2, $3) }

        let context = Unmanaged.passUnretained(self).toOpaque()
        signals.pointee.transmitCall = device.deferred.pointee.register(context: context) { context in
            Unmanaged<SpaceWireDriver>.fromOpaque(context).takeUnretainedValue().transmitDeferred()
        }
        signals.pointee.receiveCall = device.deferred.pointee.register(context: context) { context in
            Unmanaged<SpaceWireDriver>.fromOpaque(context).takeUnretainedValue().receiveDeferred()
        }
        signals.pointee.errorCall = device.deferred.pointee.register(context: context) { context in
            Unmanaged<SpaceWireDriver>.fromOpaque(context).takeUnretainedValue().errorDeferred()
        }
        mappingCall = device.deferred.pointee.register(context: context) { context in
            ExecutionLevel.dispatch.run {
                Unmanaged<SpaceWireDriver>.fromOpaque(context).takeUnretainedValue().mapper?.run()
            }
        }
        transmit.control { $0.call = signals.pointee.transmitCall }
        receive.control { $0.call = signals.pointee.receiveCall }
        device.interrupt.pointee.setServiceRoutine(context: UnsafeMutableRawPointer(signals)) { context, vector in
            serveSpaceWire(context, vector)
        }
    }

    deinit {
        entry.deinitialize(count: 1)
        entry.deallocate()
        linkAddress.pointee.registers.deallocate()
        linkAddress.deallocate()
        transmit.destroy()
        receive.destroy()
        signals.deinitialize(count: 1)
        signals.deallocate()
        recovery.destroy()
    }

    /// Maps BAR0 and BAR2 and allocates the rings.
    public func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
        guard let bar0 = resources.memory(bar: 0), bar0.length >= SpaceWireLayout.readMemory else {
            throw StatusError(
                .deviceConfigurationError,
                "BAR0 of \(device.function.address) is missing or smaller than the card's register space"
            )
        }
        window = try device.mapBAR(0)
        for resource in resources.translated where resource.type == .memory {
            if let bar = resource.bar, bar != 0 { _ = try device.mapBAR(bar) }
        }
        guard let adapter = device.adapter else {
            throw StatusError(.insufficientResources, "no DMA adapter for \(device.function.address)")
        }
        let table = SpaceWireLayout.tableByteCount
        let transmitTable = try adapter.allocateCommonBuffer(byteCount: table, alignment: table)
        self.transmitTable = transmitTable
        let transmitSlots = try adapter.allocateCommonBuffer(
            byteCount: TransmitChannel.slotCount * TransmitChannel.slotByteCount
        )
        self.transmitSlots = transmitSlots
        let receiveTable = try adapter.allocateCommonBuffer(byteCount: table, alignment: table)
        self.receiveTable = receiveTable
        let receiveData = try adapter.allocateCommonBuffer(
            byteCount: ReceiveChannel.slotCount * ReceiveChannel.slotByteCount,
            isShared: true
        )
        self.receiveData = receiveData
        isFullCard = window.load32(SpaceWireLayout.id) == SpaceWireLayout.identity

        let context = ChannelContext(
            window: window,
            isFullCard: isFullCard,
            link: link.registers,
            arena: device.arena,
            arenaBuffer: device.arenaBuffer,
            deferred: device.deferred,
            clock: device.clock,
            policy: device.policy
        )
        let limits = SpaceWireLimits(of: device.function)
        engines = limits.engines
        let isMapped = device.arenaBuffer == nil
        mapper = nil
        if isMapped {
            // The card reaches the memory of requests only through map registers.
            try adapter.reserveMapRegisters(adapter.mapRegisterCount)
            mapper = try TransmitMapper(adapter, transmit)
        }
        let engine = engines.contains(self.engine) ? self.engine : engines[0]
        transmit.control {
            $0.engine = engine
            $0.isGathering = limits.scatterGather
            $0.mapping = TransmitMapping()
            $0.mapping.call = mappingCall
            $0.isMemoryMapped = isMapped
            $0.mapping.isOn = isMapped && engine == .scatterGather
        }
        receive.control { $0.engine = engine }
        let transmitRing = DescriptorRing(buffer: transmitTable, count: ringCount(engine))
        let receiveRing = DescriptorRing(buffer: receiveTable, count: ReceiveChannel.slotCount)
        transmit.control { $0.attach(context, ring: transmitRing, slots: transmitSlots) }
        receive.control { $0.attach(context, ring: receiveRing, data: receiveData) }
        prepareChannels(adapter, transmitSlots, receiveData)
        signals.pointee.window = window
        signals.pointee.receiveRing = receiveRing
        signals.pointee.hasOneVector = try (device.interruptChoice()?.count ?? 0) < SpaceWireLayout.Vector.count
    }

    /// Forgets what ``prepareHardware(_:)`` got; the framework unmaps and frees it.
    public func releaseHardware() {
        freeChannels()
        systemAdapters = []
        transmit.control { $0.detach() }
        receive.control { $0.detach() }
        signals.pointee.receiveRing = nil
        signals.pointee.window = .none
        transmitTable = nil
        transmitSlots = nil
        receiveTable = nil
        receiveData = nil
    }

    /// Resets the core and starts the link. Throws ``Status/deviceNotConnected`` when nobody answers.
    public func d0Entry() throws(StatusError) {
        window.store32(SpaceWireLayout.Control.reset, SpaceWireLayout.control)
        let status = window.load32(SpaceWireLayout.status)
        guard status != .max else {
            throw StatusError(
                .deviceNotConnected,
                "BAR0 of \(device.function.address) reads all ones: the card does not answer"
            )
        }
        // What users have set survives that the core has forgotten it.
        if let scaler = link.registers.pointee.scaler { window.store32(scaler, SpaceWireLayout.txScaler) }
        if let timeCode = link.registers.pointee.timeCode { window.store32(timeCode, SpaceWireLayout.timeCode) }
        link.change { $0.control = $0.mode }
    }

    /// Stops the core.
    public func d0Exit() {
        let timeCode = window.load32(SpaceWireLayout.timeCode)
        if timeCode != .max { link.registers.pointee.timeCode = timeCode & SpaceWireLayout.nextTimeCode }
        link.perform { registers, window in
            registers.control = 0
            window.store32(SpaceWireLayout.Control.reset, SpaceWireLayout.control)
        }
    }

    /// Sets the core's enables.
    public func enableInterrupts() {
        // What the link did before is nobody's interrupt.
        let state = window.load32(SpaceWireLayout.status) & SpaceWireLayout.Status.linkMask
        signals.pointee.lastLink.store(state, ordering: .relaxed)
        link.change { $0.control |= SpaceWireLayout.Control.driverInterrupts }
    }

    /// Clears the core's enables, so that a level that others share goes down.
    public func disableInterrupts() {
        link.change { $0.control &= ~SpaceWireLayout.Control.driverInterrupts }
    }

    /// Nothing is left to do.
    public func interruptsEnabled() throws(StatusError) {}

    /// Nothing is left to do.
    public func interruptsDisabling() {}

    /// Starts both rings.
    public func startIO() {
        recovery.locked {
            window.store32(slaveBits(engine), SpaceWireLayout.slave)
            receive.control { $0.start() }
            transmit.control { $0.start() }
            isWorking = true
        }
    }

    /// Stops both rings; what was accepted and not sent is lost, and told to those who wrote it. What has been received
    /// stays for a card that only sleeps.
    public func suspendIO() {
        let departure = device.departure
        let told = recovery.locked {
            isWorking = false
            transmit.control { $0.hold() }
            receive.control { $0.hold() }
            resetDMA()
            let told = reclaim("data", departure.status, departure.cause, endPacket: false)
            waitForReplies()
            receive.control { $0.cease(keepsUnread: departure == .suspend) }
            return told
        }
        if let told { device.tell(told) }
    }

    /// Ends what waits, and all that comes until the rings start again.
    public func flushIO() {
        let departure = device.departure
        takeBack { $0.failAll(departure.status, departure.cause) }
        receive.control { $0.failAll(departure.status, departure.cause) }
    }

    /// Does something to the transmit ring that ends what is in it, with the transactions whose transfers those are.
    func takeBack<Result>(_ body: (inout TransmitChannel) -> Result) -> Result {
        guard let mapper else { return transmit.control(body) }
        return mapper.abandon { transmit.control(body) }
    }

    /// Replies that are being made from the ring end by themselves: each is one system call.
    private func waitForReplies() {
        for _ in 0..<10_000 {
            if !receive.control({ $0.isInUse }) { return }
            usleep(100)
        }
    }

    /// The data path.
    public var entryPoints: chw_entry_points? { SpaceWireEntry.table(entry) }

    /// The controls of the streams.
    public var dma: (any DMAControl)? { self }
}

@_noLocks private func serveSpaceWire(_ context: UnsafeMutableRawPointer, _ vector: UInt32) -> Bool {
    context.assumingMemoryBound(to: InterruptSignals.self).pointee.serve(vector)
}
