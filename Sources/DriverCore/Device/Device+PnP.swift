import CHardware
public import PCIBus
import Synchronization

// Plug and Play and power: the state machine of a device. Everything here is for passive level and serialises on one lock.
//
//   NotStarted ──start──► Started D0 ◄──resume── Started D3
//                          │ ▲  ▲ └───suspend──────▲
//              query, stop │ │  └─reset, reload
//                          ▼ │start
//                         Stopped                      remove ──► Removed              start brings all of these back
//                                                      gone ────► SurpriseRemovePending
//                                                      a step of the way up fails ──► Failed
extension Device {
    // MARK: Commands

    /// Starts the card: power-up in the documented order, everything undone in reverse where it fails. One that was removed,
    /// has left or has failed is taken anew if it is there.
    ///
    /// Throws ``Status/invalidDeviceState`` for a card that works or sleeps, ``Status/deviceNotConnected`` when nobody answers,
    /// and what the driver throws.
    public func start() throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        let (pnp, power) = state
        switch pnp {
        case .started, .stopPending, .removePending:
            let advice = power == .d3 ? ": it sleeps, write resume to ctl" : ""
            throw StatusError(
                .invalidDeviceState,
                "\(function.address) is \(pnp.rawValue) and cannot be started" + advice
            )
        case .notStarted: break
        case .stopped, .removed, .surpriseRemoved, .failed: try takeAgain()
        }
        try bringUp()
    }

    /// Stops the card in an orderly way and gives its resources back (IRP_MN_QUERY_STOP_DEVICE, IRP_MN_STOP_DEVICE). The card
    /// finishes what it has; requests that come wait for ``start()``, which may find other resources. What has been received
    /// and not been read is discarded and counted.
    ///
    /// Throws ``Status/deviceNotReady`` for a card that is not started, and what the driver answers to the query; then the
    /// card works on.
    public func stop(_ cancellation: Cancellation = Cancellation()) throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        try halt(cancellation, "stop")
    }

    /// Lets the card sleep in D3hot with its resources kept; requests wait for ``resume()``.
    ///
    /// Throws ``Status/deviceNotReady`` for a card that is not in D0, and what the driver answers to the query; then the card
    /// works on.
    public func suspend(_ cancellation: Cancellation = Cancellation()) throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let driver, state == (.started, .d0) else { throw notReady("suspend") }
        try quiesce(driver, .suspend, cancellation)
        powerDown(driver)
        // A card that cannot be told is off all the same as far as requests are concerned.
        try? function.setPowerState(3)
        setState(.started, .d3)
    }

    /// Wakes the card that ``suspend(_:)`` put to sleep. Throws ``Status/deviceNotReady`` for another.
    public func resume() throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let driver, state == (.started, .d3) else { throw notReady("resume") }
        do {
            try wake()
            try powerUp(driver)
        } catch {
            fail(driver)
            throw error
        }
        departure = .none
        setState(.started, .d0)
    }

    /// Resets the card (the `reset` command): out of D0, function level reset, into D0 again. What was under way ends with
    /// an error that its owner sees. A card that has failed, or was gone, is started anew if it answers now.
    public func reset() throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        guard let driver else { throw notReady("reset") }
        let (pnp, power) = state
        switch pnp {
        case .started:
            departure = .reset
            if power == .d0 { powerDown(driver) }
            setState(.started, .d3)
        case .failed, .removed, .surpriseRemoved: try takeAgain()
        default: throw notReady("reset")
        }
        do {
            try function.resetFunction()
        } catch {
            if pnp == .started { fail(driver) }
            throw StatusError(error.code == ENODEV ? .deviceNotConnected : .ioDeviceError, error.sentence)
        }
        guard pnp == .started else { return try bringUp() }
        do {
            try wake()
            try powerUp(driver)
        } catch {
            fail(driver)
            throw error
        }
        departure = .none
        setState(.started, .d0)
    }

    /// Takes the card out of use in an orderly way (IRP_MN_QUERY_REMOVE_DEVICE, IRP_MN_REMOVE_DEVICE), and gives the hardware
    /// back to the machine. Does not wait for the card: every request ends with ``Status/deviceNotConnected``, and files
    /// opened before are dead for good. ``start()`` takes the card again.
    ///
    /// Throws ``Status/invalidDeviceState`` when that has been done.
    public func remove() throws(StatusError) {
        lock.lock()
        defer { lock.unlock() }
        let (pnp, power) = state
        guard pnp != .removed, pnp != .surpriseRemoved else {
            throw StatusError(.invalidDeviceState, "\(function.address) is \(pnp.rawValue) already")
        }
        setState(.removePending, power)
        takeAway(.remove, wasInD0: power == .d0)
        setState(.removed, .d3)
    }

    // MARK: What nobody commanded

    /// Whether somebody wants the card, or the device ends: a driver that waits for the card in a callback gives up. Any
    /// thread.
    public var isWantedBack: Bool { isWanted.load(ordering: .sequentiallyConsistent) }

    /// Says that the card has left: ``examine()`` found nobody. The worker removes it, unless the card was on its way from one
    /// state to another, where it may be silent for a while. Any thread and level; does not wait.
    ///
    /// `seen` are the ``transitions`` from before the look.
    public func reportMissing(since seen: UInt64? = nil) {
        let seen = seen ?? transitions.load(ordering: .sequentiallyConsistent)
        guard !isMissing.exchange(true, ordering: .acquiringAndReleasing) else { return }
        worker.enqueue { [weak self] in
            guard let self else { return }
            self.isMissing.store(false, ordering: .releasing)
            self.surpriseRemove(since: seen)
        }
    }

    /// What the bus tells. Any thread; does not wait.
    func take(_ event: FunctionEvent) {
        switch event {
        case .releaseRequested:
            // Whoever waits for the card with the lock held makes way.
            isWanted.store(true, ordering: .sequentiallyConsistent)
            worker.enqueue { [weak self] in
                // A reload that waited has given the hardware back by itself.
                guard let self, self.isWanted.exchange(false, ordering: .sequentiallyConsistent) else { return }
                try? self.remove()
                self.function.release()
            }
        case .removed:
            isWanted.store(true, ordering: .sequentiallyConsistent)
            worker.enqueue { [weak self] in
                guard let self, self.isWanted.exchange(false, ordering: .sequentiallyConsistent) else { return }
                self.surpriseRemove(since: nil)
            }
        case .errorReported:
            report(
                TransferFailure(
                    stage: "card",
                    direction: .toDevice,
                    bytesDone: 0,
                    bytesLost: 0,
                    status: .ioDeviceError,
                    cause: "\(function.address) reported an uncorrectable error on its bus",
                    advice: "write reset to ctl"
                )
            )
            let seen = transitions.load(ordering: .sequentiallyConsistent)
            if examine() == .gone { reportMissing(since: seen) }
        }
    }

    /// The card has left: the documented way for that. What was seen before a transition is looked at once more; nil for
    /// what is certain.
    func surpriseRemove(since seen: UInt64?) {
        lock.lock()
        defer { lock.unlock() }
        let (pnp, power) = state
        switch pnp {
        case .started, .stopPending, .stopped: break
        default: return
        }
        if let seen, seen != transitions.load(ordering: .sequentiallyConsistent), examine() != .gone { return }
        driver?.surpriseRemoval()
        takeAway(.gone, wasInD0: power == .d0)
        // One that only does not answer is kept hold of until the machine asks for it: the platform then still knows the base
        // addresses, and gives them back to a card that merely lost its power.
        if seen == nil { function.release() }
        setState(.surpriseRemoved, .d3)
    }

    /// Ends the work of a device that is closed, without a question. Requests that wait were ended before.
    func shutDown() {
        lock.lock()
        defer { lock.unlock() }
        guard let driver, ownsHardware else { return }
        if state.power == .d0 {
            departure = .stop
            powerDown(driver)
        }
        release(driver)
        setState(.notStarted, .d3)
    }

    // MARK: Steps. The lock is held.

    func noteTransition() { transitions.wrappingAdd(1, ordering: .sequentiallyConsistent) }

    func notReady(_ command: String) -> StatusError {
        let (pnp, power) = state
        return StatusError(
            .deviceNotReady,
            "\(function.address) is \(pnp.rawValue) in \(power.rawValue): \(command) is not for that state"
        )
    }

    /// Asks the driver whether the card can stop, which takes the time the card needs to finish.
    func quiesce(_ driver: any CardDriver, _ departure: Departure, _ cancellation: Cancellation) throws(StatusError) {
        self.departure = departure
        setState(.stopPending, .d0)
        do {
            try driver.queryStop(cancellation)
        } catch {
            driver.cancelStop()
            self.departure = .none
            setState(.started, .d0)
            throw error
        }
    }

    /// Brings a started card down to Stopped.
    func halt(_ cancellation: Cancellation, _ command: String) throws(StatusError) {
        guard let driver, state.pnp == .started else { throw notReady(command) }
        let wasInD0 = state.power == .d0
        if wasInD0 { try quiesce(driver, .stop, cancellation) }
        departure = .stop
        if wasInD0 { powerDown(driver) }
        release(driver)
        setState(.stopped, .d3)
    }

    /// Ends everything, whatever the state: the common part of both removals.
    private func takeAway(_ departure: Departure, wasInD0: Bool) {
        guard let driver else { return }
        self.departure = departure
        if wasInD0 { powerDown(driver) }
        registers.pointee.close(gone: true)
        // From here on no interrupt is logged: what was opened before has had everything.
        lastRemovalInterrupt.store(interrupt.pointee.log.end, ordering: .releasing)
        removals.pointee.wrappingAdd(1, ordering: .releasing)
        release(driver)
        driver.flushIO()
        if departure != .gone { function.release() }
    }

    /// Gets hold of a card that was stopped, removed, gone or failed, if it is there and the same.
    func takeAgain() throws(StatusError) {
        let found: PCIIdentity
        do {
            try function.reclaim()
            found = try PCIIdentity(of: function)
        } catch {
            throw StatusError(error.code == ENODEV ? .deviceNotConnected : .ioDeviceError, error.sentence)
        }
        guard found.vendor == identity.vendor, found.device == identity.device else {
            function.release()
            throw StatusError(
                .deviceConfigurationError,
                "another card sits at \(function.address) now: \(hexadecimal(found.vendor, digits: 4))"
                    + ":\(hexadecimal(found.device, digits: 4)); unmount, and mount that one"
            )
        }
        try wake()
    }

    /// Puts the function into D0 and writes what it has forgotten: neither survives a loss of power.
    private func wake() throws(StatusError) {
        do {
            try function.setPowerState(0)
            if let snapshot, try snapshot.isForgotten(by: function) { try snapshot.restore(to: function) }
        } catch {
            throw StatusError(error.code == ENODEV ? .deviceNotConnected : .ioDeviceError, error.sentence)
        }
    }

    /// From resources to D0, for a card that is there.
    func bringUp() throws(StatusError) {
        guard let driver else { return }
        do {
            let found = try prepare(driver)
            try powerUp(driver)
            // What did not bring a card to work is not what it is given when it has forgotten everything.
            snapshot = found
        } catch {
            // releaseHardware follows a prepareHardware that failed: only the driver knows how far it came. It does not follow
            // when the driver was not asked.
            fail(driver)
            throw error
        }
        departure = .none
        setState(.started, .d0)
    }

    /// Gives everything of the card back; whoever asks for a register is told whether it is there at all, and nothing waits
    /// for a card that may not come.
    private func fail(_ driver: any CardDriver) {
        release(driver)
        let isGone = examine() == .gone
        registers.pointee.close(gone: isGone)
        departure = isGone ? .gone : .failed
        driver.flushIO()
        setState(.failed, .d3)
    }

    /// Takes the card's resources. Answers the configuration header as it was then.
    private func prepare(_ driver: any CardDriver) throws(StatusError) -> ConfigurationSnapshot {
        let resources: ResourceLists
        let found: ConfigurationSnapshot
        do {
            try function.changeCommand(set: .memorySpace, clear: .busMaster)
            resources = try ResourceLists.of(function)
            setAssignedAddresses(resources)
            found = try ConfigurationSnapshot(of: function)
            let capability = try function.capability(
                ConfigurationSpace.Capability.powerManagement,
                byteCount: ConfigurationSpace.powerManagementByteCount
            )
            powerManagement.store(
                capability.map { $0 + ConfigurationSpace.powerManagementControl } ?? 0,
                ordering: .relaxed
            )
            if let description = type(of: driver).dmaDescription(of: function) {
                let adapter = try DMAAdapter(function: function, description: description)
                self.adapter = adapter
                // A card with few address lines needs them for its own buffers: it gets payload through map registers.
                if adapter.limit / 2 >= UInt64(arenaMemory.byteCount) {
                    arenaBuffer = try adapter.mapCommonBuffer(arenaMemory, byteCount: arenaMemory.byteCount)
                }
            }
        } catch let error as BusError {
            throw StatusError(error.code == ENODEV ? .deviceNotConnected : .ioDeviceError, error.sentence)
        } catch let error as StatusError {
            throw error
        } catch {
            throw StatusError(.unsuccessful, "\(error)")
        }
        ownsHardware = true
        try driver.prepareHardware(resources)
        // What large memory there is for DMA, a driver has by now.
        adapter?.endAllocationPhase()
        return found
    }

    private func release(_ driver: any CardDriver) {
        if ownsHardware { driver.releaseHardware() }
        ownsHardware = false
        adapter?.releaseAll()
        arenaBuffer = nil
        adapter = nil
        for bar in mappedBARs.reversed() { function.unmap(bar: bar) }
        mappedBARs = []
        try? function.changeCommand(clear: [.busMaster])
    }

    private func powerUp(_ driver: any CardDriver) throws(StatusError) {
        noteTransition()
        try driver.d0Entry()
        do throws(StatusError) {
            try connect(driver)
        } catch {
            driver.d0Exit()
            throw error
        }
        registers.pointee.open()
        driver.startIO()
    }

    /// Connects interrupts and switches bus mastering on, last.
    private func connect(_ driver: any CardDriver) throws(StatusError) {
        let interrupt = try interruptChoice()
        if let interrupt {
            do {
                try function.connectInterrupts(
                    interrupt.kind,
                    count: interrupt.count,
                    to: InterruptObject.sink(self.interrupt)
                )
            } catch {
                throw StatusError(.insufficientResources, error.sentence)
            }
            driver.enableInterrupts()
        }
        do throws(StatusError) {
            try driver.interruptsEnabled()
            do throws(BusError) {
                if adapter != nil { try function.changeCommand(set: .busMaster) }
            } catch {
                throw StatusError(.ioDeviceError, error.sentence)
            }
        } catch {
            if interrupt != nil { driver.disableInterrupts() }
            function.disconnectInterrupts()
            throw error
        }
    }

    /// The kind of interrupt the mount asks for, or the best the function has, with all its vectors; nil for a function that
    /// has none. Throws ``Status/deviceConfigurationError`` for a kind it lacks.
    public func interruptChoice() throws(StatusError) -> (kind: InterruptKind, count: Int)? {
        let vectors = function.interruptVectors.filter { $0.value > 0 }
        if let wanted = policy.interrupts {
            guard let count = vectors[wanted] else {
                let kinds = InterruptKind.allCases.filter { vectors[$0] != nil }.map(\.rawValue)
                throw StatusError(
                    .deviceConfigurationError,
                    "\(function.address) has no \(wanted.rawValue): "
                        + (kinds.isEmpty ? "it has no interrupts" : "it has \(kinds.joined(separator: ", "))")
                )
            }
            return (wanted, count)
        }
        guard let kind = InterruptKind.allCases.first(where: { vectors[$0] != nil }), let count = vectors[kind] else {
            return nil
        }
        return (kind, count)
    }

    private func powerDown(_ driver: any CardDriver) {
        noteTransition()
        registers.pointee.close(gone: departure == .gone || departure == .remove)
        // A card that is gone cannot be told, and everything else is undone all the same.
        driver.suspendIO()
        try? function.changeCommand(clear: .busMaster)
        driver.interruptsDisabling()
        driver.disableInterrupts()
        function.disconnectInterrupts()
        driver.d0Exit()
    }
}
