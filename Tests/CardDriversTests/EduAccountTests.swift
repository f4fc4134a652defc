import DriverCore
import Testing

/// The accounts of the card whose one buffer is both directions.
@Suite(.timeLimit(.minutes(5))) struct EduAccountTests {
    @Test(arguments: [Framing.stream, .packet])
    func `bytes are accepted, read, discarded or wait, at any moment`(framing: Framing) throws {
        let edu = try EduStation(framing: framing)
        edu.station.expectAccounts()
        #expect(try edu.write(pattern(3000)).status == .success)
        edu.station.expectAccounts()
        #expect(edu.station.counter("rx_waiting_bytes") == 3000)
        #expect(try edu.read(1000).bytes == pattern(3000).prefix(1000).map { $0 })
        edu.station.expectAccounts()
        edu.station.dma.flush()
        edu.station.expectAccounts()
        #expect(edu.station.counter("rx_waiting_bytes") == 0 && edu.station.counter("rx_discarded_bytes_total") == 2000)
        edu.expectHarmless()
    }

    @Test func `a read that a signal ends gives the bytes it had gathered, and they count as read`() throws {
        let edu = try EduStation { $0.gather = 1_000_000_000_000 }
        #expect(try edu.write(pattern(100)).status == .success)
        let read = edu.station.read(1000)
        edu.endTransfer()
        // The read waits for more when the next transfer begins.
        let write = edu.station.write(pattern(10))
        #expect(eventually { edu.model.isMoving })
        #expect(edu.station.cancel(read) == .claimed)
        let outcome = try edu.station.wait(read)
        #expect(outcome.status == .success && outcome.bytes == pattern(100))
        edu.station.expectAccounts()
        #expect(edu.station.counter("rx_read_bytes_total") == 100)
        #expect(try edu.wait(write).status == .success)
    }

    @Test(arguments: ["flush", "reset", "stop"])
    func `the read after a packet that was cut says so, and then comes the next packet`(command: String) throws {
        let edu = try EduStation(framing: .packet)
        #expect(try edu.write(pattern(3000)).status == .success)
        #expect(try edu.read(1000).information == 1000)
        #expect(edu.station.dma.lastPacketEnd == .more)
        switch command {
        case "flush": edu.station.dma.flush()
        case "reset": try edu.station.device.reset()
        default:
            try edu.station.device.stop()
            try edu.station.device.start()
        }
        #expect(edu.station.dma.lastPacketEnd == .eep)
        #expect(try edu.read(4000) == .init(status: .requestAborted, cause: .packetCut))
        #expect(try edu.write(pattern(50, seed: 7)).status == .success)
        #expect(try edu.read(4000).bytes == pattern(50, seed: 7))
        #expect(edu.station.dma.lastPacketEnd == .eop)
        edu.station.expectAccounts()
    }
}
