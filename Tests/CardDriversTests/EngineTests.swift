import CHardware
import DriverCore
import SimulatedCard
import Testing

/// A card that can do less than usual.
private func limited(bits: Int = 32, registers: Int? = nil, gathers: Bool = true) -> SimulatedBus.Configuration {
    var configuration = SimulatedBus.Configuration()
    configuration.addressBits = bits
    configuration.mapRegisters = registers
    configuration.scatterGather = gathers
    return configuration
}

/// The same bytes through each way of moving them.
@Suite struct EngineTests {
    /// A way to move data on a card with given limits.
    struct Way: Sendable, CustomTestStringConvertible {
        var engine: DMAEngine
        var bits = 32
        var gathers = true
        var registers: Int?

        var testDescription: String {
            "\(engine.rawValue), \(bits) bits, gathers \(gathers), \(registers ?? 0) registers"
        }

        func station(receiverMemory: Int = 8 << 20, framing: Framing = .stream) throws -> Station {
            let station = try Station(
                receiverMemory: receiverMemory,
                framing: framing,
                card: limited(bits: bits, registers: registers, gathers: gathers)
            )
            try station.dma.select(engine)
            return station
        }
    }

    static let ways: [Way] = [
        Way(engine: .scatterGather), Way(engine: .common), Way(engine: .scatterGather, bits: 24),
        Way(engine: .scatterGather, bits: 26, registers: 5), Way(engine: .scatterGather, bits: 24, registers: 2),
        Way(engine: .common, bits: 24), Way(engine: .common, gathers: false), Way(engine: .system),
        Way(engine: .system, bits: 24, gathers: false),
    ]

    @Test(arguments: ways)
    func `a stream comes back byte for byte, whatever its pieces`(way: Way) throws {
        let station = try way.station()
        #expect(station.dma.engine == way.engine)
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

    @Test(arguments: ways)
    func `packets keep their boundaries`(way: Way) throws {
        let station = try way.station(framing: .packet)
        let sizes = [1, 2, 4095, 4096, 32767, 32768, 32769, 65535, 200_000, 1_044_480]
        for (index, size) in sizes.enumerated() {
            station.write(pattern(size, seed: index))
            let packet = try station.wait(station.read(1 << 20))
            #expect(packet.bytes == pattern(size, seed: index), "\(size)")
            #expect(station.dma.lastPacketEnd == .eop)
        }
        station.expectBalance()
    }

    @Test(arguments: ways)
    func `a writer waits when the far end is full, and goes on when it is read`(way: Way) throws {
        let station = try way.station(receiverMemory: 65536)
        // More than the driver's receive memory, the card's and the far end's together.
        let data = (0..<24).map { pattern(1 << 20, seed: $0) }
        let writes = data.map { station.write($0) }
        let last = try #require(writes.last)
        #expect(station.outcome(last) == nil)
        #expect(try station.collect(24 << 20, by: 1 << 20) == data.reduce(into: []) { $0 += $1 })
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

    // MARK: A card with few address lines

    @Test func `memory out of the card's reach goes through map registers, in as many transfers as it takes`() throws {
        let station = try Station(card: limited(bits: 24, registers: 5))
        #expect(station.device.adapter?.mapRegisters?.count == 5 && station.device.arenaBuffer == nil)
        // 12 pages, and a transfer is a page less than the registers cover.
        #expect(try station.wait(station.write(pattern(49152))).information == 49152)
        let plan = station.dma.lastPlan
        #expect(plan.transfers == 3 && plan.bouncedBytes == 49152 && plan.pages == 12 && plan.memory == .request)
        #expect(plan.mapRegisters == 4 && !plan.isBuffered && plan.engine == .scatterGather)
        #expect(try station.collect(49152, by: 1 << 20) == pattern(49152))
        station.expectBalance()
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount == 5 })
        #expect(station.get("iommu").contains("faults 0\n"))
    }

    @Test func `writes wait for map registers in the order they came, and a signal takes one out`() throws {
        let station = try Station(receiverMemory: 4096, card: limited(bits: 24, registers: 3))
        try station.set("fault", "hang-rx")
        let writes = (0..<4).map { station.write(pattern(8192, seed: $0)) }
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount ?? 3 < 3 })
        #expect(station.outcome(writes[3]) == nil)
        station.cancel(writes[2])
        #expect(try station.wait(writes[2]).status == .cancelled)
        try station.set("fault", "none")
        let expected = [0, 1, 3].flatMap { pattern(8192, seed: $0) }
        #expect(try station.collect(expected.count, by: 4096) == expected)
        for index in [0, 1, 3] { #expect(try station.wait(writes[index]).information == 8192) }
        station.expectBalance()
    }

    @Test func `a signal in the middle of a write leaves the bytes done so far, as a packet`() throws {
        let station = try Station(receiverMemory: 4096, framing: .packet, card: limited(bits: 24, registers: 3))
        try station.set("fault", "hang-rx")
        let write = station.write(pattern(100_000))
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount ?? 3 < 3 })
        #expect(eventually { station.cancel(write) == .claimed || station.outcome(write) != nil })
        let done = try station.wait(write)
        #expect(done.status == .success && (1..<100_000).contains(done.information))
        try station.set("fault", "none")
        var packet: [UInt8] = []
        repeat {
            packet += try station.wait(station.read(1 << 20)).bytes
        } while station.dma.lastPacketEnd == .more
        #expect(packet == Array(pattern(100_000)[..<done.information]) && station.dma.lastPacketEnd == .eop)
        station.write(pattern(5000, seed: 3))
        #expect(try station.wait(station.read(1 << 20)).bytes == pattern(5000, seed: 3))
        station.expectBalance()
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount == 3 })
    }

    @Test func `a card that is reset in the middle of a mapped write gives all registers back`() throws {
        let station = try Station(receiverMemory: 4096, card: limited(bits: 24, registers: 3))
        let stream = station.device.streams.open()
        try station.set("fault", "hang-rx")
        let writes = (0..<3).map { station.write(pattern(60_000, seed: $0), stream) }
        // The card has begun with the first, which is then lost; one that only waits goes on after a flush.
        #expect(eventually { station.get("received").hasPrefix("bytes 4096\n") })
        station.dma.flush()
        #expect(try station.wait(writes[0]).status == .requestAborted)
        try station.device.reset()
        try station.set("fault", "none")
        for write in writes { _ = try station.wait(write) }
        station.device.streams.close(stream)
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount == 3 })
        station.dma.flush()
        station.write(pattern(20_000))
        #expect(try station.collect(20_000, by: 1 << 20) == pattern(20_000))
        try station.device.stop()
        try station.device.start()
        station.write(pattern(20_000))
        #expect(try station.collect(20_000, by: 1 << 20) == pattern(20_000))
        station.expectBalance()
    }

    @Test func `signals and the card race for mapped writes: each ends once and is counted right`() throws {
        let station = try Station(receiverMemory: 65_536, card: limited(bits: 24, registers: 4))
        try station.set("wire", "sink")
        try station.set("rate", "100M")
        let stream = station.device.streams.open()
        var accepted = 0
        var waiting: [Station.Request] = []
        for index in 0..<150 {
            waiting.append(station.write(pattern(30_000), stream, index % 11 == 0 ? .synchronous : []))
            if index % 3 == 0 { waiting.append(station.barrier(stream)) }
            if waiting.count > 6 { station.cancel(waiting[waiting.count - 1 - index % 5]) }
            while waiting.count > 12 { accepted += try station.wait(waiting.removeFirst()).information }
        }
        for request in waiting { accepted += try station.wait(request).information }
        #expect(try station.wait(station.barrier(stream)).status == .success)
        station.device.streams.close(stream)
        #expect(station.get("received").hasPrefix("bytes \(station.counter("tx_sent_bytes_total"))\n"))
        station.expectBalance()
        #expect(eventually { station.device.adapter?.mapRegisters?.freeCount == 4 })
    }

    @Test func `a card that does not gather has no engine for it, and begins with its ring`() throws {
        let station = try Station(card: limited(gathers: false))
        #expect(station.dma.engine == .common && select(.scatterGather, station) == .notSupported)
        station.write(pattern(10))
        #expect(try station.collect(10, by: 10) == pattern(10))
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
