import CHardware
import DriverCore
import PCIBus
import SimulatedCard
import Testing

/// Numbers of a card that cannot be so: what it writes into descriptors, registers and counters.
@Suite(.timeLimit(.minutes(10))) struct HostileCardTests {
    /// A card that lies, and its driver.
    struct Liar {
        let station: Station
        let card: LyingFunction

        init(
            _ engine: DMAEngine? = nil,
            framing: Framing = .stream,
            before: ((LyingFunction) -> Void)? = nil,
            configure: (inout SimulatedBus.Configuration) -> Void = { _ in }
        ) throws {
            var configuration = SimulatedBus.Configuration()
            configuration.receiverMemory = 8 << 20
            configure(&configuration)
            let bus = SimulatedBus(configuration)
            let card = LyingFunction(try bus.open(PCIAddress(bus: 1, device: 0, function: 0)))
            before?(card)
            self.card = card
            station = try Station(
                framing: framing,
                policy: { $0.transmitTimeout = 1_000_000_000 },
                function: { _ in card }
            )
            if let engine, station.dma.engine != engine { try station.dma.select(engine) }
        }

        /// Sends bytes that come back, and reads them.
        func pass(_ count: Int, seed: Int = 0) throws {
            #expect(try station.wait(station.write(pattern(count, seed: seed))).status == .success)
            #expect(try station.collect(count, by: 1 << 20) == pattern(count, seed: seed))
        }

        /// The card works, and every byte is accounted for.
        func expectWorking() throws {
            for size in [1, 5000, 200_000] { try pass(size, seed: size) }
            station.expectBalance()
            let arrived = station.counter("rx_arrived_bytes_total")
            #expect(arrived == station.counter("rx_read_bytes_total") + station.counter("rx_discarded_bytes_total"))
        }
    }

    private static let done: UInt32 = 1 << 19
    private static let eop: UInt32 = 1 << 20
    private static let eep: UInt32 = 1 << 21
    private static let refused = Station.Outcome(status: .ioDeviceError, cause: .cardError)

    static let receiveWords: [UInt32] = [
        done | eop | 0xffff, done | 0x8001, done | eop | eep | 0xfffc,  // longer than the memory the descriptor names
        0, eop | 100, ~(1 << 16), 0xfff0_0000,  // given back, and not done
    ]

    @Test(arguments: [DMAEngine.scatterGather, .common], receiveWords)
    func `a receive descriptor that cannot be so is told once, behind what came before, and the card goes on`(
        engine: DMAEngine,
        word: UInt32
    ) throws {
        let liar = try Liar(engine)
        let station = liar.station
        #expect(try station.wait(station.write(pattern(1000))).status == .success)
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 1000 })
        try station.set("fault", "hang-rx")
        liar.card.finish(receiving: true, 1, word)
        #expect(try station.collect(1000, by: 1000) == pattern(1000))
        #expect(try station.wait(station.read(1 << 20)) == Self.refused)
        let failure = try #require(station.device.lastTransferFailure)
        #expect(failure.direction == .fromDevice && failure.status == .ioDeviceError)
        #expect(failure.cause.contains("descriptor"))
        #expect(station.counter("card_errors_total") == 1)
        try station.set("fault", "none")
        try liar.expectWorking()
        #expect(station.counter("card_errors_total") == 1)
    }

    @Test(arguments: [DMAEngine.scatterGather, .common])
    func `a packet in which the card lied ends in EEP, and nothing of the lie is in it`(engine: DMAEngine) throws {
        let liar = try Liar(engine, framing: .packet)
        let station = liar.station
        try station.set("fault", "hang-rx")
        liar.card.finish(receiving: true, 0, Self.done | 0x8000)
        liar.card.finish(receiving: true, 1, Self.done | Self.eop | 0xffff)
        let cut = try station.wait(station.read(1 << 20))
        #expect(cut.status == .success && cut.information == 0x8000)
        #expect(station.dma.lastPacketEnd == .eep)
        #expect(try station.wait(station.read(1 << 20)) == Self.refused)
        try station.set("fault", "none")
        try liar.expectWorking()
    }

    @Test(arguments: [DMAEngine.scatterGather, .common])
    func `a program that maps the ring is never told of a place outside it`(engine: DMAEngine) throws {
        let liar = try Liar(engine)
        let station = liar.station
        let stream = station.device.streams.open()
        let ring = try #require(station.dma.mappableRing).byteCount
        // The last slot of the ring, where a length too great leads beyond it.
        try station.set("fault", "hang-rx")
        for entry in 0..<127 { liar.card.finish(receiving: true, entry, Self.done | 0x8000) }
        liar.card.finish(receiving: true, 127, Self.done | Self.eop | 0xffff)
        var borrowed = 0
        while borrowed < 127 * 0x8000 {
            let outcome = try station.wait(station.borrow(stream, 1 << 20, .nonblocking))
            try #require(outcome.status == .success && outcome.information > 0)
            #expect(outcome.places.allSatisfy { $0.lowerBound >= 0 && $0.upperBound <= ring })
            borrowed += outcome.information
        }
        #expect(try station.wait(station.borrow(stream, 1 << 20)) == Self.refused)
        station.device.streams.close(stream)
        try station.set("fault", "none")
        try liar.expectWorking()
    }

    @Test(arguments: [DMAEngine.scatterGather, .common], [0, 100, ~(1 << 19 | 1 << 16)] as [UInt32])
    func `a transmit descriptor that comes back and is not done is not taken for sent`(engine: DMAEngine, word: UInt32)
        throws
    {
        let liar = try Liar(engine)
        let station = liar.station
        let stream = station.device.streams.open()
        try station.set("fault", "hang-tx")
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        liar.card.finish(receiving: false, 0, word)
        #expect(try station.wait(station.barrier(stream)) == Self.refused)
        #expect(station.counter("tx_lost_bytes_total") == 100 && station.counter("tx_sent_bytes_total") == 0)
        #expect(eventually { station.device.lastTransferFailure?.direction == .toDevice })
        #expect(station.counter("card_errors_total") == 1)
        station.device.streams.close(stream)
        try station.set("fault", "none")
        _ = try station.collectAll()
        try liar.expectWorking()
    }

    @Test(arguments: [0, 4 << 20 + 1, 0x7fff_ffff, 0x8000_0000, .max] as [UInt32])
    func `a counter of the slave DMA controller outside its buffer is told, and not followed`(value: UInt32) throws {
        let liar = try Liar(.system)
        let station = liar.station
        let lie = Once()
        liar.card.lie { $0.counter = { channel, truth in channel == 1 && lie.isFirst ? value : truth } }
        #expect(try station.wait(station.read(10)) == Self.refused)
        #expect(station.device.lastTransferFailure?.cause.contains("counter") == true)
        try liar.expectWorking()
        #expect(station.counter("card_errors_total") == 1)
    }

    @Test(arguments: [0, 4 << 20 - 2000, 2000, .max] as [UInt32])
    func `a counter beyond what was posted is not taken for sent`(value: UInt32) throws {
        let liar = try Liar(.system)
        let station = liar.station
        let stream = station.device.streams.open()
        try station.set("fault", "hang-tx")
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        liar.card.lie { $0.counter = { channel, truth in channel == 0 ? value : truth } }
        #expect(try station.wait(station.barrier(stream)) == Self.refused)
        #expect(station.counter("tx_lost_bytes_total") == 100 && station.counter("tx_sent_bytes_total") == 0)
        liar.card.tellTruth()
        station.device.streams.close(stream)
        try station.set("fault", "none")
        _ = try station.collectAll()
        try liar.expectWorking()
    }

    @Test(arguments: [0x8000_0001, 0x9fff_ffff, 0xbfff_ffff, 0xdfff_ffff, 0xffff_fffe, 0xc000_0400] as [UInt32])
    func `the end of a packet that was not delivered is told, and nobody gets its bytes`(value: UInt32) throws {
        let liar = try Liar(.system)
        let station = liar.station
        let lie = Once()
        liar.card.lie { $0.register = { offset, truth in offset == 0x11c && lie.isFirst ? UInt64(value) : truth } }
        #expect(try station.wait(station.read(1 << 20)) == Self.refused)
        #expect(station.device.lastTransferFailure?.cause.contains("packet") == true)
        try liar.expectWorking()
    }

    @Test(arguments: [DMAEngine.scatterGather, .common, .system])
    func `a length that the card makes up is told, and every engine goes on`(engine: DMAEngine) throws {
        let liar = try Liar(engine, framing: .packet)
        let station = liar.station
        try station.set("fault", "length")
        #expect(try station.wait(station.write(pattern(3000))).status == .success)
        var ended = try station.wait(station.read(1 << 20))
        if engine == .system, ended.status == .success {
            // The bytes were there before their end was told.
            #expect(ended.bytes == pattern(3000) && station.dma.lastPacketEnd == .eep)
            ended = try station.wait(station.read(1 << 20))
        }
        #expect(ended == Self.refused)
        #expect(station.get("fault") == "none\n")
        try liar.expectWorking()
    }

    @Test(arguments: [DMAEngine.scatterGather, .common, .system])
    func `a card that lies each time answers each read with an error, and flush and reset take it back`(
        engine: DMAEngine
    ) throws {
        let liar = try Liar(engine, framing: .packet)
        let station = liar.station
        for round in 1...3 {
            try station.set("fault", "length")
            #expect(try station.wait(station.write(pattern(10))).status == .success)
            #expect(eventually { station.counter("card_errors_total") == round })
            if round == 1 { station.dma.flush() }
            if round == 2 { try station.device.reset() }
            if round == 3 {
                try station.device.suspend()
                try station.device.resume()
                while try station.wait(station.read(1 << 20)).status == .success {}
            }
        }
        #expect(station.counter("card_errors_total") == 3)
        try liar.expectWorking()
    }

    @Test(arguments: [DMAEngine.scatterGather, .common, .system], [10_000, 99_999, 100_000])
    func `a packet longer than the card counts comes whole, with its end`(engine: DMAEngine, limit: Int) throws {
        let liar = try Liar(engine, framing: .packet, configure: { $0.packetCounterLimit = limit })
        let station = liar.station
        for seed in 1...3 {
            #expect(try station.wait(station.write(pattern(100_000, seed: seed))).status == .success)
            #expect(try station.wait(station.read(1 << 20)).bytes == pattern(100_000, seed: seed))
            #expect(station.dma.lastPacketEnd == .eop)
        }
        #expect(station.counter("rx_packets_total") == 3 && station.counter("card_errors_total") == 0)
        try liar.expectWorking()
    }
}
