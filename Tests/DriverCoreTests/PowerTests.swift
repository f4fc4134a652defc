import CHardware
import DriverCore
import PCIBus
import Synchronization
import Testing

/// The states of Plug and Play and power, the commands that lead from one to another, and what the driver is told on the way.
@Suite struct PowerTests {
    private static let remove = ["releaseHardware", "unmap 2", "unmap 0"]

    /// A device in a state, and the function it drives, with an empty trace.
    private func device(in place: Place) throws -> (FakeFunction, Device) {
        let function = FakeFunction()
        function.addPowerManagement()
        let device = try makeDevice(function)
        switch place {
        case .notStarted: break
        case .working: try device.start()
        case .asleep:
            try device.start()
            try device.suspend()
        case .stopped:
            try device.start()
            try device.stop()
        case .removed:
            try device.start()
            try device.remove()
        case .gone:
            try device.start()
            function.leave()
            device.reportMissing()
            #expect(eventually { device.state.pnp == .surpriseRemoved })
            function.comeBack()
        case .failed:
            function.failing = ["driver d0Entry"]
            #expect(status { () throws(StatusError) in try device.start() } == .unsuccessful)
            function.failing = []
        }
        function.trace.clear()
        return (function, device)
    }

    enum Place: CaseIterable { case notStarted, working, asleep, stopped, removed, gone, failed }
    enum Command: CaseIterable { case start, stop, suspend, resume, reset, reload, remove }

    private func run(_ command: Command, _ device: Device) throws(StatusError) {
        switch command {
        case .start: try device.start()
        case .stop: try device.stop()
        case .suspend: try device.suspend()
        case .resume: try device.resume()
        case .reset: try device.reset()
        case .reload: try device.reload()
        case .remove: try device.remove()
        }
    }

    /// Where a command leads from a state; nil where it is refused and changes nothing.
    private func target(_ place: Place, _ command: Command) -> (PnPState, PowerState)? {
        switch (place, command) {
        case (.working, .start), (.asleep, .start): nil
        case (_, .start): (.started, .d0)
        case (.working, .stop), (.asleep, .stop): (.stopped, .d3)
        case (_, .stop): nil
        case (.working, .suspend): (.started, .d3)
        case (_, .suspend): nil
        case (.asleep, .resume): (.started, .d0)
        case (_, .resume): nil
        case (.working, .reset), (.asleep, .reset), (.removed, .reset), (.gone, .reset), (.failed, .reset):
            (.started, .d0)
        case (_, .reset): nil
        case (.notStarted, .reload): nil
        // The fake card is not reprogrammed: one that has not left by itself runs into the time limit.
        case (.working, .reload), (.asleep, .reload), (.stopped, .reload): (.stopped, .d3)
        case (_, .reload): (.started, .d0)
        case (.removed, .remove), (.gone, .remove): nil
        case (_, .remove): (.removed, .d3)
        }
    }

    @Test(arguments: Place.allCases, Command.allCases)
    func `each command leads from each state where it should, or changes nothing`(place: Place, command: Command) throws
    {
        let (function, device) = try device(in: place)
        let before = device.state
        let ended = status { () throws(StatusError) in try run(command, device) }
        guard let target = target(place, command) else {
            #expect(ended == .deviceNotReady || ended == .invalidDeviceState)
            #expect(device.state == before && function.trace.all == [])
            return
        }
        #expect(ended == (command == .reload && target.0 == .stopped ? .ioTimeout : .success))
        #expect(device.state == target)
        // Every way ends in order: what is not started holds nothing.
        if target.0 != .started {
            #expect(function.mappedBARs.isEmpty && function.mappings.isEmpty && function.sink == nil)
        }
        #expect(function.command & 4 == (target.1 == .d0 ? 4 : 0))
        #expect(function.powerState == (target == (.started, .d3) ? 3 : function.powerState))
        #expect(function.powerState == 0 || target.1 == .d3)
    }

    @Test func `sleep keeps the resources, and waking begins at d0Entry`() throws {
        let (function, device) = try device(in: .working)
        try device.suspend()
        #expect(function.trace.all == ["queryStop"] + PnPTests.powerDown && function.powerState == 3)
        #expect(device.departure == .suspend && device.adapter != nil)
        function.trace.clear()
        try device.resume()
        #expect(function.trace.all == PnPTests.powerUp && function.powerState == 0)
    }

    @Test func `a card that cannot stop works on: query-stop is followed by cancel-stop and nothing else`() throws {
        for command in [Command.stop, .suspend, .reload] {
            let (function, device) = try device(in: .working)
            function.failing = ["driver queryStop"]
            #expect(status { () throws(StatusError) in try run(command, device) } == .unsuccessful)
            #expect(function.trace.all == ["queryStop", "cancelStop"] && device.state == (.started, .d0))
        }
    }

    @Test func `a rebalance starts the card at its new place`() throws {
        final class Keeping: FakeDriver {
            nonisolated(unsafe) static var lists: [ResourceLists] = []
            override func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
                Self.lists.append(resources)
            }
        }
        let function = FakeFunction()
        let device = try makeDevice(function, drivers: [Keeping.self])
        try device.start()
        try device.stop()
        function.baseAddressRegisters[0].address = PhysicalAddress(0xf000_0000)
        function.put(0xf000, at: 0x12)
        try device.start()
        #expect(Keeping.lists.map { $0.memory(bar: 0)?.start } == [0xe000_0000, 0xf000_0000])
        #expect(Keeping.lists.map { $0.raw.first?.start } == [0xe000_0000, 0xf000_0000])
    }

    @Test func `an orderly removal goes down from D0, releases, and flushes last`() throws {
        let (function, device) = try device(in: .working)
        try device.remove()
        #expect(function.trace.all == PnPTests.powerDown + Self.remove + ["flushIO remove", "release"])
        #expect(device.state == (.removed, .d3))
    }

    @Test func `a removal out of sleep releases without another d0Exit`() throws {
        let (function, device) = try device(in: .asleep)
        try device.remove()
        #expect(function.trace.all == Self.remove + ["flushIO remove", "release"])
    }

    @Test func `a surprise removal in D0 says so first, then goes the whole way down`() throws {
        let (function, device) = try device(in: .working)
        function.leave()
        device.reportMissing()
        #expect(eventually { device.state == (.surpriseRemoved, .d3) })
        let down = PnPTests.powerDown.filter { $0 != "master off" }
        #expect(
            function.trace.all.filter { $0 != "master off" }
                == ["surpriseRemoval"] + down + Self.remove + ["flushIO gone"]
        )
    }

    @Test func `a surprise removal outside D0 releases the hardware directly`() throws {
        let (function, device) = try device(in: .asleep)
        function.leave()
        device.reportMissing()
        #expect(eventually { device.state == (.surpriseRemoved, .d3) })
        #expect(function.trace.all == ["surpriseRemoval"] + Self.remove + ["flushIO gone"])
    }

    @Test func `a card that does not answer is kept until the machine asks for it`() throws {
        let (function, device) = try device(in: .working)
        function.leave()
        device.reportMissing()
        #expect(eventually { device.state == (.surpriseRemoved, .d3) })
        #expect(!function.trace.all.contains("release"))
        function.eventSink?(.releaseRequested)
        device.worker.drain()
        #expect(function.trace.all.last == "release")
    }

    @Test func `a card that was silent in the middle of a reset goes on`() throws {
        let (function, device) = try device(in: .working)
        let gate = Cancellation()
        device.worker.enqueue { #expect(eventually { gate.isCancelled }) }
        device.reportMissing()
        try device.reset()
        function.trace.clear()
        gate.cancel()
        device.worker.drain()
        #expect(function.trace.all == [] && device.state == (.started, .d0))
    }

    @Test func `a card that left and is back at once was reset by that, and is removed all the same`() throws {
        let (function, device) = try device(in: .working)
        let gate = Cancellation()
        device.worker.enqueue { #expect(eventually { gate.isCancelled }) }
        function.leave()
        #expect(device.registers.pointee.write(bar: 0, offset: 64, width: .long, 1) == .gone)
        function.comeBack(forgetful: true)
        gate.cancel()
        #expect(eventually { device.state == (.surpriseRemoved, .d3) })
        try device.start()
        #expect(device.state == (.started, .d0))
    }

    @Test func `a card that leaves once more is missed once more`() throws {
        let (function, device) = try device(in: .working)
        for _ in 0..<3 {
            function.leave()
            device.reportMissing()
            #expect(eventually { device.state == (.surpriseRemoved, .d3) })
            device.worker.drain()
            function.comeBack()
            try device.start()
            #expect(device.state == (.started, .d0))
        }
    }

    @Test func `a slot that cannot be had is told from one that is empty`() throws {
        for command in [Command.start, .reset] {
            let (function, device) = try device(in: .removed)
            function.failing = ["reclaim"]
            #expect(status { () throws(StatusError) in try run(command, device) } == .ioDeviceError)
            function.failing = []
            function.leave()
            #expect(status { () throws(StatusError) in try run(command, device) } == .deviceNotConnected)
            #expect(device.state == (.removed, .d3))
        }
    }

    @Test func `commands of several threads are carried out one after the other`() throws {
        let function = FakeFunction()
        let device = try makeDevice(function)
        try device.start()
        function.trace.clear()
        let loops: [[Command]] = [[.suspend, .resume], [.stop, .start], [.reset]]
        let threads = loops.map { commands in
            Thread(name: "commands") { [self] in
                for _ in 0..<30 {
                    for command in commands { _ = status { () throws(StatusError) in try run(command, device) } }
                }
            }
        }
        for thread in threads { thread.join() }
        // Where the driver was led, callback by callback.
        var isPrepared = true
        var isInD0 = true
        for callback in function.trace.all {
            switch callback {
            case "prepareHardware":
                #expect(!isPrepared && !isInD0)
                isPrepared = true
            case "releaseHardware":
                #expect(isPrepared && !isInD0)
                isPrepared = false
            case "d0Entry":
                #expect(isPrepared && !isInD0)
                isInD0 = true
            case "d0Exit":
                #expect(isPrepared && isInD0)
                isInD0 = false
            case "queryStop", "suspendIO", "startIO", "master on", "enableInterrupts": #expect(isInD0)
            default: break
            }
        }
        #expect(device.state.power == (isInD0 ? .d0 : .d3) && (device.state.pnp == .stopped) == !isPrepared)
    }

    @Test func `what the bus tells is carried out: a release request removes, a removal is one`() throws {
        for (event, target) in [(FunctionEvent.releaseRequested, PnPState.removed), (.removed, .surpriseRemoved)] {
            let (function, device) = try device(in: .working)
            function.eventSink?(event)
            #expect(eventually { device.state == (target, .d3) })
            device.worker.drain()
            #expect(function.trace.all.last == "release")
            // Told twice, it is done once.
            function.trace.clear()
            function.eventSink?(event)
            device.worker.drain()
            #expect(function.trace.all.filter { $0 != "release" } == [])
            // And the card that is back works.
            try device.start()
            #expect(device.state == (.started, .d0) && function.trace.all.contains("reclaim"))
        }
    }

    @Test func `an error the bus tells is reported, and the card is looked for`() throws {
        let (function, device) = try device(in: .working)
        function.eventSink?(.errorReported)
        device.worker.drain()
        let failure = try #require(device.lastTransferFailure)
        #expect(failure.cause.contains("uncorrectable error") && failure.status == .ioDeviceError)
        #expect(failure.bytesDone == 0 && failure.bytesLost == 0)
        #expect(device.state == (.started, .d0))
    }

    @Test func `each removal makes what was opened before dead, and nothing else does`() throws {
        let (_, device) = try device(in: .working)
        func removals() -> UInt64 { device.removals.pointee.load(ordering: .relaxed) }
        try device.suspend()
        try device.resume()
        try device.stop()
        try device.start()
        try device.reset()
        #expect(removals() == 0)
        try device.remove()
        #expect(removals() == 1)
        try device.start()
        #expect(removals() == 1)
    }

    @Test func `another card in the slot is not taken`() throws {
        let (function, device) = try device(in: .removed)
        function.put(0x4444, at: ConfigurationSpace.deviceID)
        #expect(status { () throws(StatusError) in try device.start() } == .deviceConfigurationError)
        #expect(device.state == (.removed, .d3) && function.trace.all == ["reclaim", "release"])
    }

    @Test func `a slot that is still empty leaves everything as it was`() throws {
        let (function, device) = try device(in: .removed)
        function.leave()
        #expect(status { () throws(StatusError) in try device.start() } == .deviceNotConnected)
        #expect(status { () throws(StatusError) in try device.reset() } == .deviceNotConnected)
        #expect(device.state == (.removed, .d3))
    }

    // MARK: Reload

    @Test func `a card that left and came back without its configuration gets it again and is started`() throws {
        let (function, device) = try device(in: .working)
        let header = function.header
        let helper = Thread(name: "programmer") {
            #expect(eventually { device.state == (.stopped, .d3) })
            function.leave()
            usleep(30_000)
            function.comeBack(forgetful: true)
        }
        try device.reload()
        helper.join()
        #expect(device.state == (.started, .d0) && function.header == header)
        #expect(function.trace.all.first == "queryStop" && function.trace.all.last == "startIO")
    }

    @Test func `a card that comes and goes is started when it has stayed for a tenth of a second`() throws {
        let function = FakeFunction()
        let device = try makeDevice(function, reloadTimeout: 60_000_000_000)
        try device.start()
        var looks = 0
        var lastAbsent: UInt64 = 0
        defer { function.looked = nil }  // it holds the function
        function.looked = {
            looks += 1
            switch looks {
            case 1: function.leave()
            case 3: function.comeBack(forgetful: true)
            // Back for two looks, and gone again.
            case 5: function.leave()
            case 8: function.comeBack(forgetful: true)
            default: break
            }
            if [1, 2, 5, 6, 7].contains(looks) { lastAbsent = chw_clock_nanoseconds(CLOCK_MONOTONIC) }
        }
        try device.reload()
        #expect(chw_clock_nanoseconds(CLOCK_MONOTONIC) - lastAbsent >= 100_000_000)
        #expect(device.state == (.started, .d0))
    }

    @Test func `a reload that is taken back, or waits too long, leaves the card stopped and startable`() throws {
        let (_, device) = try device(in: .working)
        let cancellation = Cancellation()
        cancellation.cancel()
        #expect(status { () throws(StatusError) in try device.reload(cancellation) } == .cancelled)
        #expect(device.state == (.stopped, .d3))
        #expect(status { () throws(StatusError) in try device.reload() } == .ioTimeout)
        try device.start()
        #expect(device.state == (.started, .d0))
    }

    @Test func `a device that is closed ends a reload that waits`() throws {
        let function = FakeFunction()
        let device = try makeDevice(function, reloadTimeout: 60_000_000_000)
        try device.start()
        device.worker.enqueue {
            #expect(status { () throws(StatusError) in try device.reload() } == .cancelled)
        }
        #expect(eventually { device.state.pnp == .stopped })
        device.close()
        #expect(function.trace.all.last == "close")
    }
}

extension PassiveWorker {
    /// Returns when everything queued before is done.
    func drain() {
        let done = Cancellation()
        enqueue { done.cancel() }
        #expect(eventually { done.isCancelled })
    }
}
