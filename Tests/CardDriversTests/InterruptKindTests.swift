import CHardware
import CardDrivers
import DriverCore
import PCIBus
import SimulatedCard
import Testing

/// The driver on each way a card can interrupt.
@Suite struct InterruptKindTests {
    static let kinds: [InterruptKind] = [.msix, .msi, .intx]

    @Test(arguments: kinds)
    func `data goes both ways, and waits are ended by the card`(kind: InterruptKind) throws {
        let station = try Station { $0.interrupts = kind }
        #expect(try station.device.interruptChoice()?.kind == kind)
        let stream = station.device.streams.open()
        for round in 0..<5 {
            let bytes = pattern(100_000, seed: round)
            let read = station.read(bytes.count)
            #expect(try station.wait(station.write(bytes, stream, .synchronous)).status == .success)
            #expect(try station.wait(read).bytes == bytes)
        }
        #expect(station.device.interrupt.pointee.log.totalCount > 0)
        station.expectBalance()
    }

    @Test(arguments: kinds)
    func `interrupts are on in D0 only, and none is lost or invented by leaving it`(kind: InterruptKind) throws {
        let station = try Station { $0.interrupts = kind }
        func count() -> UInt64 { station.device.interrupt.pointee.log.totalCount }
        func exchange() throws {
            let read = station.read(5000)
            #expect(try station.wait(station.write(pattern(5000), nil, .synchronous)).status == .success)
            #expect(try station.wait(read).bytes == pattern(5000))
        }
        for sleeps in [true, false] {
            try exchange()
            let first = station.device.interrupt.pointee.log.end
            if sleeps { try station.device.suspend() } else { try station.device.stop() }
            let before = count()
            // The cable goes out and in while nobody listens.
            try station.set("link", "down")
            try station.set("link", "up")
            #expect(count() == before)
            if sleeps { try station.device.resume() } else { try station.device.start() }
            try exchange()
            // The log goes on where it was: no number is left out, none comes twice.
            var cursor = first
            var entries = [InterruptLog.Entry](repeating: .init(), count: 1000)
            let read = entries.withUnsafeMutableBufferPointer {
                station.device.interrupt.pointee.log.read(from: &cursor, into: $0)
            }
            #expect(read.first == first && read.lost == 0 && cursor == station.device.interrupt.pointee.log.end)
        }
        if kind == .intx { #expect(station.get("line").hasSuffix("unclaimed 0\n")) }
    }

    @Test func `an interrupt of another card on the line is not mine, and is not in the log`() throws {
        let station = try Station { $0.interrupts = .intx }
        let before = (station.device.interrupt.pointee.log.totalCount, station.device.interrupt.pointee.declinedCount)
        for _ in 0..<5 { try station.set("line", "neighbour") }
        #expect(station.device.interrupt.pointee.declinedCount == before.1 + 5)
        #expect(station.device.interrupt.pointee.log.totalCount == before.0)
        station.write(pattern(100))
        #expect(try station.collect(100, by: 100) == pattern(100))
    }

    @Test func `a card that has left the bus claims no interrupt of the line`() throws {
        let station = try Station { $0.interrupts = .intx }
        let interrupt = station.device.interrupt
        try station.set("fault", "gone")
        let before = (interrupt.pointee.log.totalCount, interrupt.pointee.declinedCount)
        let events = (station.counter("link_changes_total"), station.counter("bus_errors_total"))
        for _ in 0..<3 { try station.set("line", "neighbour") }
        #expect(interrupt.pointee.declinedCount == before.1 + 3 && interrupt.pointee.log.totalCount == before.0)
        #expect((station.counter("link_changes_total"), station.counter("bus_errors_total")) == events)
    }

    @Test func `the routine of a vector clears the causes of that vector, and no other's`() throws {
        let bus = SimulatedBus()
        let function = WatchedFunction(try bus.open(PCIAddress(bus: 1, device: 0, function: 0)))
        let station = try Station(function: { _ in function })
        let window = try function.map(bar: 0)
        for round in 0..<10 {
            let read = station.read(50_000)
            #expect(
                try station.wait(station.write(pattern(50_000, seed: round), nil, .synchronous)).status == .success
            )
            #expect(try station.wait(read).bytes == pattern(50_000, seed: round))
            // A time-code, which the far end sends back.
            window.store32(1 << 16, 0x0c)
        }
        // Bits of the status register: 12 a transmit descriptor, 11 and 13 a receive descriptor and a packet, 2…5 link errors,
        // 10 a time-code. A bus error has none that is cleared so.
        let causes: [UInt64] = [1 << 12, 1 << 11 | 1 << 13, 0xf << 2 | 1 << 10, 0]
        let stores = function.stores
        #expect(Set(stores.map(\.vector)) == [0, 1, 2])
        #expect(stores.allSatisfy { $0.offset == 4 && $0.value & ~causes[Int($0.vector)] == 0 && $0.value != 0 })
    }

    @Test(arguments: kinds)
    func `a change of the link interrupts, whatever it is told by`(kind: InterruptKind) throws {
        let station = try Station { $0.interrupts = kind }
        let before = station.counter("link_changes_total")
        try station.set("link", "down")
        #expect(eventually { station.counter("link_changes_total") == before + 1 })
        try station.set("link", "up")
        #expect(eventually { station.counter("link_changes_total") == before + 2 })
    }

    @Test(arguments: kinds)
    func `a bus error is told and recovered from`(kind: InterruptKind) throws {
        let station = try Station { $0.interrupts = kind }
        let window = try station.function.map(bar: 0)
        // A descriptor table nobody mapped.
        window.store32(0x7000_0000, 0x14)
        window.store32(window.load32(0) | 1 << 7, 0)
        #expect(eventually { station.counter("bus_errors_total") > 0 && station.counter("tx_recoveries_total") > 0 })
        station.write(pattern(1000))
        #expect(try station.collect(1000, by: 1000) == pattern(1000))
    }
}
