import CHardware
import DriverCore
import PCIBus
import Testing

@Suite(.timeLimit(.minutes(10))) struct PacketTests {
    static let sizes = [1, 2, 4, 100, 4096, 16_384, 32_767, 32_768, 32_769, 65_536, 98_304, 100_000, 1_044_480]

    @Test(arguments: sizes)
    func `a read returns one packet, whole, however much it asks for`(size: Int) throws {
        let station = try Station(framing: .packet)
        for seed in 0..<3 { #expect(try station.wait(station.write(pattern(size, seed: seed))).status == .success) }
        for seed in 0..<3 {
            #expect(try station.wait(station.read(1 << 20)).bytes == pattern(size, seed: seed))
            #expect(station.dma.lastPacketEnd == .eop)
        }
        #expect(try station.wait(station.read(1, .nonblocking)).status == .deviceBusy)
        #expect(station.counter("rx_packets_total") == 3 && station.counter("rx_empty_packets_total") == 0)
        station.expectBalance()
    }

    @Test(arguments: sizes.filter { $0 > 2 }, [1, 2, 3])
    func `the rest of a longer packet comes next, and rx_end says so`(size: Int, pieces: Int) throws {
        let station = try Station(framing: .packet)
        station.write(pattern(size))
        station.write(pattern(5, seed: 77))
        let length = (size + pieces - 1) / pieces
        var bytes: [UInt8] = []
        while bytes.count < size {
            bytes += try station.wait(station.read(length)).bytes
            // A packet that fills the request exactly has its end behind it already.
            #expect(station.dma.lastPacketEnd == (bytes.count == size ? .eop : .more))
        }
        #expect(bytes == pattern(size))
        #expect(try station.wait(station.read(100)).bytes == pattern(5, seed: 77))
        #expect(station.counter("rx_empty_packets_total") == 0)
        station.expectBalance()
    }

    @Test func `readers that came first wait for their packets`() throws {
        let station = try Station(framing: .packet)
        let reads = (0..<3).map { _ in station.read(65_536) }
        for seed in 0..<3 { station.write(pattern(32_768, seed: seed)) }
        for (seed, read) in reads.enumerated() {
            #expect(try station.wait(read).bytes == pattern(32_768, seed: seed))
        }
        #expect(station.order(of: reads) == [0, 1, 2])
    }

    @Test func `a packet that ends in an error says EEP`() throws {
        let station = try Station(framing: .packet)
        try station.set("fault", "eep")
        station.write(pattern(100))
        #expect(try station.wait(station.read(1000)).bytes == pattern(100))
        #expect(station.dma.lastPacketEnd == .eep && station.counter("rx_error_packets_total") == 1)
        station.write(pattern(10))
        _ = try station.wait(station.read(1000))
        #expect(station.dma.lastPacketEnd == .eop)
    }

    @Test(arguments: [Framing.stream, .packet])
    func `an empty packet is counted and never returned`(framing: Framing) throws {
        let station = try Station(framing: framing) { $0.transmitTimeout = 1_000_000_000 }
        station.write(pattern(10))
        #expect(eventually { station.counter("tx_sent_bytes_total") == 10 })
        // The transmitter is aborted before the card took a byte: only the end marker of the recovery gets through.
        try station.set("fault", "hang-tx")
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(20), stream)).status == .success)
        station.advance(milliseconds: 1000)
        #expect(eventually { station.counter("tx_lost_bytes_total") == 20 })
        try station.set("fault", "none")
        station.write(pattern(30))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 40 })
        if framing == .packet {
            #expect(try station.wait(station.read(1000)).bytes == pattern(10))
            #expect(try station.wait(station.read(1000)).bytes == pattern(30))
        } else {
            #expect(try station.wait(station.read(40)).bytes == pattern(10) + pattern(30))
        }
        #expect(station.counter("rx_empty_packets_total") == 1 && station.counter("rx_error_packets_total") == 1)
        #expect(station.counter("rx_packets_total") == 3)
        station.expectBalance()
    }

    @Test func `many packets of one byte stay apart`() throws {
        let station = try Station(framing: .packet)
        let writer = Thread(name: "writer") {
            for index in 0..<1000 {
                let request = station.write([UInt8(truncatingIfNeeded: index)])
                guard eventually({ station.outcome(request) != nil }) else { return }
            }
        }
        for index in 0..<1000 {
            #expect(try station.wait(station.read(4096)).bytes == [UInt8(truncatingIfNeeded: index)])
        }
        writer.join()
        station.expectBalance()
    }

    @Test func `a packet larger than the ring reaches a reader that waits, with the beginning copied out`() throws {
        let station = try Station(framing: .packet)
        // Most slots hold packets that nobody reads yet, so that the long one does not fit beside them.
        for index in 0..<100 { _ = try station.wait(station.write([UInt8(index)])) }
        let long = pattern(1_044_480)
        _ = try station.wait(station.write(long))
        for index in 0..<100 { #expect(try station.wait(station.read(10)).bytes == [UInt8(index)]) }
        var bytes: [UInt8] = []
        while bytes.count < long.count { bytes += try station.wait(station.read(1 << 20)).bytes }
        #expect(bytes == long && station.dma.lastPacketEnd == .eop)
        station.expectBalance()
    }

    @Test func `a poll for a packet waits for its end`() throws {
        let station = try Station(framing: .packet)
        #expect(station.readiness(1) == 0)
        station.write(pattern(40_000))
        #expect(eventually { station.readiness(1) == UInt32(POLLIN | POLLRDNORM) })
        _ = try station.wait(station.read(1 << 20))
        #expect(station.readiness(1) == 0)
    }

    @Test func `what waits is served when the framing changes`() throws {
        let station = try Station(framing: .packet)
        let read = station.read(10)
        station.write(pattern(5))
        station.dma.framing = .stream
        station.write(pattern(5, seed: 5))
        let first = try station.wait(read).bytes
        #expect(first == pattern(5) || first == pattern(10))
        #expect(try first.count == 10 || station.collect(5, by: 10) == pattern(5, seed: 5))
    }
}
