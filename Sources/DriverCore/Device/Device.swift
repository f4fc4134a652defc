public import CHardware
public import PCIBus
public import Synchronization

/// One card in the framework's hands (WDFDEVICE): its function, its driver, its memory, its state.
///
/// Control functions are for passive level and serialise on one lock. What the data path needs lies behind the pointers
/// below, which are valid as long as the device.
///
/// The unchecked conformance is sound because state is guarded by a lock, and the pointers lead to records with locks of
/// their own.
public final class Device: @unchecked Sendable {
    /// The function on its bus.
    public let function: any PCIFunction
    /// What the function says it is.
    public let identity: PCIIdentity
    /// The driver's time.
    public let clock: Clock
    /// The mount's options.
    public let policy: TransferPolicy
    /// The driver's description of the registers.
    public let registerMap: RegisterMap
    /// The driver's name.
    public let driverName: String

    /// The request records.
    public let pool: UnsafeMutablePointer<RequestPool>
    /// The payload memory; one receive buffer for each FUSE request under way.
    public let arena: UnsafeMutablePointer<PayloadArena>
    /// The memory behind ``arena``.
    public let arenaMemory: DMAMemory
    /// The BARs.
    public let registers: UnsafeMutablePointer<RegisterSpace>
    /// Deferred calls and timers.
    public let deferred: UnsafeMutablePointer<DeferredThread>
    /// The steps of requests that are followed.
    public let trace: UnsafeMutablePointer<RequestTrace>
    /// Vectors and their log.
    public let interrupt: UnsafeMutablePointer<InterruptObject>
    /// Open files of the DMA streams.
    public let streams = StreamTable()
    /// Runs commands.
    public let worker: PassiveWorker

    /// The adapter of the card; nil for a card without DMA, and while it is not started.
    public internal(set) var adapter: DMAAdapter?
    /// The arena as the card sees it, while it is started.
    public internal(set) var arenaBuffer: CommonBuffer?

    /// How often the card was removed: a file opened before belongs to a card that is no more.
    public let removals: UnsafeMutablePointer<Atomic<UInt64>>

    /// The sequence number of the first interrupt after the last removal.
    public let lastRemovalInterrupt = Atomic<UInt64>(0)

    /// Held by whoever changes the state.
    let lock: Lock
    /// Why the card is to be taken out of D0, is being, or was; guarded by `lock`, and for the driver's callbacks.
    public internal(set) var departure = Departure.none
    /// What the platform wrote into the configuration header when the card was last prepared; guarded by `lock`.
    var snapshot: ConfigurationSnapshot?
    /// The driver was asked to prepare the hardware, so that it must be asked to release it; guarded by `lock`.
    var ownsHardware = false
    var mappedBARs: [Int] = []
    var driver: (any CardDriver)?
    /// Set while the machine wants the card back, or the device ends: whoever waits with `lock` held gives up.
    let isWanted = Atomic<Bool>(false)
    /// Changes of state, begun and finished.
    let transitions = Atomic<UInt64>(0)
    /// A look for a card that seems to be missing is queued.
    let isMissing = Atomic<Bool>(false)
    /// Where the function's power management control register is; 0 for a function without one.
    let powerManagement = Atomic<Int>(0)
    /// Those who wait for the card without a request that the driver has.
    let watchers = Atomic<Int>(0)
    var presenceCall = 0
    private let stateLock: Lock
    private var pnp = PnPState.notStarted
    private var power = PowerState.d3
    private var failure: TransferFailure?
    private var assignedAddresses: [Int: UInt64] = [:]
    private var hooks = FileLayerHooks()

    /// Takes a function that a driver of `drivers` matches (driver matching by ID; the first match wins).
    ///
    /// Throws ``Status/deviceNotConnected`` when nobody answers and ``Status/notSupported`` when no driver matches.
    public init(
        function: any PCIFunction,
        drivers: [any CardDriver.Type],
        clock: Clock,
        policy: TransferPolicy,
        capacity: Capacity = Capacity(),
        completionContext: UnsafeMutableRawPointer,
        completion: @escaping chw_completion
    ) throws(StatusError) {
        self.function = function
        self.clock = clock
        self.policy = policy
        let found: PCIIdentity
        do {
            found = try PCIIdentity(of: function)
        } catch {
            throw StatusError(.deviceNotConnected, error.sentence)
        }
        identity = found
        guard let type = drivers.first(where: { $0.matches(found) }) else {
            throw StatusError(
                .notSupported,
                "no driver for \(hexadecimal(found.vendor, digits: 4)):\(hexadecimal(found.device, digits: 4)) at \(function.address)"
            )
        }
        driverName = type.name
        registerMap = type.registerMap(of: function)
        do {
            arenaMemory = try function.allocateMemory(
                byteCount: PayloadArena.byteCount(
                    receiveBuffers: capacity.receiveBuffers,
                    systemBuffers: capacity.systemBuffers
                )
            )
        } catch {
            throw StatusError(.insufficientResources, error.sentence)
        }
        do {
            worker = try PassiveWorker(name: "card-worker")
        } catch {
            function.freeMemory(arenaMemory)
            throw StatusError(.insufficientResources, error.sentence)
        }
        // Nothing is thrown any more before the object is whole, whose end frees what is made here.
        lock = Lock()
        stateLock = Lock()
        arena = .allocate(capacity: 1)
        arena.initialize(
            to: PayloadArena(
                base: arenaMemory.base,
                receiveBuffers: capacity.receiveBuffers,
                systemBuffers: capacity.systemBuffers
            )
        )
        pool = .allocate(capacity: 1)
        pool.initialize(
            to: RequestPool(capacity: capacity.requests, completionContext: completionContext, completion: completion)
        )
        deferred = .allocate(capacity: 1)
        deferred.initialize(to: DeferredThread(clock: clock))
        trace = .allocate(capacity: 1)
        trace.initialize(to: RequestTrace(deferred: deferred))
        removals = .allocate(capacity: 1)
        removals.initialize(to: Atomic(0))
        interrupt = .allocate(capacity: 1)
        interrupt.initialize(to: InterruptObject(deferred: deferred))
        let selfContext = UnsafeMutablePointer<Unmanaged<Device>?>.allocate(capacity: 1)
        selfContext.initialize(to: nil)
        registers = .allocate(capacity: 1)
        registers.initialize(
            to: RegisterSpace(map: type.registerMap, doubtContext: selfContext, doubt: answerDoubt)
        )
        self.selfContext = selfContext
        selfContext.pointee = Unmanaged.passUnretained(self)
        let logCall = deferred.pointee.register(context: selfContext) { context in
            context.assumingMemoryBound(to: Unmanaged<Device>?.self).pointee?.takeUnretainedValue().tellInterrupted()
        }
        interrupt.pointee.setLogCall(logCall)
        let traceCall = deferred.pointee.register(context: selfContext) { context in
            context.assumingMemoryBound(to: Unmanaged<Device>?.self).pointee?.takeUnretainedValue().currentHooks
                .traced()
        }
        trace.pointee.setCall(traceCall)
        presenceCall = deferred.pointee.register(context: selfContext) { context in
            context.assumingMemoryBound(to: Unmanaged<Device>?.self).pointee?.takeUnretainedValue().lookForCard()
        }
        do {
            try DeferredThread.start(deferred, name: "card-dpc")
        } catch {
            close()
            throw StatusError(.insufficientResources, error.sentence)
        }
        do {
            driver = try type.init(device: self)
        } catch {
            close()
            throw error
        }
        function.setEventSink { [weak self] event in self?.take(event) }
    }

    private let selfContext: UnsafeMutablePointer<Unmanaged<Device>?>
    private var isClosed = false
    /// The device ends; set before ``isWanted``.
    let isClosing = Atomic<Bool>(false)

    /// Sets the hooks of the file layer.
    public func setHooks(_ hooks: FileLayerHooks) { stateLock.locked { self.hooks = hooks } }

    fileprivate var currentHooks: FileLayerHooks { stateLock.locked { hooks } }

    private func tellInterrupted() { currentHooks.interrupted() }

    /// Ends the device: stopped, its threads joined, its function closed. Nothing may use the device after.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        function.setEventSink(nil)
        isClosing.store(true, ordering: .sequentiallyConsistent)
        isWanted.store(true, ordering: .sequentiallyConsistent)
        shutDown()
        worker.stop()
        deferred.pointee.stop()
        selfContext.pointee = nil
        driver = nil
        function.freeMemory(arenaMemory)
        function.close()
    }

    deinit {
        close()
        registers.deinitialize(count: 1)
        registers.deallocate()
        trace.deinitialize(count: 1)
        trace.deallocate()
        removals.deinitialize(count: 1)
        removals.deallocate()
        interrupt.deinitialize(count: 1)
        interrupt.deallocate()
        deferred.deinitialize(count: 1)
        deferred.deallocate()
        pool.deinitialize(count: 1)
        pool.deallocate()
        arena.deinitialize(count: 1)
        arena.deallocate()
        selfContext.deallocate()
        lock.destroy()
        stateLock.destroy()
    }

    // MARK: For drivers

    /// Maps a memory resource (MmMapIoSpace). Throws ``Status/deviceConfigurationError`` for a BAR that is not there and
    /// ``Status/insufficientResources`` when it cannot be mapped. The framework unmaps it after releaseHardware.
    public func mapBAR(_ bar: Int) throws(StatusError) -> RegisterWindow {
        guard let description = function.usableBARs.first(where: { $0.index == bar && $0.kind != .io }) else {
            throw StatusError(.deviceConfigurationError, "\(function.address) has no memory behind BAR\(bar)")
        }
        let window: RegisterWindow
        do {
            window = try function.map(bar: bar)
        } catch {
            throw StatusError(.insufficientResources, error.sentence)
        }
        mappedBARs.append(bar)
        // Drivers go by the size the resources have: an access beyond what is mapped would end the process.
        guard window.byteCount >= description.byteCount else {
            throw StatusError(
                .deviceConfigurationError,
                "BAR\(bar) of \(function.address) should have \(description.byteCount) bytes, of which \(window.byteCount) are there"
            )
        }
        registers.pointee.setWindow(bar, window)
        return window
    }

    /// Notes a transfer that failed, and tells of it. Dispatch level, no lock held.
    public func report(_ failure: TransferFailure) {
        note(failure)
        tell(failure)
    }

    /// Notes a transfer that failed: it is the text of `dma/last_error` from now on. Any level, and with a channel's lock held, so
    /// that it is there before a caller sees the error that it explains.
    public func note(_ failure: TransferFailure) { stateLock.locked { self.failure = failure } }

    /// Tells the list of recent failures of a transfer that failed and was noted. Dispatch level, no lock held.
    public func tell(_ failure: TransferFailure) {
        let path = failure.direction == .toDevice ? "dma/tx" : "dma/rx"
        currentHooks.failed(
            failure.status.code,
            path,
            "\(failure.cause); \(failure.bytesLost) bytes lost" + (failure.advice.isEmpty ? "" : ": \(failure.advice)")
        )
    }

    /// Tells pollers of a stream. Dispatch level.
    public func readinessChanged(_ direction: UInt32) { currentHooks.readinessChanged(direction) }

    // MARK: For the file layer

    /// The data path of the driver; nil for a card without DMA.
    public var entryPoints: chw_entry_points? { driver?.entryPoints }

    /// The controls of the DMA streams; nil for a card without DMA.
    public var dma: (any DMAControl)? { driver?.dma }

    /// The last failed transfer.
    public var lastTransferFailure: TransferFailure? { stateLock.locked { failure } }

    /// Plug and Play and power state.
    public var state: (pnp: PnPState, power: PowerState) { stateLock.locked { (pnp, power) } }

    /// Lines of `name value`.
    public var stateText: String {
        let now = state
        return "pnp \(now.pnp.rawValue)\npower \(now.power.rawValue)\n"
    }

    func setState(_ pnp: PnPState, _ power: PowerState) {
        noteTransition()
        stateLock.locked {
            self.pnp = pnp
            self.power = power
        }
        currentHooks.stateChanged()
    }

    /// Whether a suspicious value is to be believed: asks for the vendor ID, then for what else could be the matter. Three
    /// configuration accesses; any thread.
    public func examine() -> RegisterFault {
        guard let vendor = try? function.readConfiguration(ConfigurationSpace.vendorID, .word),
            vendor == UInt32(identity.vendor)
        else { return .gone }
        let offset = powerManagement.load(ordering: .relaxed)
        if offset != 0, let control = try? function.readConfiguration(offset, .word), control & 3 != 0 {
            return .asleep
        }
        guard let command = try? function.readConfiguration(ConfigurationSpace.command, .word) else { return .gone }
        return UInt16(truncatingIfNeeded: command) & ConfigurationSpace.Command.memorySpace.rawValue == 0
            ? .decodingOff : .none
    }

    /// The address a BAR was given, and the one its register in configuration space holds now; nil for one that the card has
    /// not, or when nobody answers. One or two configuration accesses; any thread.
    public func place(ofBAR bar: Int) -> (assigned: UInt64, now: UInt64)? {
        guard let assigned = stateLock.locked({ assignedAddresses[bar] }),
            let register = function.baseAddressRegisters.first(where: { $0.index == bar }),
            let now = try? ResourceLists.busAddress(of: register, function)
        else { return nil }
        return (assigned, now)
    }

    func setAssignedAddresses(_ resources: ResourceLists) {
        stateLock.locked {
            assignedAddresses = [:]
            for resource in resources.raw {
                if let bar = resource.bar { assignedAddresses[bar] = resource.start }
            }
        }
    }

    /// The answer to a doubt of the registers.
    fileprivate func answer(_ subject: UInt32) -> RegisterFault {
        func isMoved(_ bar: UInt32) -> Bool { place(ofBAR: Int(bar)).map { $0.assigned != $0.now } ?? false }
        if subject >= RegisterDoubt.placeAlone {
            return isMoved(subject - RegisterDoubt.placeAlone) ? .moved : .none
        }
        let seen = transitions.load(ordering: .sequentiallyConsistent)
        let fault = examine()
        if fault == .gone { reportMissing(since: seen) }
        guard fault == .none, subject < RegisterDoubt.presence else { return fault }
        return isMoved(subject) ? .moved : .none
    }
}

private func answerDoubt(_ context: UnsafeMutableRawPointer, _ subject: UInt32) -> UInt32 {
    let device = context.assumingMemoryBound(to: Unmanaged<Device>?.self).pointee
    return UInt32((device?._withUnsafeGuaranteedRef { $0.answer(subject) } ?? .gone).rawValue)
}
