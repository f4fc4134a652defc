import CHardware
import DriverCore
import SimulatedCard
import Testing

/// What the driver keeps of what it has given to the card is bounded, and full is not too full.
@Suite struct FullRingTests {
    static let engines: [DMAEngine] = [.scatterGather, .common, .system]

    /// A card that takes nothing, as long as it hangs.
    private func station(_ engine: DMAEngine, framing: Framing = .stream) throws -> Station {
        let station = try Station(receiverMemory: 64 << 20, framing: framing)
        try station.dma.select(engine)
        try station.set("fault", "hang-tx")
        return station
    }

    /// Writes as often as it is taken at once, at most `limit` times. Answers the bytes.
    private func fill(_ station: Station, _ size: Int, limit: Int) throws -> [UInt8] {
        var taken: [UInt8] = []
        for round in 0..<limit {
            let bytes = pattern(size, seed: size + round)
            let outcome = try station.wait(station.write(bytes, nil, .nonblocking))
            if outcome.status == .deviceBusy { return taken }
            #expect(outcome.status == .success && outcome.information == size)
            taken += bytes
        }
        return taken
    }

    @Test(arguments: engines)
    func `a card that was given all there is room for, to the last byte, gets every byte`(engine: DMAEngine) throws {
        let station = try station(engine)
        var sent: [UInt8] = []
        for size in [1 << 20, 1 << 18, 1 << 16, 1 << 14, 4096, 512, 64, 8, 1] {
            sent += try fill(station, size, limit: 64)
        }
        #expect(sent.count > 3 << 20)
        try station.set("fault", "none")
        #expect(try station.collect(sent.count, by: 1 << 20) == sent)
        station.expectBalance()
        // And once more from where that has left the ring.
        try station.set("fault", "hang-tx")
        sent = try fill(station, 300_000, limit: 64) + fill(station, 1000, limit: 600) + fill(station, 1, limit: 600)
        try station.set("fault", "none")
        #expect(try station.collect(sent.count, by: 1 << 20) == sent)
        station.expectBalance()
    }

    @Test(arguments: engines)
    func `more small writes than the driver keeps account of wait, and each is counted once`(engine: DMAEngine) throws {
        let station = try station(engine)
        let stream = station.device.streams.open()
        var sent = try fill(station, 1, limit: 1000)
        #expect((100..<1000).contains(sent.count))
        let waiting = station.write(pattern(3, seed: 7), stream)
        sent += pattern(3, seed: 7)
        #expect(station.outcome(waiting) == nil)
        try station.set("fault", "none")
        #expect(try station.wait(waiting).information == 3)
        #expect(try station.wait(station.barrier(stream)).status == .success)
        #expect(try station.collect(sent.count, by: 4096) == sent)
        #expect(station.counter("tx_sent_bytes_total") == sent.count)
        station.device.streams.close(stream)
        station.expectBalance()
    }

    @Test(arguments: engines)
    func `more packets than the driver has places for stay with the card until they are read`(engine: DMAEngine) throws
    {
        let station = try station(engine, framing: .packet)
        try station.set("fault", "none")
        let packets = (0..<400).map { pattern(1 + $0 % 3, seed: $0) }
        for packet in packets { #expect(try station.wait(station.write(packet)).status == .success) }
        #expect(eventually { station.counter("tx_sent_bytes_total") > 0 })
        for packet in packets {
            #expect(try station.wait(station.read(4096)).bytes == packet)
            #expect(station.dma.lastPacketEnd == .eop)
        }
        station.expectBalance()
    }
}
