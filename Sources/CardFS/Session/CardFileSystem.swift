import CFuse
import CHardware
public import DriverCore
public import Logging
public import PCIBus
import Synchronization

/// One card as a tree of files: the device, the tree, and everything that is not on the data path.
///
/// Made before the session, ended after it. Callbacks reach it through ``MountState``.
public final class CardFileSystem: @unchecked Sendable {  // the tree is constant; what changes has locks of its own
    /// The card.
    public let device: Device
    /// Recent failures.
    public let failures: FailureLog
    let options: MountOptions
    let tree: Tree
    let mount: UnsafeMutablePointer<MountState>
    let owner: (uid: UInt32, gid: UInt32)
    let mountTime: timespec
    let poll: PollTable
    let notifier = Notifier()
    let lookUps = LookUpSamples()
    let lookUpTimes: LookUpTimes
    /// Where system buffers of control requests come from.
    let systemMemory = SystemMemory()
    let interruptReaders = LineReaders(InterruptLines(), index: 0)
    let traceReaders = LineReaders(TraceLines(), index: 1)
    let commands = Commands()
    /// Held while files of the card are open; nil when it was not asked for.
    let wakeLatency: WakeLatency?
    private let serial = Atomic<UInt64>(1)
    private let seenRemovals = Atomic<UInt64>(0)
    private let clock: Clock

    /// Takes a function and makes the tree of its driver; the card is not started yet.
    ///
    /// Throws ``Refusal`` when no driver takes the card or memory is short.
    public init(
        function: any PCIFunction,
        drivers: [any CardDriver.Type],
        options: MountOptions,
        clock: Clock,
        logger: Logger,
        wakeLatency: WakeLatency? = nil
    ) throws(Refusal) {
        self.options = options
        self.wakeLatency = wakeLatency
        self.clock = clock
        failures = FailureLog(logger: logger, clock: clock)
        var policy = TransferPolicy()
        policy.directThreshold = options.directThreshold
        policy.gather = options.gatherNanoseconds
        policy.transmitTimeout = options.transmitTimeoutNanoseconds
        policy.receiveTimeout = options.receiveTimeoutNanoseconds
        policy.loanTimeout = options.loanTimeoutNanoseconds
        policy.linger = options.lingerNanoseconds
        policy.reloadTimeout = options.reloadTimeoutNanoseconds
        policy.interrupts = options.interrupts
        let capacity = Device.Capacity()
        let mount = UnsafeMutablePointer<MountState>.allocate(capacity: 1)
        let device: Device
        do {
            device = try Device(
                function: function,
                drivers: drivers,
                clock: clock,
                policy: policy,
                capacity: capacity,
                completionContext: UnsafeMutableRawPointer(mount),
                completion: { completeRequest($0, $1) }
            )
        } catch {
            mount.deallocate()
            throw Self.refusal(error, otherwise: "cardfs list shows the cards of this machine")
        }
        self.device = device
        owner = (options.uid ?? getuid(), options.gid ?? getgid())
        let limits = UserLimits(options, requests: capacity.requests, receiveBuffers: capacity.receiveBuffers)
        mount.initialize(
            to: MountState(
                device: device,
                options: options,
                users: UserShares(owner: owner.uid, limits: limits),
                receiveBuffers: capacity.receiveBuffers,
                maximumPacketLength: device.dma?.maximumPacketLength ?? 0,
                reservedBuffers: options.reservedBuffers
            )
        )
        self.mount = mount
        device.registers.pointee.allow(protectedBARs: options.allowBAR2Writes, driverOwned: options.expert)
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        mountTime = now
        poll = PollTable(device: device)
        let link = TreeLink()
        tree = TreeBuilder(device: device, options: options, mount: mount, link: link).build()
        lookUpTimes = LookUpTimes(tree.nodes.count, now)
        mount.pointee.fileSystem = Unmanaged.passUnretained(self)
        var hooks = Device.FileLayerHooks()
        hooks.failed = { [failures] code, path, sentence in
            failures.record(code: code, path: path, pid: 0, sentence: sentence)
        }
        hooks.readinessChanged = { [notifier] direction in notifier.raise(direction == 0 ? .room : .arrival) }
        hooks.interrupted = { [weak self] in
            guard let self else { return }
            self.interruptReaders.told(self)
        }
        hooks.traced = { [weak self] in
            guard let self else { return }
            self.traceReaders.told(self)
        }
        hooks.stateChanged = { [weak self] in self?.stateChanged() }
        device.setHooks(hooks)
        if options.verify {
            Verifier.shared.start { [failures, logger] finding in
                let sentence = "\(finding.misuse.codeText) \(finding.misuse.rawValue): \(finding.sentence)"
                logger.error("verifier: \(sentence)")
                failures.record(code: EIO, path: "verifier", pid: 0, sentence: sentence)
            }
        }
        link.fileSystem = self
        do {
            try notifier.start { [weak self] in self?.round($0) ?? 0 }
        } catch {
            close()
            throw Refusal(error.sentence, code: error.code)
        }
    }

    /// Starts the card.
    public func start() throws(Refusal) {
        try wakeLatency?.start()
        do {
            try device.start()
        } catch {
            throw Self.refusal(error, otherwise: nil)
        }
    }

    /// What a person is told of a card that cannot be taken or started.
    private static func refusal(_ error: StatusError, otherwise hint: String?) -> Refusal {
        let isShort = error.status == .insufficientResources
        return Refusal(
            error.sentence,
            hint: isShort ? ProcessLimit.advice(EAGAIN) : hint,
            kind: isShort ? .exhausted : .unavailable
        )
    }

    /// Ends everything: requests that wait are answered, the card is stopped and given back.
    public func close() {
        notifier.stop()
        endWaiting()
        wakeLatency?.end()
        device.close()
        // The hooks hold what holds the device.
        device.setHooks(Device.FileLayerHooks())
        if options.verify { Verifier.shared.stop() }
        mount.pointee.fileSystem = nil
    }

    deinit {
        notifier.stop()
        device.close()
        mount.deinitialize(count: 1)
        mount.deallocate()
    }

    /// Switches the trace on or off; readers who have seen everything are at the end of the file then.
    func setTrace(_ on: Bool) {
        device.trace.pointee.isOn.store(on, ordering: .releasing)
        notifier.raise(.trace)
    }

    /// Plug and Play or power state is another now.
    private func stateChanged() {
        poll.countStateChange()
        notifier.raise(.state)
        readinessMayHaveChanged()
        let removals = device.removals.pointee.load(ordering: .acquiring)
        if seenRemovals.exchange(removals, ordering: .relaxed) != removals { notifier.raise(.removal) }
    }

    /// What a command or another file's text does to a stream, no interrupt of the card's tells: those who poll it look again.
    func readinessMayHaveChanged() {
        notifier.raise(.room)
        notifier.raise(.arrival)
    }

    /// Answers every request that waits, so that the mount can end: ENODEV.
    func endWaiting() {
        commands.cancelAll(self)
        interruptReaders.endAll(ENODEV)
        traceReaders.endAll(ENODEV)
        poll.destroyAll()
        guard let entry = mount.pointee.entry else { return }
        for record in device.pool.pointee.claimWaiting() {
            endEarly(entry, record, .deviceNotConnected, .gone)
        }
    }

    /// A number no look-up has had.
    func nextSerial() -> UInt64 { serial.wrappingAdd(1, ordering: .relaxed).oldValue }

    // MARK: Failures

    /// The path of a node, for people.
    func path(_ id: UInt64) -> String {
        if let node = NodeID.node(id) { return node < tree.nodes.count ? tree.path(node) : "?" }
        let (offset, byteCount) = NodeID.register(id)
        let suffix = [1: ".b", 2: ".w", 8: ".q"][byteCount] ?? ""
        return "regs/0x" + hexadecimal(offset, digits: 1) + suffix
    }

    /// Notes a failure and answers the request with its errno.
    func fail(_ request: fuse_req_t?, _ id: UInt64, _ code: CInt, _ sentence: String) {
        mount.pointee.counters.failures.wrappingAdd(1, ordering: .relaxed)
        let caller = request.flatMap { fuse_req_ctx($0) }?.pointee.pid ?? 0
        let path = path(id)
        // The root has a name too: a field that is empty cannot be counted.
        failures.record(
            code: code,
            path: path.isEmpty ? "." : path,
            pid: SystemFile.process(of: caller),
            sentence: sentence
        )
        if let request { _ = fuse_reply_err(request, code) }
    }

    /// A request the driver has failed.
    func failRequest(_ request: fuse_req_t?, _ record: UnsafeMutablePointer<RequestRecord>, _ status: Status) {
        let kind = record.pointee.kind
        let node = tree.child("dma", of: 1).flatMap { tree.child(kind == .read ? "rx" : "tx", of: $0) } ?? 1
        var sentence = device.dma?.sentence(for: record.pointee.cause, kind: kind) ?? status.name
        if record.pointee.lostBytes > 0 {
            sentence = "\(record.pointee.lostBytes) bytes accepted earlier were lost: " + sentence
        }
        fail(request, UInt64(node), status.code, sentence)
    }

    /// Answers a request for which the data path found no happy end.
    func failHot(
        _ result: HotResult,
        _ request: fuse_req_t,
        _ id: UInt64,
        _ number: UInt64,
        written: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) {
        let handle = mount.pointee.handles.pointee[number].pointee
        switch result {
        case .done, .elsewhere:
            break
        case .fault(let fault):
            let (code, sentence) = explain(fault, handle)
            fail(request, id, code, sentence)
        case .dead:
            fail(
                request,
                id,
                ENODEV,
                "this file does not answer any more: \(device.function.address) was removed after it was opened; open it anew"
            )
        case .number(let failure):
            fail(
                request,
                id,
                failure.code,
                "what was written \(failure.sentence(written)); write a number such as 4096 or 0x1000"
                    + (handle.kind == .windowOffset ? "" : ", or data:mask")
            )
        case .piece: fail(request, id, EINVAL, Self.pieceSentence(written))
        case .outsideWindow:
            fail(
                request,
                id,
                ERANGE,
                "the offset lies outside the window: the last one is 0x\(hexadecimal(mount.pointee.windowByteCount - 4, digits: 1))"
            )
        case .refused(let resource, let reach): refuse(request, id, resource, reach)
        case .failure(let status, let cause):
            fail(request, id, status.code, device.dma?.sentence(for: cause, kind: .write) ?? status.name)
        }
    }

    /// Answers a request that would take more than its user may have.
    func refuse(_ request: fuse_req_t, _ id: UInt64, _ resource: SharedResource, _ reach: UserShares.Reach) {
        var code = ENOMEM
        if resource == .files { code = reach == .user ? EMFILE : ENFILE }
        fail(request, id, code, mount.pointee.users.sentence(resource, reach, callingUser(request)))
    }

    private func explain(_ fault: RegisterFault, _ handle: Handle) -> (CInt, String) {
        let card = device.function.address
        let where_ = "BAR\(handle.bar) of \(card)"
        switch fault {
        case .none: return (0, "")
        case .misaligned:
            return (
                EINVAL,
                "an access to \(where_) is 1, 2, 4 or 8 bytes at a multiple of its size, or a longer multiple of 4"
            )
        case .outOfRange:
            return (
                ERANGE,
                "the access ends beyond \(where_), which has 0x\(hexadecimal(device.registers.pointee.byteCount(bar: handle.bar), digits: 1)) bytes"
            )
        case .noBAR: return (ENXIO, "\(card) has no BAR\(handle.bar)")
        case .notInD0: return (EAGAIN, "\(card) is not in D0; see state")
        case .gone:
            return (
                ENODEV, "\(card) does not answer, or was taken out of use; write start to ctl when it is back"
            )
        case .protectedBAR:
            return (
                EACCES,
                "BAR\(handle.bar) of \(card) holds its configuration registers; mount with -o allow_bar2_writes to write there"
            )
        case .driverOwned:
            return (EBUSY, "the driver owns this register while the card works; mount with -o expert to write it")
        case .decodingOff:
            return (
                EIO,
                "memory decoding of \(card) is off in its command register; switch it on with setpci COMMAND=0002:0002"
            )
        case .asleep:
            return (
                EAGAIN,
                "\(card) is not in D0, though state says so: its power register PMCSR was written by somebody else; wake it with setpci CAP_PM+4.w=0:3, then write reset to ctl"
            )
        case .moved: return (EIO, movedSentence(handle.bar))
        }
    }
}

extension CardFileSystem {
    /// What is said when nobody answers where a BAR was, since its register in configuration space was written.
    private func movedSentence(_ bar: Int) -> String {
        let place = device.place(ofBAR: bar) ?? (0, 0)
        var settings = "BASE_ADDRESS_\(bar)=\(hexadecimal(place.assigned & 0xffff_ffff, digits: 8))"
        if device.function.baseAddressRegisters.contains(where: { $0.index == bar && $0.kind == .memory64 }) {
            settings += " BASE_ADDRESS_\(bar + 1)=\(hexadecimal(place.assigned >> 32, digits: 8))"
        }
        return "BAR\(bar) of \(device.function.address) has been moved: its register in configuration space holds"
            + " 0x\(hexadecimal(place.now, digits: 1)), and the card was given 0x\(hexadecimal(place.assigned, digits: 1));"
            + " put it back with setpci \(settings)"
    }
}

/// Lets the closures of the tree reach the file system, which is made after them.
final class TreeLink: @unchecked Sendable {  // set once, before the first callback
    weak var fileSystem: CardFileSystem?
}

extension MountOptions {
    /// Receive threads: two, so that one can copy a request while the other works on the one before. One when it spins: a
    /// second one would be woken for each request, and find it taken.
    var receiveThreads: Int { threads ?? (spinNanoseconds > 0 ? 1 : 2) }

    /// Receive buffers that no request may take that waits: one for each receive thread to go on with, and two to read long
    /// pieces of a BAR.
    var reservedBuffers: Int { receiveThreads + 2 }
}
