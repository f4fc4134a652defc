import CHardware
import CardDrivers
import DriverCore
import Glibc
import PCIBus
import SimulatedCard
import Testing

/// The receive ring, lent to programs that have mapped it.
@Suite(.timeLimit(.minutes(5))) struct RingTests {
    /// A program: an open file and a mapping of its own.
    private final class Program {
        let station: Station
        let stream: UnsafeMutablePointer<StreamRecord>
        private let base: UnsafeMutableRawPointer
        private let byteCount: Int
        private var isOpen = true

        init(_ station: Station) throws {
            self.station = station
            stream = station.device.streams.open()
            let ring = try #require(station.dma.mappableRing)
            byteCount = ring.byteCount
            base = try #require(mmap(nil, ring.byteCount, PROT_READ, MAP_SHARED, ring.file, 0))
            try #require(base != UnsafeMutableRawPointer(bitPattern: -1))
        }

        deinit {
            close()
            munmap(base, byteCount)
        }

        func close() {
            guard isOpen else { return }
            isOpen = false
            station.dma.streamClosed(stream)
            station.device.streams.close(stream)
        }

        func bytes(_ outcome: Station.Outcome) -> [UInt8] {
            outcome.places.flatMap { Array(UnsafeRawBufferPointer(start: base + $0.lowerBound, count: $0.count)) }
        }

        func next(_ count: Int, release: UInt64 = .max, _ flags: RequestFlags = []) throws -> Station.Outcome {
            let request = station.borrow(stream, count, release: release, flags)
            #expect(
                eventually {
                    // While the card is at it, time stands: it would run ahead, and the transfer be taken for stuck.
                    if station.outcome(request) == nil, station.isAllSent { station.advance(milliseconds: 1) }
                    return station.outcome(request) != nil
                }
            )
            return try station.wait(request)
        }
    }

    @Test func `the bytes are where the card wrote them, and nothing is copied`() throws {
        let station = try Station()
        let program = try Program(station)
        let data = pattern(3_000_000)
        for start in stride(from: 0, to: data.count, by: 1_000_000) {
            #expect(try station.wait(station.write(Array(data[start..<start + 1_000_000]))).status == .success)
        }
        var got: [UInt8] = []
        while got.count < data.count {
            let outcome = try program.next(1 << 20)
            try #require(outcome.status == .success && outcome.information > 0)
            #expect(outcome.information == outcome.places.reduce(0) { $0 + $1.count })
            got += program.bytes(outcome)
        }
        #expect(got == data)
        #expect(
            station.counter("rx_lent_bytes_total") == data.count && station.counter("rx_buffered_requests_total") == 0
        )
        #expect(station.dma.lastPlan.memory == .ring && !station.dma.lastPlan.isBuffered)
        station.expectBalance()
    }

    @Test func `what is lent stays as it is until it is given back; the card goes on in the rest of the ring`() throws {
        let station = try Station(receiverMemory: 65_536)
        let program = try Program(station)
        for seed in 0..<3 { station.write(pattern(1 << 20, seed: seed)) }
        let first = try program.next(1 << 20, release: 0)
        let before = program.bytes(first)
        #expect(before == Array(pattern(1 << 20)[..<before.count]))
        // Another reader goes on behind.
        let rest = try station.collect((3 << 20) - before.count, by: 1 << 20)
        #expect(rest.suffix(1 << 20) == pattern(1 << 20, seed: 2)[...])
        // No slot behind the one that is held is used a second time.
        for seed in 3..<8 { station.write(pattern(1 << 20, seed: seed)) }
        let parked = station.read(5 << 20)
        #expect(program.bytes(first) == before && station.outcome(parked) == nil)
        #expect(station.cancel(parked) != .gone)
        var more = try station.wait(parked).bytes
        #expect(try program.next(0).information == 0)
        more += try station.collect((5 << 20) - more.count, by: 1 << 20)
        #expect(more == (3..<8).flatMap { pattern(1 << 20, seed: $0) })
        station.expectBalance()
    }

    @Test func `a packet is lent with its end`() throws {
        let station = try Station(framing: .packet)
        let program = try Program(station)
        for count in [1, 40_000, 100] { station.write(pattern(count)) }
        let first = try program.next(1 << 20)
        #expect(first.end == .eop && program.bytes(first) == pattern(1))
        let part = try program.next(30_000)
        #expect(part.end == .more && program.bytes(part) == Array(pattern(40_000)[..<30_000]))
        let rest = try program.next(1 << 20)
        #expect(rest.end == .eop && program.bytes(rest) == Array(pattern(40_000)[30_000...]))
        #expect(program.bytes(try program.next(1 << 20)) == pattern(100))
        station.expectBalance()
    }

    @Test func `a result has at most 64 pieces; the rest comes next`() throws {
        let station = try Station()
        let program = try Program(station)
        // Each packet takes a slot of its own, which a short one does not fill.
        for k in 0..<90 { #expect(try station.wait(station.write([UInt8(k)])).status == .success) }
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 90 })
        let first = try program.next(90)
        #expect(first.places.count == 64 && program.bytes(first) == (0..<64).map { UInt8($0) })
        #expect(program.bytes(try program.next(90)) == (64..<90).map { UInt8($0) })
    }

    @Test func `who holds the whole ring is told so instead of waiting for what cannot come`() throws {
        let station = try Station()
        let program = try Program(station)
        for seed in 0..<5 { station.write(pattern(1 << 20, seed: seed)) }
        var held: [UInt8] = []
        var refusal = Station.Outcome(status: .pending)
        for _ in 0..<200 {
            let outcome = try program.next(1 << 20, release: 0)
            guard outcome.status.isSuccess else {
                refusal = outcome
                break
            }
            held += program.bytes(outcome)
        }
        #expect(refusal == .init(status: .insufficientResources, cause: .ringHeld))
        #expect(held.count >= 3 << 20 && held.count < 5 << 20)
        while held.count < 5 << 20 { held += program.bytes(try program.next(1 << 20)) }
        #expect(held == (0..<5).flatMap { pattern(1 << 20, seed: $0) })
    }

    /// A loan timeout, nanoseconds: far longer than the time that a slow machine steps while it waits for bytes.
    private static var hour: UInt64 { 3_600_000_000_000 }

    /// Borrows until nothing more is lent.
    private func hold(_ program: Program) throws -> [Station.Outcome] {
        var held: [Station.Outcome] = []
        while true {
            let outcome = try program.next(1 << 20, release: 0)
            guard outcome.status.isSuccess else {
                #expect(outcome == .init(status: .insufficientResources, cause: .ringHeld))
                return held
            }
            held.append(outcome)
        }
    }

    /// Who asks for what comes while a program sleeps with the ring.
    enum Asker: CaseIterable { case read, borrow, poll, askAgain, nobody }

    @Test(arguments: Asker.allCases)
    func `what a program keeps for longer than the loan timeout goes back to the card once others wait`(
        asker: Asker
    ) throws {
        let station = try Station { $0.loanTimeout = Self.hour }
        let sleeper = try Program(station)
        let other = try Program(station)
        for seed in 0..<6 { station.write(pattern(1 << 20, seed: seed)) }
        let held = try hold(sleeper)
        let data = (0..<6).flatMap { pattern(1 << 20, seed: $0) }
        let count = held.reduce(0) { $0 + $1.information }
        #expect(held.flatMap { sleeper.bytes($0) }.elementsEqual(data[..<count]))
        var waiting: Station.Request?
        switch asker {
        case .read: waiting = station.read(1 << 20)
        case .borrow: waiting = station.borrow(other.stream, 1 << 20)
        case .poll: station.dma.watchReadiness(1, true)
        default: break
        }
        station.advance(milliseconds: 2_400_000)
        if asker == .askAgain {
            // It looks at the loans itself, and does not find them late.
            #expect(try station.wait(station.read(1, .nonblocking)).cause == .wouldBlock)
        }
        #expect(station.counter("rx_recalled_loans_total") == 0)
        station.advance(milliseconds: 1_300_000)
        guard asker != .nobody else {
            station.advance(milliseconds: 36_000_000)
            #expect(station.counter("rx_recalled_loans_total") == 0)
            #expect(try sleeper.next(1 << 20).status == .success)
            return
        }
        if asker == .askAgain {
            #expect(
                eventually {
                    let request = station.read(1, .nonblocking)
                    return (try? station.wait(request))?.status == .success
                }
            )
        } else if asker == .poll {
            #expect(eventually { station.readiness(1) != 0 })
            station.dma.watchReadiness(1, false)
        } else if let waiting {
            #expect(
                eventually {
                    if station.outcome(waiting) == nil, station.isAllSent { station.advance(milliseconds: 1) }
                    return station.outcome(waiting) != nil
                }
            )
            let got = try station.wait(waiting)
            let bytes = asker == .read ? got.bytes : other.bytes(got)
            #expect(!bytes.isEmpty && bytes.elementsEqual(data[count..<count + bytes.count]))
        }
        #expect(station.counter("rx_recalled_loans_total") == held.count)
        // Told once; the file and its mapping are as good as before.
        #expect(try sleeper.next(1, release: 0) == .init(status: .requestAborted, cause: .ringExpired))
        #expect(try sleeper.next(1, release: 0).status == .success)
        #expect(try other.next(1).status == .success)
    }

    @Test func `only the program in the way loses what it kept; another keeps what it holds`() throws {
        let station = try Station { $0.loanTimeout = Self.hour }
        let sleeper = try Program(station)
        let other = try Program(station)
        for seed in 0..<6 { station.write(pattern(1 << 20, seed: seed)) }
        let first = try sleeper.next(1 << 20, release: 0)
        station.advance(milliseconds: 2_000_000)
        let held = try hold(other)
        let before = held.flatMap { other.bytes($0) }
        let waiting = station.read(1 << 20)
        station.advance(milliseconds: 2_000_000)
        #expect(
            eventually {
                if station.outcome(waiting) == nil, station.isAllSent { station.advance(milliseconds: 1) }
                return station.outcome(waiting) != nil
            }
        )
        #expect(try station.wait(waiting).information > 0)
        #expect(station.counter("rx_recalled_loans_total") == 1 && first.information > 0)
        #expect(held.flatMap { other.bytes($0) } == before)
        #expect(try other.next(0).status == .success)
        // The next file that is opened, in the record of the one that was never told, is not told.
        sleeper.close()
        let again = try Program(station)
        #expect(try again.next(1).status == .success)
        station.expectAccounts()
    }

    @Test func `a loan timeout of 0 leaves everything where it is`() throws {
        let station = try Station { $0.loanTimeout = 0 }
        let sleeper = try Program(station)
        for seed in 0..<6 { station.write(pattern(1 << 20, seed: seed)) }
        _ = try hold(sleeper)
        let waiting = station.read(1 << 20)
        station.advance(milliseconds: 3_600_000)
        #expect(try station.wait(station.read(1, .nonblocking)).cause == .wouldBlock)
        #expect(station.outcome(waiting) == nil && station.counter("rx_recalled_loans_total") == 0)
        station.cancel(waiting)
        #expect(try sleeper.next(1 << 20).status == .success)
    }

    @Test func `while others wait, a program holds at most half of the ring`() throws {
        let station = try Station()
        let program = try Program(station)
        for count in [1_000_000, 1_000_000, 400_000] { station.write(pattern(count)) }
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 2_400_000 })
        var held = [try program.next(1_000_000, release: 0), try program.next(500_000, release: 0)]
        // It wants more than is there.
        let waiting = station.read(1 << 20)
        var refusal = Station.Outcome(status: .pending)
        for _ in 0..<5 {
            let outcome = try program.next(1 << 20, release: 0, .nonblocking)
            guard outcome.status.isSuccess else {
                refusal = outcome
                break
            }
            held.append(outcome)
        }
        #expect(refusal == .init(status: .insufficientResources, cause: .ringShared))
        let slots = Set(held.flatMap(\.places).flatMap { $0.lowerBound >> 15...($0.upperBound - 1) >> 15 })
        #expect((60...64).contains(slots.count) && station.outcome(waiting) == nil)
        #expect(station.cancel(waiting) == .claimed)
        held.append(try program.next(1 << 20, release: 0, .nonblocking))
        #expect(held.reduce(0) { $0 + $1.information } == 2_400_000)
        station.expectAccounts()
    }

    @Test func `one program that borrows byte by byte leaves room for the loans of others`() throws {
        let station = try Station()
        let program = try Program(station)
        let other = try Program(station)
        station.write(pattern(1000))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 1000 })
        for _ in 0..<64 { #expect(try program.next(1, release: 0).information == 1) }
        #expect(try program.next(1, release: 0) == .init(status: .insufficientResources, cause: .ringHeld))
        #expect(try other.next(936).information == 936)
    }

    @Test func `a program that sleeps with the ring stops neither a flush nor a change of the engine`() throws {
        let station = try Station { $0.loanTimeout = Self.hour }
        let sleeper = try Program(station)
        for seed in 0..<6 { station.write(pattern(1 << 20, seed: seed)) }
        let held = try hold(sleeper).count
        station.dma.flush()
        #expect(station.counter("rx_recalled_loans_total") == 0)
        station.advance(milliseconds: 4_000_000)
        station.dma.flush()
        #expect(station.counter("rx_recalled_loans_total") == held)
        #expect(try sleeper.next(0) == .init(status: .requestAborted, cause: .ringExpired))
        // Everything the far end still had is discarded, however long that takes.
        #expect(
            eventually {
                station.dma.flush()
                let account = station.counter("rx_read_bytes_total") + station.counter("rx_discarded_bytes_total")
                return station.isAllSent && account == station.counter("tx_sent_bytes_total")
            }
        )
        station.write(pattern(1000))
        #expect(eventually { station.counter("rx_waiting_bytes") == 1000 })
        #expect(try sleeper.next(1000).information == 1000)
        var status = Status.success
        do throws(StatusError) { try station.dma.select(.common) } catch { status = error.status }
        #expect(status == .invalidDeviceState)
        station.advance(milliseconds: 4_000_000)
        try station.dma.select(.common)
        #expect(try sleeper.next(1) == .init(status: .requestAborted, cause: .ringTaken))
        station.expectBalance()
    }

    @Test func `a program that dies gives everything back`() throws {
        let station = try Station()
        var program: Program? = try Program(station)
        for seed in 0..<5 { station.write(pattern(1 << 20, seed: seed)) }
        while try program!.next(1 << 20, release: 0).status.isSuccess {}
        program!.close()
        program = nil
        for seed in 5..<8 { station.write(pattern(1 << 20, seed: seed)) }
        let left = Int(station.counter("tx_accepted_bytes_total") - station.counter("rx_lent_bytes_total"))
        #expect(try station.collect(left, by: 1 << 20).suffix(1 << 20) == pattern(1 << 20, seed: 7)[...])
        station.expectBalance()
    }

    @Test(arguments: ["reset", "stop", "suspend"])
    func `a ring that is made anew is nobody's: the program is told, and opens again`(how: String) throws {
        let station = try Station()
        let program = try Program(station)
        station.write(pattern(100_000))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 100_000 })
        #expect(try program.next(100_000).information == 100_000)
        let waiting = station.borrow(program.stream, 100)
        switch how {
        case "reset": try station.device.reset()
        case "stop":
            try station.device.stop()
            #expect(station.dma.mappableRing == nil)
            try station.device.start()
        default:
            try station.device.suspend()
            try station.device.resume()
        }
        station.write(pattern(100, seed: 3))
        #expect(try station.wait(waiting) == .init(status: .requestAborted, cause: .ringTaken))
        #expect(try program.next(100) == .init(status: .requestAborted, cause: .ringTaken))
        let again = try Program(station)
        #expect(program.stream != again.stream)
        let outcome = try again.next(100)
        #expect(again.bytes(outcome) == pattern(100, seed: 3))
        station.expectBalance()
    }

    @Test func `the engine does not change while something is lent, and system DMA lends nothing`() throws {
        let station = try Station()
        let program = try Program(station)
        station.write(pattern(1000))
        #expect(try program.next(1000).information == 1000)
        var status = Status.success
        do throws(StatusError) { try station.dma.select(.system) } catch { status = error.status }
        #expect(status == .invalidDeviceState)
        #expect(try program.next(0).status == .success)
        try station.dma.select(.system)
        let again = try Program(station)
        #expect(try again.next(1) == .init(status: .notSupported, cause: .ringNotLent))
        try station.dma.select(.common)
        let third = try Program(station)
        station.write(pattern(1000, seed: 2))
        #expect(third.bytes(try third.next(1000)) == pattern(1000, seed: 2))
    }

    @Test func `waits end as those of a read: a signal, O_NONBLOCK, time`() throws {
        let station = try Station { $0.receiveTimeout = 2_000_000_000 }
        let program = try Program(station)
        #expect(try program.next(1, release: 0, .nonblocking) == .init(status: .deviceBusy, cause: .wouldBlock))
        let waiting = station.borrow(program.stream, 1)
        #expect(station.cancel(waiting) == .claimed)
        #expect(try station.wait(waiting) == .init(status: .cancelled, cause: .interrupted))
        #expect(try program.next(1) == .init(status: .ioTimeout, cause: .noData))
        // The time of the test runs ahead of the card: it stands until the bytes are here.
        station.write(pattern(10))
        #expect(eventually { station.counter("rx_arrived_bytes_total") == 10 })
        #expect(try program.next(1000).information == 10)
        #expect(station.dma.lastPlan.byteCount == 10)
    }
}
