import CHardware
import DriverCore
import PCIBus
import Testing

/// Callbacks run at passive level whatever the level of the thread on which the reason for them was found.
@Suite struct CallbackLevelTests {
    /// Writes down each callback with the level it came at.
    private class Watching: FakeDriver {
        class var calls: Collected<String> { Collected() }

        private func note(_ name: String) { Self.calls.add("\(name) \(ExecutionLevel.current)") }

        override func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
            note("prepareHardware")
            try super.prepareHardware(resources)
        }
        override func releaseHardware() { note("releaseHardware") }
        override func d0Entry() throws(StatusError) { note("d0Entry") }
        override func d0Exit() { note("d0Exit") }
        override func startIO() { note("startIO") }
        override func suspendIO() { note("suspendIO") }
        override func surpriseRemoval() { note("surpriseRemoval") }
        override func flushIO() { note("flushIO") }
    }

    private static let down = ["suspendIO", "d0Exit", "releaseHardware", "flushIO"]

    private final class OfEvents: Watching {
        private static let all = Collected<String>()
        override class var calls: Collected<String> { all }
    }

    @Test func `a removal or a request the bus tells of at dispatch level is carried out at passive level`() throws {
        for (event, first) in [(FunctionEvent.removed, ["surpriseRemoval"]), (.releaseRequested, [])] {
            let function = FakeFunction()
            let device = try makeDevice(function, drivers: [OfEvents.self])
            try device.start()
            let before = OfEvents.calls.all.count
            ExecutionLevel.dispatch.run { function.eventSink?(event) }
            device.worker.drain()
            #expect(OfEvents.calls.all.dropFirst(before) == (first + Self.down).map { $0 + " passive" }[...])
            #expect(device.state.power == .d3)
        }
    }

    private final class OfAccesses: Watching {
        private static let all = Collected<String>()
        override class var calls: Collected<String> { all }
    }

    @Test func `a card that an access at device level finds gone is removed at passive level`() throws {
        let function = FakeFunction()
        let device = try makeDevice(function, drivers: [OfAccesses.self])
        try device.start()
        let before = OfAccesses.calls.all.count
        function.bars[0]?.constant = .max
        function.leave()
        ExecutionLevel.device.run {
            var value: UInt64 = 0
            #expect(device.registers.pointee.read(bar: 0, offset: 16, width: .long, into: &value) == .gone)
        }
        #expect(eventually { device.state.pnp == .surpriseRemoved })
        #expect(
            OfAccesses.calls.all.dropFirst(before) == (["surpriseRemoval"] + Self.down).map { $0 + " passive" }[...]
        )
    }

    private final class OfCommands: Watching {
        private static let all = Collected<String>()
        override class var calls: Collected<String> { all }
    }

    @Test func `commands call the driver at passive level`() throws {
        let device = try makeDevice(FakeFunction(), drivers: [OfCommands.self])
        try device.start()
        try device.suspend()
        try device.resume()
        try device.reset()
        try device.remove()
        let up = ["d0Entry", "startIO"]
        let asleep = ["suspendIO", "d0Exit"]
        let expected = ["prepareHardware"] + up + asleep + up + asleep + up + Self.down
        #expect(OfCommands.calls.all == expected.map { $0 + " passive" })
    }
}
