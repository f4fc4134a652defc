import CHardware
import CardDrivers
import DriverCore
import Glibc
import PCIBus
import Testing

/// A station with an edu.
final class EduStation {
    let station: Station
    let model: EduModel

    init(
        _ version: EduModel.Version = .old,
        framing: Framing = .stream,
        policy change: (inout TransferPolicy) -> Void = { _ in }
    ) throws {
        var made: EduModel?
        station = try Station(
            framing: framing,
            driver: EduDriver.self,
            policy: change,
            function: { clock in
                let model = EduModel(version, clock: clock)
                made = model
                return model
            }
        )
        model = try #require(made)
    }

    /// Lets the transfer that runs end.
    func endTransfer() {
        #expect(eventually { model.isMoving })
        station.advance(milliseconds: 100)
        model.tick()
    }

    /// Ends transfers, one after the other, until the requests have ended.
    func wait(_ requests: [Station.Request]) throws -> [Station.Outcome] {
        let isOver = eventually {
            if model.isMoving {
                station.advance(milliseconds: 100)
                model.tick()
            }
            return requests.allSatisfy { station.outcome($0) != nil }
        }
        try #require(isOver)
        return requests.map { station.outcome($0)! }
    }

    func wait(_ request: Station.Request) throws -> Station.Outcome { try wait([request])[0] }

    /// Moves time until the driver has looked and the request has ended.
    func waitInTime(_ request: Station.Request, limit milliseconds: UInt64) throws -> Station.Outcome {
        let end = station.clock.now() + milliseconds * 1_000_000
        let isOver = eventually {
            if station.outcome(request) == nil {
                // The driver's thread may have set its timer late; from there on time goes on slowly.
                let isLate = station.clock.now() >= end
                if isLate { usleep(1000) }
                station.advance(milliseconds: isLate ? 1 : 10)
            }
            return station.outcome(request) != nil
        }
        try #require(isOver)
        return station.outcome(request)!
    }

    func write(_ bytes: [UInt8], _ flags: RequestFlags = []) throws -> Station.Outcome {
        try wait(station.write(bytes, nil, flags))
    }

    func read(_ count: Int, _ flags: RequestFlags = []) throws -> Station.Outcome {
        try wait(station.read(count, flags))
    }

    /// Nothing the card was told would have hurt the original.
    func expectHarmless(_ location: SourceLocation = #_sourceLocation) {
        let seen = model.seen
        #expect(seen.violations.isEmpty && seen.clamped == 0 && !seen.isStorming, sourceLocation: location)
        #expect(model.isBeyondIntact, sourceLocation: location)
        #expect(station.device.pool.pointee.droppedCount == 0, sourceLocation: location)
        #expect(eventually { station.device.pool.pointee.inUse == 0 }, sourceLocation: location)
    }
}

@Suite(.timeLimit(.minutes(5))) struct EduTests {
    private let full = 4095

    // MARK: Data

    @Test(arguments: EduModel.Version.allCases)
    func `what is written comes back, whatever its size`(version: EduModel.Version) throws {
        let edu = try EduStation(version)
        for size in [1, 2, 3, 4, 5, 63, 64, 65, 1000, 2048, 4094, 4095] {
            let bytes = pattern(size, seed: size)
            #expect(try edu.write(bytes) == .init(status: .success, information: size))
            #expect(edu.model.contents(size) == bytes)
            let outcome = try edu.read(size)
            #expect(outcome.status == .success && outcome.bytes == bytes)
        }
        edu.expectHarmless()
    }

    @Test func `a write longer than the buffer goes through it in pieces while somebody reads`() throws {
        let edu = try EduStation()
        let bytes = pattern(65536)
        let write = edu.station.write(bytes)
        var got: [UInt8] = []
        while got.count < bytes.count { got += try edu.read(min(full, bytes.count - got.count)).bytes }
        #expect(got == bytes)
        #expect(try edu.wait(write) == .init(status: .success, information: bytes.count))
        edu.expectHarmless()
    }

    @Test(arguments: 0..<8)
    func `any order of writes and reads keeps every byte in order and stays inside the buffer`(seed: Int) throws {
        var random = Generator(state: UInt64(seed) &* 0x9e37_79b9_7f4a_7c15 | 1)
        let edu = try EduStation(EduModel.Version.allCases[seed % 3])
        var there: [UInt8] = []
        for round in 0..<60 {
            if there.count < full, Bool.random(using: &random) {
                let bytes = pattern(Int.random(in: 1...min(1500, full - there.count), using: &random), seed: round)
                let outcome = try edu.write(bytes, .nonblocking)
                // The end of the buffer may be nearer than the free bytes: those in front are used once it is empty.
                if outcome.status == .deviceBusy { continue }
                there += bytes.prefix(outcome.information)
            } else if !there.isEmpty {
                let count = Int.random(in: 1...there.count, using: &random)
                let outcome = try edu.read(count)
                #expect(outcome.bytes == Array(there.prefix(count)))
                there.removeFirst(count)
            }
        }
        edu.expectHarmless()
    }

    @Test(arguments: [UInt8(0xa5), 0x5a, 0x00, 0xff])
    func `data that looks like a mark in memory is data`(byte: UInt8) throws {
        let edu = try EduStation()
        let bytes = [UInt8](repeating: byte, count: 100)
        #expect(try edu.write(bytes).status == .success)
        #expect(try edu.read(100).bytes == bytes)
    }

    @Test func `a read gets what is there when nothing more comes for the gather time`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(10)).status == .success)
        let read = edu.station.read(1000)
        edu.endTransfer()
        #expect(edu.station.outcome(read) == nil)
        #expect(try edu.waitInTime(read, limit: 300).bytes == pattern(10))
    }

    @Test func `two small writes lie one behind the other and are read as one stream`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(10)).status == .success)
        #expect(try edu.write(pattern(20, seed: 9)).status == .success)
        #expect(try edu.read(30).bytes == pattern(10) + pattern(20, seed: 9))
    }

    @Test func `packets are kept apart, and the rest of one that is longer than a read comes next`() throws {
        let edu = try EduStation(framing: .packet)
        let second = edu.station.write(pattern(7, seed: 1))
        let third = edu.station.write(pattern(9, seed: 2))
        #expect(try edu.wait(second).information == 7)
        #expect(try edu.read(4).bytes == Array(pattern(7, seed: 1).prefix(4)))
        #expect(edu.station.dma.lastPacketEnd == .more)
        #expect(try edu.read(4095).bytes == Array(pattern(7, seed: 1).suffix(3)))
        #expect(edu.station.dma.lastPacketEnd == .eop)
        #expect(try edu.wait(third).information == 9)
        #expect(try edu.read(4095).bytes == pattern(9, seed: 2))
        #expect(edu.station.dma.maximumPacketLength == full)
        edu.expectHarmless()
    }

    @Test func `the plan tells of the common buffer and of the transfers a request took`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(100)).status == .success)
        let sent = edu.station.dma.lastPlan
        #expect(sent.direction == .toDevice && sent.memory == .commonBuffer && sent.engine == .common)
        // There, and back to be compared.
        #expect(sent.byteCount == 100 && sent.transfers == 2)
        #expect(try edu.read(100).status == .success)
        let received = edu.station.dma.lastPlan
        #expect(received.direction == .fromDevice && received.byteCount == 100 && received.transfers == 1)
    }

    // MARK: Waiting

    @Test func `a write to a full buffer ends with what to do, and one that got in partly with how far`() throws {
        let edu = try EduStation { $0.transmitTimeout = 1_000_000_000 }
        let long = edu.station.write(pattern(5000))
        edu.endTransfer()
        edu.endTransfer()
        #expect(eventually { edu.station.counter("tx_sent_bytes_total") == full })
        #expect(try edu.waitInTime(long, limit: 3000) == .init(status: .success, information: full))
        let next = edu.station.write([1])
        #expect(try edu.waitInTime(next, limit: 3000) == .init(status: .ioTimeout, cause: .receiverFull))
        #expect(edu.station.dma.sentence(for: .receiverFull, kind: .write).contains("read dma/rx"))
        #expect(try edu.read(full).bytes == Array(pattern(5000).prefix(full)))
        edu.expectHarmless()
    }

    @Test func `a read that nobody feeds ends after rx_timeout`() throws {
        let edu = try EduStation { $0.receiveTimeout = 500_000_000 }
        let read = edu.station.read(10)
        #expect(try edu.waitInTime(read, limit: 2000) == .init(status: .ioTimeout, cause: .noData))
    }

    @Test func `a nonblocking request that would wait for the other end says so`() throws {
        let edu = try EduStation()
        #expect(try edu.read(10, .nonblocking) == .init(status: .deviceBusy, cause: .wouldBlock))
        #expect(edu.station.readiness(0) & UInt32(POLLOUT) != 0 && edu.station.readiness(1) == 0)
        #expect(try edu.write(pattern(full), .nonblocking).information == full)
        #expect(edu.station.readiness(0) == 0 && edu.station.readiness(1) & UInt32(POLLIN) != 0)
        #expect(try edu.write([1], .nonblocking) == .init(status: .deviceBusy, cause: .wouldBlock))
        #expect(try edu.read(full, .nonblocking).bytes == pattern(full))
    }

    @Test func `fsync and close find nothing that is still to be sent`() throws {
        let edu = try EduStation()
        let stream = edu.station.device.streams.open()
        defer { edu.station.device.streams.close(stream) }
        #expect(try edu.wait(edu.station.barrier(stream)).status == .success)
        #expect(try edu.wait(edu.station.barrier(stream, .close)).status == .success)
    }

    @Test func `a signal ends a write that waits and a read that waits, and those behind them go on`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(full)).status == .success)
        let first = edu.station.write(pattern(10))
        let second = edu.station.write(pattern(10, seed: 3))
        #expect(edu.station.cancel(first) == .claimed)
        #expect(try edu.wait(first).status == .cancelled)
        #expect(try edu.read(full).status == .success)
        #expect(try edu.wait(second).information == 10)
        #expect(try edu.read(10).bytes == pattern(10, seed: 3))
        let read = edu.station.read(1)
        #expect(edu.station.cancel(read) == .claimed)
        #expect(try edu.wait(read).status == .cancelled)
        edu.expectHarmless()
    }

    @Test func `a signal during a transfer waits for its end, since the bytes are on their way`() throws {
        let edu = try EduStation()
        let write = edu.station.write(pattern(100))
        #expect(eventually { edu.model.isMoving })
        #expect(edu.station.cancel(write) == .noted)
        #expect(try edu.wait(write) == .init(status: .success, information: 100))
        let read = edu.station.read(200)
        #expect(eventually { edu.model.isMoving })
        #expect(edu.station.cancel(read) == .noted)
        #expect(try edu.wait(read).bytes == pattern(100))
        edu.expectHarmless()
    }

    // MARK: Interrupts

    @Test(arguments: [InterruptKind.msi, .intx])
    func `an interrupt is acknowledged bit by bit, and one that comes meanwhile is served too`(kind: InterruptKind)
        throws
    {
        let edu = try EduStation { $0.interrupts = kind }
        let before = edu.station.device.interrupt.pointee.log.totalCount
        let isFirst = Flag()
        edu.model.set { faults in
            faults.onCausesRead = { [unowned model = edu.model] in
                if isFirst.take() { model.store(0x60, 4, 0x4) }
            }
        }
        edu.model.store(0x60, 4, 0x2)
        #expect(eventually { edu.station.device.interrupt.pointee.log.totalCount == before + 2 })
        #expect(edu.model.load(0x24, 4) == 0)
        edu.expectHarmless()
    }

    @Test func `causes that read as all ones are causes while the card answers`() throws {
        let edu = try EduStation { $0.interrupts = .intx }
        edu.model.store(0x60, 4, 0xffff_ffff)
        #expect(edu.station.device.interrupt.pointee.log.totalCount == 1 && edu.model.load(0x24, 4) == 0)
        edu.expectHarmless()
    }

    @Test func `a lost interrupt costs time and nothing else`() throws {
        let edu = try EduStation()
        edu.model.set { $0.losesInterrupts = true }
        let write = edu.station.write(pattern(10))
        for _ in 0..<2 {
            #expect(eventually { edu.model.isMoving })
            let count = edu.model.seen.transfers
            edu.station.advance(milliseconds: 100)
            edu.model.tick()
            #expect(
                eventually {
                    if edu.model.seen.transfers == count, edu.station.outcome(write) == nil {
                        edu.station.advance(milliseconds: 1)
                    }
                    return edu.model.seen.transfers > count || edu.station.outcome(write) != nil
                }
            )
        }
        #expect(try edu.wait(write).information == 10)
    }

    // MARK: A card that does not do what it says

    @Test func `bus mastering switched off underneath is noticed by a write, and nothing was lost`() throws {
        let edu = try EduStation()
        try edu.model.changeCommand(clear: .busMaster)
        let write = edu.station.write(pattern(100))
        let outcome = try edu.waitWithoutMessages(write)
        #expect(outcome == .init(status: .ioDeviceError, cause: .busMasterOff))
        #expect(edu.station.device.lastTransferFailure?.text.contains("bus mastering") == true)
        try edu.model.changeCommand(set: .busMaster)
        #expect(try edu.write(pattern(100)).information == 100)
        #expect(try edu.read(100).bytes == pattern(100))
        edu.expectHarmless()
    }

    @Test func `bus mastering switched off underneath is noticed by a read, and the bytes stay in the card`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(100)).information == 100)
        try edu.model.changeCommand(clear: .busMaster)
        let read = edu.station.read(100)
        #expect(try edu.waitWithoutMessages(read) == .init(status: .ioDeviceError, cause: .busMasterOff))
        try edu.model.changeCommand(set: .busMaster)
        #expect(try edu.read(100).bytes == pattern(100))
        edu.expectHarmless()
    }

    @Test func `an address that the IOMMU does not translate is noticed both ways`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(10)).information == 10)
        edu.model.set { $0.translatesNothing = true }
        #expect(try edu.write(pattern(20)) == .init(status: .ioDeviceError, cause: .busError))
        #expect(try edu.read(10) == .init(status: .ioDeviceError, cause: .busError))
        edu.model.set { $0.translatesNothing = false }
        #expect(try edu.read(10).bytes == pattern(10))
        #expect(edu.station.counter("dma_failures_total") == 2)
        edu.expectHarmless()
    }

    @Test func `a transfer that does not end is given up, and the card works again when it has ended`() throws {
        let edu = try EduStation()
        edu.model.set { $0.hangs = true }
        let write = edu.station.write(pattern(10))
        #expect(try edu.waitInTime(write, limit: 5000) == .init(status: .ioTimeout, cause: .stuck))
        let next = edu.station.write(pattern(20))
        edu.model.set { $0.hangs = false }
        edu.model.tick()
        #expect(
            eventually {
                if edu.model.isMoving {
                    edu.station.advance(milliseconds: 100)
                    edu.model.tick()
                } else if edu.station.outcome(next) == nil {
                    edu.station.advance(milliseconds: 1)
                }
                return edu.station.outcome(next) != nil
            }
        )
        #expect(try edu.wait(next).information == 20)
        #expect(try edu.read(20).bytes == pattern(20))
        edu.expectHarmless()
    }

    @Test(arguments: [EduModel.Presence.allOnes, .zero], ["idle", "read", "write"])
    func `a card that has left ends what waits with ENODEV, and one that is back starts`(
        presence: EduModel.Presence,
        doing: String
    ) throws {
        let edu = try EduStation()
        var requests: [Station.Request] = []
        if doing == "read" { requests = [edu.station.read(10), edu.station.read(10)] }
        if doing == "write" {
            requests = [edu.station.write(pattern(10)), edu.station.write(pattern(10))]
            #expect(eventually { edu.model.isMoving })
        }
        edu.model.set { $0.presence = presence }
        if doing == "idle" {
            var value: UInt64 = 0
            let fault = edu.station.device.registers.pointee.read(bar: 0, offset: 0, width: .long, into: &value)
            #expect(fault == .gone)
        }
        for request in requests {
            #expect(try edu.waitInTime(request, limit: 5000).status == .deviceNotConnected)
        }
        #expect(eventually { edu.station.device.state.pnp == .surpriseRemoved })
        #expect(try edu.wait(edu.station.read(1)).status == .deviceNotConnected)
        #expect(try edu.wait(edu.station.write([1])).status == .deviceNotConnected)

        edu.model.set { $0.presence = .there }
        // The transfer of before ends some time.
        edu.station.advance(milliseconds: 100)
        edu.model.tick()
        try edu.station.device.start()
        #expect(try edu.write(pattern(100)).information == 100)
        #expect(try edu.read(100).bytes == pattern(100))
        edu.expectHarmless()
    }

    // MARK: Commands

    @Test func `flush forgets what nobody has read and counts it`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(100)).information == 100)
        edu.station.dma.flush()
        #expect(edu.station.counter("rx_discarded_bytes_total") == 100 && edu.station.readiness(1) == 0)
        #expect(try edu.write(pattern(full)).information == full)
    }

    @Test func `a write that waits for room goes on after a reset`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(full)).information == full)
        let waiting = edu.station.write(pattern(10))
        try edu.station.device.reset()
        #expect(try edu.wait(waiting).information == 10)
        #expect(edu.station.counter("rx_discarded_bytes_total") == full)
        #expect(try edu.read(10).bytes == pattern(10))
    }

    @Test func `what is in the card is read after a sleep`() throws {
        let edu = try EduStation()
        #expect(try edu.write(pattern(10)).information == 10)
        try edu.station.device.suspend()
        let read = edu.station.read(10)
        try edu.station.device.resume()
        #expect(try edu.wait(read).bytes == pattern(10))
    }

    @Test func `a card that was removed ends what waits, and one that is started again is empty`() throws {
        let edu = try EduStation()
        let read = edu.station.read(10)
        try edu.station.device.remove()
        #expect(try edu.wait(read) == .init(status: .deviceNotConnected, cause: .removed))
        try edu.station.device.start()
        #expect(try edu.write(pattern(10)).information == 10)
        #expect(edu.station.readiness(1) != 0)
    }

    @Test func `another engine than the card's is refused`() throws {
        let edu = try EduStation()
        #expect(throws: StatusError.self) { try edu.station.dma.select(.scatterGather) }
        try edu.station.dma.select(.common)
    }
}

extension EduStation {
    /// As ``wait(_:)``, for a card whose messages do not arrive: bus mastering carries them too.
    func waitWithoutMessages(_ request: Station.Request) throws -> Station.Outcome {
        let isOver = eventually {
            if model.isMoving {
                station.advance(milliseconds: 100)
                model.tick()
            } else if station.outcome(request) == nil {
                station.advance(milliseconds: 1)
            }
            return station.outcome(request) != nil
        }
        try #require(isOver)
        return station.outcome(request)!
    }
}

/// True the first time it is taken.
final class Flag: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var isSet = true

    deinit { lock.destroy() }

    func take() -> Bool {
        lock.locked {
            defer { isSet = false }
            return isSet
        }
    }
}

/// Numbers that are the same each time.
struct Generator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}
