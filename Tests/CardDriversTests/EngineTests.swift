import CHardware
import DriverCore
import Testing

/// The same bytes through each way of moving them.
@Suite struct EngineTests {
    static let engines: [DMAEngine] = [.scatterGather, .common]

    @Test(arguments: engines)
    func `a stream comes back byte for byte, whatever its pieces`(engine: DMAEngine) throws {
        let station = try Station()
        try station.dma.select(engine)
        #expect(station.dma.engine == engine)
        let stream = station.device.streams.open()
        var sent: [UInt8] = []
        for (index, size) in [1, 3, 4096, 32768, 32769, 100_000, 5, 1 << 20, 61440].enumerated() {
            let bytes = pattern(size, seed: index * 977)
            #expect(try station.wait(station.write(bytes, stream)).information == size)
            sent += bytes
        }
        #expect(try station.collect(sent.count, by: 70_000) == sent)
        station.device.streams.close(stream)
        station.expectBalance()
    }

    @Test(arguments: engines)
    func `packets keep their boundaries`(engine: DMAEngine) throws {
        let station = try Station(framing: .packet)
        try station.dma.select(engine)
        let sizes = [1, 2, 4095, 4096, 32767, 32768, 32769, 65535, 200_000, 1_044_480]
        for (index, size) in sizes.enumerated() {
            station.write(pattern(size, seed: index))
            let packet = try station.wait(station.read(1 << 20))
            #expect(packet.bytes == pattern(size, seed: index), "\(size)")
            #expect(station.dma.lastPacketEnd == .eop)
        }
        station.expectBalance()
    }

    @Test(arguments: engines)
    func `a writer waits when the far end is full, and goes on when it is read`(engine: DMAEngine) throws {
        let station = try Station(receiverMemory: 65536)
        try station.dma.select(engine)
        let writes = (0..<24).map { station.write(pattern(1 << 20, seed: $0)) }
        let last = try #require(writes.last)
        #expect(station.outcome(last) == nil)
        let expected = (0..<24).flatMap { pattern(1 << 20, seed: $0) }
        #expect(try station.collect(24 << 20, by: 1 << 20) == expected)
        #expect(try station.wait(last).status == .success)
        station.expectBalance()
    }

    @Test func `the plan tells of the engine and of what it copied`() throws {
        let station = try Station()
        station.write(pattern(100_000))
        #expect(station.dma.lastPlan.engine == .scatterGather && !station.dma.lastPlan.isBuffered)
        #expect(try station.collect(100_000, by: 1 << 20).count == 100_000)
        try station.dma.select(.common)
        station.write(pattern(100_000))
        let sent = station.dma.lastPlan
        #expect(sent.engine == .common && sent.isBuffered && sent.memory == .commonBuffer)
        #expect(sent.elements == 4 && sent.mapRegisters == 0 && sent.bouncedBytes == 0 && sent.byteCount == 100_000)
        #expect(try station.collect(100_000, by: 1 << 20) == pattern(100_000))
        #expect(station.dma.lastPlan.memory == .commonBuffer && station.dma.lastPlan.direction == .fromDevice)
    }

    // MARK: The change

    /// Asks for an engine and answers the status.
    private func select(_ engine: DMAEngine, _ station: Station) -> Status {
        do throws(StatusError) {
            try station.dma.select(engine)
            return .success
        } catch { return error.status }
    }

    @Test func `an engine changes only while nothing is under way`() throws {
        let station = try Station()
        // Unread bytes.
        station.write(pattern(5000))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 5000 })
        #expect(select(.common, station) == .invalidDeviceState && station.dma.engine == .scatterGather)
        #expect(select(.scatterGather, station) == .success)
        #expect(try station.collect(5000, by: 5000) == pattern(5000))
        // A reader that waits.
        let reader = station.read(100)
        #expect(select(.common, station) == .invalidDeviceState)
        station.cancel(reader)
        #expect(select(.common, station) == .success && station.dma.engine == .common)
        // Bytes the card has not taken.
        try station.set("fault", "hang-tx")
        let write = station.write(pattern(100))
        #expect(try station.wait(write).status == .success)
        #expect(select(.scatterGather, station) == .invalidDeviceState && station.dma.engine == .common)
        try station.set("fault", "none")
        #expect(try station.collect(100, by: 100) == pattern(100))
        #expect(eventually { select(.scatterGather, station) == .success })
        station.expectBalance()
    }

    @Test func `a packet that is still arriving keeps the engine`() throws {
        let station = try Station()
        try station.set("wire", "source")
        #expect(eventually { station.counter("rx_arrived_bytes_total") > 0 })
        #expect(select(.common, station) == .invalidDeviceState)
        try station.set("wire", "loopback")
        station.dma.flush()
        #expect(select(.common, station) == .success)
    }

    @Test func `a card that was suspended keeps its engine through a reset`() throws {
        let station = try Station()
        try station.dma.select(.common)
        try station.device.reset()
        #expect(station.dma.engine == .common)
        station.write(pattern(100_000))
        #expect(try station.collect(100_000, by: 1 << 20) == pattern(100_000))
        try station.device.stop()
        #expect(select(.scatterGather, station) == .deviceNotReady && station.dma.engine == .common)
        try station.device.start()
        station.write(pattern(300))
        #expect(try station.collect(300, by: 300) == pattern(300))
    }
}
