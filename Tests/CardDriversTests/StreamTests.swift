import CHardware
import DriverCore
import PCIBus
import Synchronization
import Testing

@Suite(.timeLimit(.minutes(10))) struct StreamTests {
    static let sizes = [
        1, 2, 3, 4, 5, 4095, 4096, 4097, 16_383, 16_384, 32_767, 32_768, 32_769, 61_440, 61_441, 65_535, 65_536,
        1 << 20,
    ]

    @Test(arguments: sizes, [0, 4, 4092])
    func `what is written is read`(size: Int, offset: Int) throws {
        let station = try Station()
        let bytes = pattern(size, seed: offset)
        let stream = station.device.streams.open()
        let written = try station.wait(station.write(bytes, stream, offset: offset))
        #expect(written == .init(status: .success, information: size))
        #expect(try station.collect(size, by: 1 << 20) == bytes)
        #expect(try station.wait(station.barrier(stream)).status == .success)
        station.expectBalance()
    }

    @Test(arguments: [
        (1000, 50, 333), (100, 200, 4096), (1, 300, 100), (70_000, 20, 1 << 20), (32_768, 40, 65_536),
        (50_000, 20, 7777),
    ])
    func `reads cut the stream where they like`(size: Int, count: Int, readSize: Int) throws {
        let station = try Station()
        let bytes = pattern(size * count)
        let writer = Thread(name: "writer") {
            for index in 0..<count {
                let request = station.write(Array(bytes[index * size..<(index + 1) * size]))
                #expect(eventually { station.outcome(request) != nil })
            }
        }
        #expect(try station.collect(size * count, by: readSize) == bytes)
        writer.join()
        station.expectBalance()
        #expect(station.counter("rx_read_bytes_total") == size * count)
        #expect(station.counter("rx_packets_total") == count)
    }

    @Test(arguments: [RequestFlags.direct, []] as [RequestFlags])
    func `small requests are copied, large and direct ones are not`(flags: RequestFlags) throws {
        let station = try Station()
        let isDirect = flags.contains(.direct)
        _ = try station.wait(station.write(pattern(100), nil, flags))
        #expect(
            station.dma.lastPlan.isBuffered == !isDirect
                && station.dma.lastPlan.memory == (isDirect ? .request : .system)
        )
        station.advance(milliseconds: 1)
        #expect(try station.wait(station.read(100, flags)).bytes == pattern(100))
        #expect(station.dma.lastPlan.isBuffered == !isDirect && station.dma.lastPlan.direction == .fromDevice)
        #expect(station.dma.lastPlan.memory == (isDirect ? .ring : .system))
        station.advance(milliseconds: 1)
        _ = try station.wait(station.write(pattern(20_000), nil, flags))
        #expect(
            !station.dma.lastPlan.isBuffered && station.dma.lastPlan.pages == 5 && station.dma.lastPlan.elements == 1
        )
        #expect(station.dma.lastPlan.mapRegisters == 0 && station.dma.lastPlan.bouncedBytes == 0)
        station.advance(milliseconds: 1)
        #expect(try station.wait(station.read(20_000, flags)).bytes == pattern(20_000))
        #expect(!station.dma.lastPlan.isBuffered && station.dma.lastPlan.memory == .ring)
        station.expectBalance()
    }

    @Test func `a read that is not full returns 10 ms after the last byte, not before`() throws {
        let station = try Station()
        let read = station.read(1000)
        station.write(pattern(100))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 100 })
        station.advance(milliseconds: 9)
        station.write(pattern(50, seed: 100))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 150 })
        station.advance(milliseconds: 9)
        // A nonblocking read behind it sees that nothing was taken; it is the first's turn.
        #expect(station.outcome(read) == nil)
        station.advance(milliseconds: 1)
        #expect(try station.wait(read).bytes == pattern(150))
        station.expectBalance()
    }

    @Test func `a read that is full returns at once`() throws {
        let station = try Station()
        let read = station.read(100)
        station.write(pattern(60))
        station.write(pattern(60, seed: 60))
        #expect(try station.wait(read).bytes == pattern(100))
        #expect(try station.wait(station.read(20)).bytes == Array(pattern(120)[100...]))
    }

    @Test func `many packets of one byte reach one large reader, though each takes a slot of the ring`() throws {
        let station = try Station()
        let read = station.read(2000)
        let bytes = pattern(2000)
        for byte in bytes { #expect(try station.wait(station.write([byte])).status == .success) }
        #expect(try station.wait(read).bytes == bytes)
        station.expectBalance()
    }

    @Test func `a crowded ring is answered without waiting for the gather time`() throws {
        let station = try Station()
        let bytes = pattern(200)
        for byte in bytes { #expect(try station.wait(station.write([byte])).status == .success) }
        #expect(eventually { station.counter("rx_arrived_bytes_total") >= 100 })
        #expect(try station.collect(200, by: 1 << 20) == bytes)
        station.expectBalance()
    }

    @Test func `readers get their bytes in the order they came`() throws {
        let station = try Station()
        let reads = (0..<5).map { _ in station.read(10) }
        station.write(pattern(50))
        for (index, read) in reads.enumerated() {
            #expect(try station.wait(read).bytes == Array(pattern(50)[index * 10..<index * 10 + 10]))
        }
        #expect(station.order(of: reads) == [0, 1, 2, 3, 4])
    }

    @Test func `several writers and readers at a time lose nothing and mix no request`() throws {
        let station = try Station()
        let pieces = 60
        let size = 40_000
        // Each request is filled with one value, and reads are a whole request long: a mixture would show.
        let writers = (0..<2).map { writer in
            Thread(name: "writer") {
                let stream = station.device.streams.open()
                for index in 0..<pieces {
                    let request = station.write([UInt8](repeating: UInt8(writer << 7 | index), count: size), stream)
                    #expect(eventually { station.outcome(request)?.status == .success })
                }
            }
        }
        let lock = Lock()
        defer { lock.destroy() }
        nonisolated(unsafe) var seen: [[UInt8]] = []
        let readers = (0..<2).map { _ in
            Thread(name: "reader") {
                for _ in 0..<pieces {
                    let request = station.read(size)
                    guard eventually({ station.outcome(request) != nil }) else { return }
                    lock.locked { seen.append(station.outcome(request)!.bytes) }
                }
            }
        }
        for thread in writers + readers { thread.join() }
        #expect(seen.count == 2 * pieces && seen.allSatisfy { $0.count == size && Set($0).count == 1 })
        #expect(
            seen.compactMap(\.first).sorted()
                == (0..<2).flatMap { writer in (0..<pieces).map { UInt8(writer << 7 | $0) } }.sorted()
        )
        station.expectBalance()
    }

    // MARK: Nonblocking and poll

    @Test func `a nonblocking read takes what is there, or fails`() throws {
        let station = try Station()
        #expect(try station.wait(station.read(10, .nonblocking)) == .init(status: .deviceBusy, cause: .wouldBlock))
        station.write(pattern(30))
        #expect(eventually { station.readiness(1) != 0 })
        #expect(try station.wait(station.read(10, .nonblocking)).bytes == Array(pattern(30)[..<10]))
        #expect(try station.wait(station.read(100, .nonblocking)).bytes == Array(pattern(30)[10...]))
        #expect(station.readiness(1) == 0)
        #expect(try station.wait(station.read(10, .nonblocking)).status == .deviceBusy)
    }

    @Test func `a nonblocking write fails when there is no room, and stores nothing`() throws {
        let station = try Station(receiverMemory: 4096)
        try station.fillReceiver()
        var accepted = 8192
        while station.readiness(0) != 0 {
            let outcome = try station.wait(station.write(pattern(20_000), nil, .nonblocking))
            #expect(outcome.status == .success)
            accepted += 20_000
        }
        let refused = try station.wait(station.write(pattern(20_000), nil, .nonblocking))
        #expect(refused == .init(status: .deviceBusy, cause: .wouldBlock))
        #expect(station.counter("tx_accepted_bytes_total") == accepted)
        try station.set("fault", "none")
        #expect(try station.collect(accepted, by: 1 << 20).count == accepted)
        #expect(station.readiness(0) == UInt32(POLLOUT | POLLWRNORM))
        station.expectBalance()
    }

    @Test func `an empty write is a success that sends nothing`() throws {
        let station = try Station()
        #expect(try station.wait(station.write([])) == .init(status: .success))
        #expect(station.counter("tx_requests_total") == 0 && station.get("received").contains("packets 0\n"))
        station.expectBalance()
    }

    // MARK: Time and signals

    @Test func `a read of a silent card ends after rx_timeout, and one without it never`() throws {
        let station = try Station { $0.receiveTimeout = 5_000_000_000 }
        let read = station.read(10)
        station.advance(milliseconds: 4999)
        let probe = station.read(10, .nonblocking)
        #expect(try station.wait(probe).status == .deviceBusy)
        #expect(station.outcome(read) == nil)
        station.advance(milliseconds: 1)
        #expect(try station.wait(read) == .init(status: .ioTimeout, cause: .noData))
        #expect(station.counter("rx_timeouts_total") == 1)
        let patient = try Station()
        let waiting = patient.read(10)
        patient.advance(milliseconds: 1_000_000_000)
        patient.write(pattern(10))
        #expect(try patient.wait(waiting).bytes == pattern(10))
    }

    @Test func `a signal takes a parked read back, and its bytes are the next reader's`() throws {
        let station = try Station()
        let first = station.read(100)
        let second = station.read(40)
        station.write(pattern(40))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 40 })
        #expect(station.cancel(first) == .claimed)
        #expect(try station.wait(first) == .init(status: .cancelled, cause: .interrupted))
        #expect(try station.wait(second).bytes == pattern(40))
        #expect(station.cancel(first) == .gone && station.cancel(second) == .gone)
        station.expectBalance()
    }

    @Test func `a signal that comes before the driver has the read ends it at once`() throws {
        let station = try Station()
        #expect(try station.wait(station.read(10, cancelled: true)) == .init(status: .cancelled, cause: .interrupted))
        station.expectBalance()
    }

    @Test func `a reader that has gathered bytes from a crowded ring gets them when it is interrupted`() throws {
        let station = try Station()
        let read = station.read(1 << 20)
        let bytes = pattern(300)
        for byte in bytes { #expect(try station.wait(station.write([byte])).status == .success) }
        // Some are in the reader's own memory, for the ring has fewer slots; the rest waits.
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 300 })
        // The driver may just be copying for it: then it finds the signal when it has done that.
        #expect(station.cancel(read) != .gone)
        let got = try station.wait(read).bytes
        #expect(got.count >= 100 && got == Array(bytes[..<got.count]))
        #expect(try station.collect(300 - got.count, by: 1000) == Array(bytes[got.count...]))
        station.expectBalance()
    }

    @Test func `signals and data race for parked reads: each ends once and no byte is lost`() throws {
        let station = try Station()
        let total = 3000
        let done = Atomic<Bool>(false)
        nonisolated(unsafe) let isDone = { done.load(ordering: .acquiring) }
        let writer = Thread(name: "writer") {
            for index in 0..<total {
                let request = station.write([UInt8(truncatingIfNeeded: index &* 7)])
                guard eventually({ station.outcome(request) != nil }) else { return }
            }
        }
        var bytes: [UInt8] = []
        var cancelled = 0
        while bytes.count < total, !isDone() {
            let request = station.read(1)
            if station.cancel(request) == .claimed { cancelled += 1 }
            let outcome = try station.wait(request)
            #expect(outcome.status == .success || outcome.status == .cancelled)
            bytes += outcome.bytes
        }
        writer.join()
        #expect(bytes == (0..<total).map { UInt8(truncatingIfNeeded: $0 &* 7) })
        #expect(cancelled > 0)
        station.expectBalance()
    }
}
