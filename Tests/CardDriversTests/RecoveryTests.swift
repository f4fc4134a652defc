import CHardware
import DriverCore
import PCIBus
import Testing

/// A card that does not go on: stuck, cut off from memory, reset, stopped.
@Suite(.timeLimit(.minutes(10))) struct RecoveryTests {
    /// A station whose transmitter is to be given up after a second.
    private func station() throws -> Station { try Station { $0.transmitTimeout = 1_000_000_000 } }

    /// The file's later calls are told of the loss, every time, and another file is not.
    private func expectLoss(
        _ station: Station,
        _ stream: UnsafeMutablePointer<StreamRecord>,
        _ status: Status,
        _ cause: FailureCause
    ) throws {
        for _ in 0..<2 {
            let told = Station.Outcome(status: status, cause: cause)
            #expect(try station.wait(station.write(pattern(10), stream)) == told)
            #expect(try station.wait(station.barrier(stream)) == told)
            #expect(try station.wait(station.barrier(stream, .close)) == told)
        }
    }

    /// The card works: bytes in are bytes out, through a file of its own.
    private func expectWorking(_ station: Station) throws {
        let stream = station.device.streams.open()
        _ = try? station.collectAll()
        for size in [1, 5000, 200_000] {
            #expect(try station.wait(station.write(pattern(size), stream)).status == .success)
            #expect(try station.collect(size, by: 1 << 20) == pattern(size))
        }
        #expect(try station.wait(station.barrier(stream)).status == .success)
        station.device.streams.close(stream)
        station.expectBalance()
    }

    @Test func `a transmitter that is stuck is aborted, and the loss is told to its file`() throws {
        let station = try station()
        let stream = station.device.streams.open()
        try station.set("fault", "hang-tx")
        let synchronous = station.write(pattern(50), stream, .synchronous)
        #expect(try station.wait(station.write(pattern(20_000), stream)).status == .success)
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream)
        station.advance(milliseconds: 999)
        #expect(station.readiness(0) != 0 && station.outcome(barrier) == nil)
        station.advance(milliseconds: 1)
        #expect(try station.wait(barrier) == .init(status: .ioTimeout, cause: .stuck))
        #expect(try station.wait(synchronous) == .init(status: .ioTimeout, cause: .stuck))
        #expect(station.counter("tx_lost_bytes_total") == 20_150 && station.counter("tx_recoveries_total") == 1)
        #expect(stream.pointee.lost?.byteCount == 20_150)
        try station.set("fault", "none")
        try expectLoss(station, stream, .ioTimeout, .stuck)
        try expectWorking(station)
        #expect(eventually { station.device.lastTransferFailure != nil })
        let failure = try #require(station.device.lastTransferFailure)
        #expect(failure.bytesLost == 20_150 && failure.status == .ioTimeout && failure.stage == "data")
    }

    @Test func `what was lost is still told when the end of the lost packet is not taken either`() throws {
        let station = try station()
        try station.set("fault", "hang-tx")
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        for recoveries in 1...3 {
            station.advance(milliseconds: 1000)
            #expect(eventually { station.counter("tx_recoveries_total") >= UInt64(recoveries) })
        }
        #expect(eventually { station.device.lastTransferFailure != nil })
        #expect(station.device.lastTransferFailure?.bytesLost == 100)
        try station.set("fault", "none")
        try expectWorking(station)
    }

    @Test func `a write that waits behind lost bytes of its file is told of the loss`() throws {
        let station = try station()
        let mine = station.device.streams.open()
        let other = station.device.streams.open()
        try station.set("fault", "hang-tx")
        while station.readiness(0) != 0 { _ = try station.wait(station.write(pattern(20_000), mine)) }
        let waiting = [station.write(pattern(20_000), mine), station.write(pattern(20_000), mine)]
        let stranger = station.write(pattern(20_000, seed: 9), other)
        station.advance(milliseconds: 1000)
        for request in waiting {
            #expect(try station.wait(request) == .init(status: .ioTimeout, cause: .stuck))
        }
        #expect(try station.wait(stranger).status == .success)
        try station.set("fault", "none")
        #expect(try station.collect(20_000, by: 1 << 20) == pattern(20_000, seed: 9))
        station.expectBalance()
    }

    @Test func `a file that was closed is not told, nor is the next one with its record`() throws {
        let station = try station()
        let stream = station.device.streams.open()
        try station.set("fault", "hang-tx")
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        station.device.streams.close(stream)
        let next = station.device.streams.open()
        #expect(next == stream)
        station.advance(milliseconds: 1000)
        #expect(eventually { station.counter("tx_lost_bytes_total") == 100 })
        try station.set("fault", "none")
        #expect(try station.wait(station.write(pattern(10), next)).status == .success)
        #expect(next.pointee.lost == nil)
        station.expectBalance()
    }

    @Test func `a packet that was cut off is closed with EEP, and the next one is whole`() throws {
        let station = try Station(receiverMemory: 4096, framing: .packet) { $0.transmitTimeout = 1_000_000_000 }
        try station.set("fault", "hang-rx")
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(20_000), stream)).status == .success)
        #expect(eventually { station.get("received").hasPrefix("bytes 4096\n") })
        station.dma.flush()
        // What the far end has is sent.
        #expect(station.counter("tx_lost_bytes_total") == 20_000 - 4096)
        try station.set("fault", "none")
        #expect(try station.wait(station.write(pattern(10, seed: 3))).status == .success)
        #expect(try station.wait(station.read(1 << 20)).bytes == pattern(4096))
        #expect(station.dma.lastPacketEnd == .eep)
        #expect(try station.wait(station.read(1 << 20)).bytes == pattern(10, seed: 3))
        #expect(station.dma.lastPacketEnd == .eop)
        station.expectBalance()
    }

    @Test func `without bus mastering nothing is fetched, which is told and overcome`() throws {
        let station = try station()
        let stream = station.device.streams.open()
        try station.function.changeCommand(clear: .busMaster)
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream)
        station.advance(milliseconds: 1000)
        #expect(try station.wait(barrier) == .init(status: .ioTimeout, cause: .busMasterOff))
        try station.function.changeCommand(set: .busMaster)
        try expectLoss(station, stream, .ioTimeout, .busMasterOff)
        try expectWorking(station)
    }

    @Test func `an address without translation is a bus error, told and overcome`() throws {
        let station = try station()
        let stream = station.device.streams.open()
        let arena = try #require(station.device.arenaBuffer)
        try station.function.unmapDMA(at: arena.logicalAddress, byteCount: arena.memory.byteCount)
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        #expect(eventually { station.counter("bus_errors_total") > 0 && station.counter("tx_lost_bytes_total") == 100 })
        #expect(!station.get("iommu").contains("faults 0\n"))
        try station.function.mapDMA(
            arena.base,
            byteCount: arena.memory.byteCount,
            at: arena.logicalAddress,
            access: [.read, .write]
        )
        try expectLoss(station, stream, .ioDeviceError, .busError)
        try expectWorking(station)
        #expect(station.device.lastTransferFailure?.status == .ioDeviceError)
    }

    @Test func `a card that left the bus loses what it had`() throws {
        let station = try station()
        let stream = station.device.streams.open()
        try station.set("fault", "gone")
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream)
        station.advance(milliseconds: 1000)
        #expect(try station.wait(barrier).cause == .gone)
        #expect(station.counter("tx_lost_bytes_total") == 100)
        station.expectBalance()
    }

    // MARK: Commands

    @Test func `flush aborts what was not sent and discards what was not read`() throws {
        let station = try Station(receiverMemory: 4096)
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(1000), stream)).status == .success)
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 1000 })
        try station.fillReceiver()
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        let barrier = station.barrier(stream)
        station.dma.flush()
        #expect(try station.wait(barrier) == .init(status: .requestAborted, cause: .discarded))
        #expect(station.counter("rx_discarded_bytes_total") == 1000)
        #expect(station.counter("tx_lost_bytes_total") > 0)
        try expectLoss(station, stream, .requestAborted, .discarded)
        // What the far end would not give comes now, and is discarded by a second flush.
        try station.set("fault", "none")
        station.dma.flush()
        try expectWorking(station)
    }

    @Test func `flush of a card that is idle loses nothing`() throws {
        let station = try Station()
        let stream = station.device.streams.open()
        #expect(try station.wait(station.write(pattern(100), stream)).status == .success)
        #expect(try station.collect(100, by: 100) == pattern(100))
        let read = station.read(10)
        station.dma.flush()
        #expect(station.outcome(read) == nil && station.device.lastTransferFailure == nil)
        #expect(try station.wait(station.write(pattern(10), stream)).status == .success)
        #expect(try station.wait(read).bytes == pattern(10))
        station.expectBalance()
    }

    @Test func `a reset ends what was under way with an error, keeps what waits, and the card works again`() throws {
        let station = try Station(receiverMemory: 4096)
        let stream = station.device.streams.open()
        let other = station.device.streams.open()
        try station.fillReceiver()
        while station.readiness(0) != 0 { _ = try station.wait(station.write(pattern(20_000), stream)) }
        let read = station.read(1 << 20)
        let barrier = station.barrier(stream)
        let told = station.write(pattern(20_000), stream)
        let waiting = station.write(pattern(20_000, seed: 8), other)
        try station.device.reset()
        #expect(try station.wait(barrier) == .init(status: .requestAborted, cause: .discarded))
        #expect(try station.wait(told) == .init(status: .requestAborted, cause: .discarded))
        try station.set("fault", "none")
        #expect(try station.wait(waiting).status == .success)
        // What the far end had got before goes to the reader first.
        var bytes: [UInt8] = []
        var next: Station.Request? = read
        while bytes.suffix(20_000) != pattern(20_000, seed: 8)[...] {
            let request = next ?? station.read(1 << 20)
            next = nil
            try #require(
                eventually {
                    station.advance(milliseconds: 1)
                    return station.outcome(request) != nil
                }
            )
            bytes += station.outcome(request)!.bytes
            try #require(bytes.count < 1 << 21)
        }
        try expectLoss(station, stream, .requestAborted, .discarded)
        try expectWorking(station)
    }

    @Test func `requests to a card that is stopped wait, and go on when it is started`() throws {
        let station = try Station { $0.transmitTimeout = 1_000_000_000 }
        try station.device.stop()
        #expect(try station.wait(station.read(10, .nonblocking)).status == .deviceBusy)
        #expect(try station.wait(station.write(pattern(10), nil, .nonblocking)).status == .deviceBusy)
        let write = station.write(pattern(10))
        let read = station.read(10)
        let cancelled = station.read(10)
        #expect(station.cancel(cancelled) == .claimed)
        station.advance(milliseconds: 100_000)
        #expect(station.outcome(write) == nil && station.outcome(read) == nil)
        try station.device.start()
        #expect(try station.wait(write).status == .success)
        #expect(try station.wait(read).bytes == pattern(10))
        station.expectBalance()
    }

    @Test func `what waits through a stop still has its timeout after the start`() throws {
        let station = try Station(receiverMemory: 4096) { $0.transmitTimeout = 1_000_000_000 }
        try station.device.stop()
        let writes = (0..<20).map { _ in station.write(pattern(20_000)) }
        station.advance(milliseconds: 10_000)
        try station.set("fault", "hang-rx")
        try station.device.start()
        #expect(try station.wait(writes[0]).status == .success)
        #expect(station.outcome(writes[19]) == nil)
        // The card has sent what the far end takes, and shows that it may not send more.
        let window = try station.function.map(bar: 0)
        #expect(eventually { window.load32(0x10c) & 1 != 0 })
        station.advance(milliseconds: 1_000)
        #expect(try station.wait(writes[19]) == .init(status: .ioTimeout, cause: .receiverFull))
        try station.set("fault", "none")
        station.expectBalance()
    }

    @Test func `writers, readers, flushes, resets and timeouts at the same time account for every byte`() throws {
        let station = try Station(receiverMemory: 65_536) { $0.transmitTimeout = 2_000_000 }
        let writers = (0..<2).map { writer in
            Thread(name: "writer") {
                for index in 0..<150 {
                    let stream = station.device.streams.open()
                    let requests = [
                        station.write(pattern(index * 37 % 40_000 + 1), stream, index % 7 == 0 ? .synchronous : []),
                        station.barrier(stream, .close),
                    ]
                    if index % 5 == writer { station.cancel(requests[0]) }
                    for request in requests { #expect(eventually { station.outcome(request) != nil }) }
                    station.device.streams.close(stream)
                }
            }
        }
        let reader = Thread(name: "reader") {
            for _ in 0..<400 { station.cancel(station.read(30_000)) }
        }
        let timer = Thread(name: "timer") {
            for _ in 0..<200 {
                station.advance(milliseconds: 1)
                usleep(1000)
            }
        }
        for round in 0..<6 {
            usleep(20_000)
            switch round % 3 {
            case 0: try station.device.reset()
            case 1: station.dma.flush()
            default:
                try station.set("fault", "hang-tx")
                usleep(3000)
                try station.set("fault", "none")
            }
        }
        try station.set("wire", "sink")
        for thread in writers + [reader, timer] { thread.join() }
        station.expectBalance()
        try station.set("wire", "loopback")
        station.dma.flush()
        try expectWorking(station)
    }
}

extension Station {
    /// Reads away what is there.
    func collectAll() throws -> [UInt8] {
        var bytes: [UInt8] = []
        while true {
            let outcome = try wait(read(1 << 20, .nonblocking))
            if outcome.status != .success { return bytes }
            bytes += outcome.bytes
        }
    }
}
