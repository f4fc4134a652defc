import CHardware
import DriverCore
import PCIBus
import Testing

/// Writes, barriers and what ends their wait, while the card works.
@Suite(.timeLimit(.minutes(10))) struct TransmitTests {
    @Test(arguments: [RequestKind.barrier, .close])
    func `a barrier ends when the card has every byte of its file`(kind: RequestKind) throws {
        let station = try Station(receiverMemory: 4096)
        let stream = station.device.streams.open()
        let other = station.device.streams.open()
        #expect(try station.wait(station.barrier(stream, kind)).status == .success)
        try station.fillReceiver()
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream, kind)
        #expect(try station.wait(station.barrier(other, kind)).status == .success)
        #expect(station.outcome(barrier) == nil)
        try station.set("fault", "none")
        #expect(try station.wait(barrier) == .init(status: .success))
        #expect(station.counter("tx_sent_bytes_total") == 8292)
        station.expectBalance()
    }

    @Test func `a barrier waits for the writes of its file that it came after, and no others`() throws {
        let station = try Station(receiverMemory: 4096)
        let mine = station.device.streams.open()
        try station.fillReceiver()
        station.write(pattern(10), mine)
        let first = station.barrier(mine)
        station.write(pattern(10), mine)
        let second = station.barrier(mine)
        try station.set("fault", "none")
        #expect(try station.wait(second).status == .success)
        #expect(station.order(of: [first, second]) == [0, 1])
    }

    @Test func `a synchronous write ends when the card has its bytes`() throws {
        let station = try Station(receiverMemory: 4096)
        try station.fillReceiver()
        let write = station.write(pattern(100), station.device.streams.open(), .synchronous)
        #expect(station.outcome(write) == nil && station.counter("tx_accepted_bytes_total") == 8292)
        try station.set("fault", "none")
        #expect(try station.wait(write) == .init(status: .success, information: 100))
        station.expectBalance()
    }

    @Test func `close waits for the linger time, and each close for its own`() throws {
        let station = try Station(receiverMemory: 4096) { $0.linger = 2_000_000_000 }
        let stream = station.device.streams.open()
        try station.fillReceiver()
        station.write(pattern(100), stream)
        let first = station.barrier(stream, .close)
        station.advance(milliseconds: 500)
        let second = station.barrier(stream, .close)
        let sync = station.barrier(stream)
        station.advance(milliseconds: 1499)
        #expect(station.outcome(first) == nil)
        station.advance(milliseconds: 1)
        #expect(try station.wait(first) == .init(status: .ioTimeout, cause: .stillSending))
        #expect(station.outcome(second) == nil)
        station.advance(milliseconds: 500)
        #expect(try station.wait(second) == .init(status: .ioTimeout, cause: .stillSending))
        #expect(station.outcome(sync) == nil)
        try station.set("fault", "none")
        #expect(try station.wait(sync).status == .success)
        #expect(station.counter("tx_lost_bytes_total") == 0 && station.counter("tx_timeouts_total") == 2)
        station.expectBalance()
    }

    // MARK: A full receiver

    /// Fills the far end and the ring, until a write has to wait. Answers the bytes accepted and the write.
    private func congest(
        _ station: Station,
        _ stream: UnsafeMutablePointer<StreamRecord>?
    ) throws -> (accepted: Int, waiting: Station.Request) {
        try station.fillReceiver()
        var accepted = 8192
        // The driver must have seen all the card did, or it sees progress when the time has been moved.
        repeat {
            while station.readiness(0) != 0 {
                #expect(try station.wait(station.write(pattern(20_000), stream)).status == .success)
                accepted += 20_000
            }
            #expect(eventually { station.isOutOfCredit })
        } while station.readiness(0) != 0
        return (accepted, station.write(pattern(20_000), stream))
    }

    @Test func `a full receiver expires those who wait, and keeps what was accepted`() throws {
        let station = try Station(receiverMemory: 4096) { $0.transmitTimeout = 10_000_000_000 }
        let stream = station.device.streams.open()
        let (accepted, current) = try congest(station, stream)
        let queued = station.write(pattern(20_000), stream)
        let barrier = station.barrier(stream)
        station.advance(milliseconds: 9_999)
        #expect(station.readiness(0) == 0)
        #expect([current, queued, barrier].allSatisfy { station.outcome($0) == nil })
        station.advance(milliseconds: 1)
        for request in [current, queued, barrier] {
            #expect(try station.wait(request) == .init(status: .ioTimeout, cause: .receiverFull))
        }
        #expect(station.counter("tx_timeouts_total") == 3 && station.counter("tx_lost_bytes_total") == 0)
        #expect(station.counter("tx_accepted_bytes_total") == accepted)
        try station.set("fault", "none")
        #expect(try station.collect(accepted, by: 1 << 20).count == accepted)
        #expect(try station.wait(station.write(pattern(10), stream)).status == .success)
        #expect(try station.wait(station.barrier(stream)).status == .success)
        station.expectBalance()
    }

    @Test func `time begins anew with every bit of progress`() throws {
        let station = try Station(receiverMemory: 4096) { $0.transmitTimeout = 10_000_000_000 }
        let (_, waiting) = try congest(station, nil)
        station.advance(milliseconds: 9_000)
        try station.set("fault", "none")
        #expect(try station.wait(waiting).status == .success)
        try station.set("fault", "hang-rx")
        let (_, second) = try congest(station, nil)
        station.advance(milliseconds: 9_000)
        #expect(station.readiness(0) == 0 && station.outcome(second) == nil)
        station.advance(milliseconds: 1_000)
        #expect(try station.wait(second).cause == .receiverFull)
    }

    @Test func `with tx_timeout 0 a write waits for ever`() throws {
        let station = try Station(receiverMemory: 4096) { $0.transmitTimeout = 0 }
        let (_, waiting) = try congest(station, nil)
        station.advance(milliseconds: 1_000_000_000)
        #expect(station.readiness(0) == 0 && station.outcome(waiting) == nil)
        try station.set("fault", "none")
        #expect(try station.wait(waiting).status == .success)
    }

    @Test func `writes that wait go out in the order they came`() throws {
        let station = try Station(receiverMemory: 4096)
        let (accepted, first) = try congest(station, nil)
        let rest = (1..<5).map { station.write(pattern(20_000, seed: $0)) }
        try station.set("fault", "none")
        let bytes = try station.collect(accepted + 100_000, by: 1 << 20)
        // What counts is the wire: two threads may tell of two ends at the same time.
        for write in [first] + rest { #expect(try station.wait(write).status == .success) }
        #expect(Array(bytes[(accepted + 20_000)...]) == (1..<5).flatMap { pattern(20_000, seed: $0) })
        station.expectBalance()
    }

    @Test func `a link that is down holds what was accepted until it is up`() throws {
        let station = try Station { $0.transmitTimeout = 1_000_000_000 }
        try station.set("link", "down")
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream)
        station.advance(milliseconds: 1000)
        #expect(try station.wait(barrier) == .init(status: .ioTimeout, cause: .linkDown))
        try station.set("link", "up")
        #expect(try station.wait(station.barrier(stream)).status == .success)
        #expect(try station.collect(100, by: 100) == pattern(100))
        station.expectBalance()
    }

    // MARK: Signals

    @Test func `a signal takes back a write that waits for room, and the next one goes on`() throws {
        let station = try Station(receiverMemory: 4096)
        let (accepted, current) = try congest(station, nil)
        let queued = station.write(pattern(20_000, seed: 5))
        let last = station.write(pattern(20_000, seed: 6))
        #expect(station.cancel(queued) == .claimed)
        #expect(station.cancel(current) == .claimed)
        for request in [queued, current] {
            #expect(try station.wait(request) == .init(status: .cancelled, cause: .interrupted))
        }
        #expect(station.outcome(last) == nil)
        try station.set("fault", "none")
        #expect(try station.wait(last).status == .success)
        let bytes = try station.collect(accepted + 20_000, by: 1 << 20)
        #expect(Array(bytes[accepted...]) == pattern(20_000, seed: 6))
        station.expectBalance()
    }

    @Test func `a signal takes back a barrier, and not the bytes`() throws {
        let station = try Station(receiverMemory: 4096)
        let stream = station.device.streams.open()
        try station.fillReceiver()
        station.write(pattern(100), stream)
        let requests = [station.barrier(stream), station.barrier(stream, .close), station.barrier(stream)]
        #expect(station.cancel(requests[1]) == .claimed && station.cancel(requests[0]) == .claimed)
        for request in requests[..<2] { #expect(try station.wait(request).status == .cancelled) }
        try station.set("fault", "none")
        #expect(try station.wait(requests[2]).status == .success)
        station.expectBalance()
    }

    @Test func `a synchronous write that is interrupted has written its bytes`() throws {
        let station = try Station(receiverMemory: 4096)
        try station.fillReceiver()
        let write = station.write(pattern(100), nil, .synchronous)
        #expect(station.cancel(write) == .claimed)
        #expect(try station.wait(write).information == 100)
        try station.set("fault", "none")
        #expect(try station.collect(8292, by: 1 << 20).count == 8292)
        station.expectBalance()
    }

    @Test func `a signal that comes first ends what would have to wait, and not what is done at once`() throws {
        let station = try Station(receiverMemory: 4096)
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(10), stream, cancelled: true)).status == .success)
        _ = try congest(station, stream)
        #expect(try station.wait(station.write(pattern(20_000), stream, cancelled: true)).status == .cancelled)
        #expect(try station.wait(station.barrier(stream, cancelled: true)).status == .cancelled)
        #expect(try station.wait(station.barrier(stream, .close, cancelled: true)).status == .cancelled)
    }

    @Test func `signals and the card race for parked writes: each ends once and is counted right`() throws {
        let station = try Station(receiverMemory: 65_536)
        try station.set("wire", "sink")
        try station.set("rate", "4M")
        let stream = station.device.streams.open()
        var accepted = 0
        var cancelled = 0
        var waiting: [Station.Request] = []
        for index in 0..<200 {
            waiting.append(station.write(pattern(20_000), stream))
            if index % 3 == 0 { waiting.append(station.barrier(stream)) }
            if waiting.count > 6 { station.cancel(waiting[waiting.count - 1 - index % 4]) }
            while waiting.count > 12 {
                let outcome = try station.wait(waiting.removeFirst())
                accepted += outcome.information
                if outcome.status == .cancelled { cancelled += 1 }
                #expect(outcome.status == .success || outcome.status == .cancelled)
            }
        }
        for request in waiting { accepted += try station.wait(request).information }
        #expect(try station.wait(station.barrier(stream)).status == .success)
        // How many signals came first is the machine's business: none, when it is busy and the card is always ahead.
        #expect(station.counter("tx_sent_bytes_total") == accepted && cancelled < 200)
        #expect(station.get("received").hasPrefix("bytes \(accepted)\n"))
        station.expectBalance()
    }
}
