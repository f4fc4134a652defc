import CHardware
import DriverCore
import PCIBus
import Testing

@Suite struct PnPTests {
    static let up = [
        "prepareHardware", "map 0", "map 2", "d0Entry", "connect MSI-X 4", "enableInterrupts", "interruptsEnabled",
        "master on", "startIO",
    ]
    static let powerUp = [
        "d0Entry", "connect MSI-X 4", "enableInterrupts", "interruptsEnabled", "master on", "startIO",
    ]
    static let powerDown = [
        "suspendIO", "master off", "interruptsDisabling", "disableInterrupts", "disconnect", "d0Exit",
    ]
    static let release = ["releaseHardware", "unmap 2", "unmap 0"]

    private func added(_ function: FakeFunction = FakeFunction()) throws -> (FakeFunction, Device) {
        let device = try makeDevice(function)
        #expect(function.trace.all == ["add"])
        function.trace.clear()
        return (function, device)
    }

    /// Nothing is left but the arena of the device.
    private func isClean(_ function: FakeFunction) -> Bool {
        function.mappedBARs.isEmpty && function.mappings.isEmpty && function.memories.count == 1 && function.sink == nil
            && function.command & 4 == 0
    }

    @Test func `a start is in order, and bus mastering comes last but the queues`() throws {
        let (function, device) = try added()
        try device.start()
        #expect(function.trace.all == Self.up)
        #expect(device.stateText == "pnp Started\npower D0\n" && function.command & 6 == 6)
    }

    @Test(arguments: [(32, true), (20, false)])
    func `the card is given the payload memory if it reaches it beside its own buffers`(bits: Int, isGiven: Bool) throws
    {
        class Narrow: FakeDriver {
            override class var dmaDescription: DeviceDescription? {
                DeviceDescription(addressWidth: 20, scatterGather: true, maximumLength: 1 << 16, alignment: 4)
            }
        }
        let device = try makeDevice(FakeFunction(), drivers: [bits == 20 ? Narrow.self : FakeDriver.self])
        try device.start()
        #expect((device.arenaBuffer != nil) == isGiven)
    }

    @Test func `from the start on, a common buffer is one page at most`() throws {
        let (_, device) = try added()
        // The driver took one of two pages when it prepared the hardware, as it does again after a stop.
        for _ in 0..<2 {
            try device.start()
            let adapter = try #require(device.adapter)
            #expect(
                status { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 4097) }
                    == .insufficientResources
            )
            #expect(
                status { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 4096) } == .success
            )
            try device.stop()
        }
    }

    @Test func `a stop is the reverse, and bus mastering goes first`() throws {
        let (function, device) = try added()
        try device.start()
        function.trace.clear()
        try device.stop()
        #expect(function.trace.all == ["queryStop"] + Self.powerDown + Self.release)
        #expect(isClean(function) && device.stateText == "pnp Stopped\npower D3\n")
        #expect(device.adapter == nil && device.arenaBuffer == nil)
        function.trace.clear()
        #expect(status { () throws(StatusError) in try device.stop() } == .deviceNotReady)
        #expect(function.trace.all.isEmpty)
    }

    @Test func `a card that was stopped can be started again`() throws {
        let (function, device) = try added()
        for _ in 0..<3 {
            function.trace.clear()
            try device.start()
            #expect(function.trace.all.filter { $0 != "reclaim" } == Self.up)
            try device.stop()
            #expect(isClean(function))
        }
    }

    @Test func `a reset leaves D0 and enters it again, with the hardware kept`() throws {
        let (function, device) = try added()
        try device.start()
        function.trace.clear()
        try device.reset()
        #expect(
            function.trace.all == Self.powerDown + ["reset"]
                + Self.powerUp
        )
        #expect(device.state == (.started, .d0))
    }

    @Test func `only a started card is reset, and only one that is not is started`() throws {
        let (_, device) = try added()
        #expect(status { () throws(StatusError) in try device.reset() } == .deviceNotReady)
        try device.start()
        #expect(status { () throws(StatusError) in try device.start() } == .invalidDeviceState)
    }

    @Test func `prepareHardware that fails is followed by releaseHardware, once, and nothing else`() throws {
        let (function, device) = try added()
        function.failing = ["driver prepareHardware"]
        #expect(status { () throws(StatusError) in try device.start() } == .unsuccessful)
        #expect(function.trace.all == ["prepareHardware", "map 0", "map 2"] + Self.release + ["flushIO failed"])
        #expect(isClean(function) && device.state == (.failed, .d3))
    }

    @Test func `d0Entry that fails is followed by releaseHardware and not by d0Exit`() throws {
        let (function, device) = try added()
        function.failing = ["driver d0Entry"]
        #expect(status { () throws(StatusError) in try device.start() } == .unsuccessful)
        #expect(
            function.trace.all == ["prepareHardware", "map 0", "map 2", "d0Entry"] + Self.release + ["flushIO failed"]
        )
        #expect(isClean(function) && device.state == (.failed, .d3))
    }

    @Test func `interrupts that cannot be connected undo D0`() throws {
        let (function, device) = try added()
        function.failing = ["connect"]
        #expect(status { () throws(StatusError) in try device.start() } == .insufficientResources)
        #expect(
            function.trace.all == ["prepareHardware", "map 0", "map 2", "d0Entry", "d0Exit"] + Self.release
                + ["flushIO failed"]
        )
        #expect(isClean(function))
    }

    @Test func `interruptsEnabled that fails undoes the connection and D0`() throws {
        let (function, device) = try added()
        function.failing = ["driver interruptsEnabled"]
        #expect(status { () throws(StatusError) in try device.start() } == .unsuccessful)
        #expect(
            function.trace.all == [
                "prepareHardware", "map 0", "map 2", "d0Entry", "connect MSI-X 4", "enableInterrupts",
                "interruptsEnabled", "disableInterrupts", "disconnect", "d0Exit",
            ] + Self.release + ["flushIO failed"]
        )
        #expect(isClean(function))
    }

    @Test(arguments: ["reset", "driver d0Entry", "connect 2", "driver interruptsEnabled"])
    func `a reset that fails leaves a failed card with nothing mapped, which can be started`(step: String) throws {
        let (function, device) = try added()
        try device.start()
        function.failing = [step]
        #expect(status { () throws(StatusError) in try device.reset() } != .success)
        #expect(isClean(function) && device.state == (.failed, .d3))
        #expect(function.trace.all.count { $0 == "releaseHardware" } == 1)
        function.failing = []
        try device.start()
        #expect(device.state == (.started, .d0))
    }

    @Test(arguments: [1, 2, 3])
    func `a BAR that cannot be mapped leaves nothing mapped`(number: Int) throws {
        let (function, device) = try added(FakeFunction(bars: [0: 4096, 2: 256, 4: 64]))
        function.failing = ["map \(number)"]
        #expect(status { () throws(StatusError) in try device.start() } == .insufficientResources)
        #expect(function.trace.all.count { $0.hasPrefix("map") } == number - 1)
        #expect(
            function.trace.all.filter { $0.hasPrefix("unmap") }
                == [0, 2, 4].prefix(number - 1).reversed().map { "unmap \($0)" }
        )
        #expect(isClean(function))
        function.failing = []
        try device.start()
    }

    @Test(arguments: ["allocateMemory 2", "mapDMA 1", "mapDMA 2"])
    func `DMA memory that cannot be had leaves nothing mapped`(step: String) throws {
        let (function, device) = try added()
        function.failing = [step]
        #expect(status { () throws(StatusError) in try device.start() } == .insufficientResources)
        #expect(isClean(function) && device.state == (.failed, .d3))
    }

    @Test func `hardware that was never prepared is not released`() throws {
        let (function, device) = try added()
        // The arena cannot be mapped: the driver was not asked yet.
        function.failing = ["mapDMA 1"]
        #expect(status { () throws(StatusError) in try device.start() } == .insufficientResources)
        #expect(function.trace.all == ["flushIO failed"])
    }

    @Test(arguments: [[0: 64] as [Int: Int], [2: 256], [:]])
    func `a BAR that is missing is a configuration error`(bars: [Int: Int]) throws {
        let (_, device) = try added(FakeFunction(bars: bars))
        #expect(
            status { () throws(StatusError) in _ = try device.mapBAR(bars[0] == nil ? 0 : 2) }
                == .deviceConfigurationError
        )
        #expect(status { () throws(StatusError) in _ = try device.mapBAR(7) } == .deviceConfigurationError)
    }

    @Test func `a BAR of ports is no memory`() throws {
        let function = FakeFunction(bars: [:])
        function.addBAR(1, 64, kind: .io)
        let (_, device) = try added(function)
        #expect(status { () throws(StatusError) in _ = try device.mapBAR(1) } == .deviceConfigurationError)
    }

    @Test func `a card without DMA gets no adapter and no bus mastering`() throws {
        let function = FakeFunction()
        let device = try makeDevice(function, drivers: [RegisterDriver.self])
        try device.start()
        #expect(device.adapter == nil && function.command & 4 == 0 && function.mappings.isEmpty)
    }

    @Test func `a card without interrupts starts all the same`() throws {
        let function = FakeFunction()
        function.interruptVectors = [:]
        let (_, device) = try added(function)
        try device.start()
        #expect(!function.trace.all.contains { $0.hasPrefix("connect") })
    }

    @Test(
        arguments: [
            ([.intx: 1], "connect INTx 1"), ([.msi: 8, .intx: 1], "connect MSI 8"),
            ([.msix: 2, .msi: 1], "connect MSI-X 2"),
        ] as [([InterruptKind: Int], String)]
    )
    func `the best kind of interrupt is connected with all its vectors`(kinds: [InterruptKind: Int], line: String)
        throws
    {
        let function = FakeFunction()
        function.interruptVectors = kinds
        let (_, device) = try added(function)
        try device.start()
        #expect(function.trace.all.contains(line))
    }

    @Test func `the kind of interrupt can be chosen, and one the card lacks names those it has`() throws {
        let function = FakeFunction()
        function.interruptVectors = [.msix: 4, .intx: 1, .msi: 0]
        try makeDevice(function, interrupts: .intx).start()
        #expect(function.trace.all.contains("connect INTx 1"))
        let device = try makeDevice(function, interrupts: .msi)
        do throws(StatusError) {
            try device.start()
            Issue.record("it started")
        } catch {
            #expect(error.status == .deviceConfigurationError && error.sentence.hasSuffix("it has MSI-X, INTx"))
        }
        #expect(device.state == (.failed, .d3) && function.mappedBARs.isEmpty)
    }

    // MARK: Matching and the end

    @Test func `the first driver that matches the IDs takes the card`() throws {
        #expect(
            try makeDevice(FakeFunction(), drivers: [OtherDriver.self, RegisterDriver.self, FakeDriver.self]).driverName
                == "registers"
        )
        #expect(
            try makeDevice(FakeFunction(vendor: 0x4321), drivers: [FakeDriver.self, OtherDriver.self]).driverName
                == "other"
        )
    }

    @Test func `a card nobody matches is refused by its IDs`() {
        do throws(StatusError) {
            _ = try makeDevice(FakeFunction(device: 0x9999))
            Issue.record("it was taken")
        } catch {
            #expect(error.status == .notSupported && error.sentence.contains("1234:9999"))
        }
    }

    @Test(arguments: [0xffff, 0] as [UInt16])
    func `a slot where nobody answers is refused`(vendor: UInt16) {
        #expect(
            status { () throws(StatusError) in _ = try makeDevice(FakeFunction(vendor: vendor)) } == .deviceNotConnected
        )
    }

    @Test func `a driver that cannot be made gives the function back`() {
        let function = FakeFunction()
        function.failing = ["driver add"]
        #expect(status { () throws(StatusError) in _ = try makeDevice(function) } == .unsuccessful)
        #expect(function.trace.all == ["add", "close"] && function.memories.isEmpty)
    }

    @Test func `a device that ends stops first, and gives the function back once`() throws {
        let (function, device) = try added()
        try device.start()
        function.trace.clear()
        device.close()
        device.close()
        #expect(function.trace.all == Self.powerDown + Self.release + ["close"])
        #expect(function.memories.isEmpty)
    }

    @Test func `resources name each BAR, whatever lies between`() throws {
        final class Keeping: FakeDriver {
            nonisolated(unsafe) static var lists: ResourceLists?
            override func prepareHardware(_ resources: ResourceLists) throws(StatusError) { Self.lists = resources }
        }
        let function = FakeFunction(bars: [:])
        function.addBAR(0, 128, kind: .io)
        function.addBAR(2, 4096, kind: .memory64)
        function.addBAR(5, 64)
        let device = try makeDevice(function, drivers: [Keeping.self])
        try device.start()
        let lists = try #require(Keeping.lists)
        #expect(lists.translated.map(\.type) == [.port, .memory, .memory, .interrupt])
        #expect(lists.memory(bar: 2)?.length == 4096 && lists.memory(bar: 5)?.length == 64)
        #expect(lists.memory(bar: 0) == nil && lists.memory(bar: 3) == nil)
        #expect(lists.raw.count == lists.translated.count)
        #expect(lists.translated.last?.interruptKind == .msix && lists.translated.last?.length == 4)
    }
}
