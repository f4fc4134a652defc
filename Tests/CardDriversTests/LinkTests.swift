import DriverCore
import PCIBus
import SimulatedCard
import Testing

/// The registers of the link, which a user and the driver write.
@Suite(.timeLimit(.minutes(5))) struct LinkTests {
    private static let control: UInt64 = 0x00
    private static let scaler: UInt64 = 0x08
    private static let timeCode: UInt64 = 0x0c
    /// Link start, autostart, disable and the pin for time-codes.
    private static let mode: UInt64 = 0x3c

    /// What may be done between a user's write and the look at what is left of it.
    enum Event: String, CaseIterable {
        case doorbells, flush, engine, reset, sleep, restart, busError, gone

        func happen(_ station: Station) throws {
            switch self {
            case .doorbells:
                for size in [1, 70_000] { station.write(pattern(size), nil, .nonblocking) }
                _ = try station.wait(station.read(1 << 20, .nonblocking))
            case .flush: station.dma.flush()
            case .engine: for engine in [DMAEngine.common, .system, .scatterGather] { try station.dma.select(engine) }
            case .reset: try station.device.reset()
            case .sleep:
                try station.device.suspend()
                try station.device.resume()
            case .restart:
                try station.device.stop()
                try station.device.start()
            case .busError:
                let window = try station.function.map(bar: 0)
                let errors = station.counter("tx_recoveries_total")
                // A descriptor table nobody mapped.
                window.store32(0x7000_0000, 0x14)
                window.store32(window.load32(0) | 1 << 7, 0)
                #expect(eventually { station.counter("tx_recoveries_total") > errors })
            case .gone:
                try station.set("fault", "gone")
                #expect(eventually { station.read(.l, 0x108) == nil && station.device.state.pnp == .surpriseRemoved })
                try station.set("fault", "none")
                try station.device.start()
            }
        }
    }

    private func expert() throws -> Station {
        let station = try Station()
        station.device.registers.pointee.allow(protectedBARs: false, driverOwned: true)
        return station
    }

    @Test(arguments: Event.allCases, [0x10, 0x00, 0x04, 0x08, 0x1c] as [UInt64])
    func `what a user made of the link stays`(event: Event, mode: UInt64) throws {
        let station = try expert()
        let before = try #require(station.read(.l, Self.control)) & ~Self.mode
        station.store(.l, Self.control, before | mode)
        try event.happen(station)
        #expect(try #require(station.read(.l, Self.control)) & Self.mode == mode)
        // The driver's interrupts are still on.
        #expect(try #require(station.read(.l, Self.control)) & ~Self.mode == before)
    }

    @Test func `a link that is disabled stays down while bytes are written and read, and goes on when it is enabled`()
        throws
    {
        let station = try expert()
        let kept = try #require(station.read(.l, Self.control)) & 0x3e3c
        station.store(.l, Self.control, kept | 0x10)
        #expect(try station.wait(station.write(pattern(5000))).status == .success)
        _ = try station.wait(station.read(10, .nonblocking))
        #expect(station.get("link") == "off\n")
        station.store(.l, Self.control, kept)
        #expect(try station.collect(5000, by: 5000) == pattern(5000))
        #expect(station.get("link") == "run\n")
        station.expectBalance()
    }

    @Test func `doorbells and a user's writes at the same time leave what the user wrote`() throws {
        let station = try expert()
        try station.set("wire", "sink")
        let kept = try #require(station.read(.l, Self.control)) & 0x3e00
        let writer = Thread(name: "writer") {
            for _ in 0..<2000 { _ = try? station.wait(station.write(pattern(64))) }
        }
        for round in 0..<2000 {
            // Link start with or without autostart: the link runs either way.
            let mode: UInt64 = round % 2 == 0 ? 0x04 : 0x0c
            station.store(.l, Self.control, kept | mode)
            #expect(station.read(.l, Self.control)! & Self.mode == mode)
        }
        writer.join()
        #expect(station.read(.l, Self.control)! & Self.mode == 0x0c)
        station.expectBalance()
    }

    @Test(arguments: Event.allCases) func `the bit rate and the next time-code stay`(event: Event) throws {
        let station = try Station()
        station.store(.l, Self.scaler, 3)
        station.store(.l, Self.timeCode, 1 << 16 | 41 << 8)
        let code = try #require(station.read(.l, Self.timeCode))
        #expect(code == 42 << 8 | 41)
        try event.happen(station)
        let scaler = try #require(station.read(.l, Self.scaler))
        #expect(scaler == 3)
        // What came in is not what goes out: only that is the user's.
        let last = try #require(station.read(.l, Self.timeCode)) >> 8
        #expect(last == (event == .gone ? 0 : 42))
    }

    @Test func `both registers of a 64-bit write are followed, and a narrow write changes nothing`() throws {
        let station = try expert()
        let before = try #require(station.read(.l, Self.control))
        station.store(.q, Self.scaler, 2)
        station.store(.b, Self.control, 0x10)
        station.store(.w, Self.scaler, 7)
        try Event.doorbells.happen(station)
        try Event.reset.happen(station)
        #expect(station.read(.l, Self.control) == before && station.read(.l, Self.scaler) == 2)
    }

    @Test func `a reset of the core by hand is followed, and a reset of the card starts the link as it was`() throws {
        let station = try expert()
        station.store(.l, Self.control, 1)
        #expect(try #require(station.read(.l, Self.control)) & Self.mode == 0)
        station.write(pattern(10), nil, .nonblocking)
        #expect(try #require(station.read(.l, Self.control)) & Self.mode == 0 && station.get("link") == "off\n")
        try station.device.reset()
        #expect(try #require(station.read(.l, Self.control)) & Self.mode == 0x0c && station.get("link") == "run\n")
        #expect(try station.wait(station.write(pattern(10))).status == .success)
        #expect(try station.collect(10, by: 10) == pattern(10))
    }

    @Test(arguments: InterruptKind.allCases, ["disconnect", "parity", "escape", "credit"])
    func `errors of the link are counted by their cause, time-codes apart`(kind: InterruptKind, cause: String) throws {
        let station = try Station { $0.interrupts = kind }
        func counts() -> [String: UInt64] {
            let family = station.dma.countersByCause.first { $0.name == "link_errors_total" }
            return Dictionary(uniqueKeysWithValues: (family?.causes ?? []).map { ($0.cause, $0.value) })
        }
        for round in 1...3 {
            try station.set("link", cause)
            #expect(eventually { counts()[cause] == UInt64(round) })
            #expect(station.get("link") == "run\n")
            // Cleared, so that the next one is seen.
            #expect(eventually { station.read(.l, 0x04)! & 0x3c == 0 })
        }
        #expect(counts().filter { $0.key != cause }.values.allSatisfy { $0 == 0 })
        #expect(station.counter("time_codes_total") == 0)
        for code in 1...5 {
            station.store(.l, Self.timeCode, 1 << 16 | UInt64(code) << 8)
            #expect(eventually { station.counter("time_codes_total") == code })
        }
        #expect(counts()[cause] == 3)
        #expect(try station.wait(station.write(pattern(10))).status == .success)
        #expect(try station.collect(10, by: 10) == pattern(10))
    }
}

extension Station {
    /// How wide an access of a user is, as files under `regs/` are named.
    enum Width {
        case b, w, l, q
        var width: AccessWidth {
            switch self {
            case .b: .byte
            case .w: .word
            case .l: .long
            case .q: .quad
            }
        }
    }

    /// Reads a register of BAR0 as a user does; nil when that is refused.
    func read(_ width: Width, _ offset: UInt64) -> UInt64? {
        var value: UInt64 = 0
        let fault = device.registers.pointee.read(bar: 0, offset: offset, width: width.width, into: &value)
        return fault == .none ? value & (width == .l && offset == 0 ? 0x00ff_ffff : .max) : nil
    }

    /// Writes one as a user does.
    func store(_ width: Width, _ offset: UInt64, _ value: UInt64, _ location: SourceLocation = #_sourceLocation) {
        let fault = device.registers.pointee.write(bar: 0, offset: offset, width: width.width, value)
        #expect(fault == .none, sourceLocation: location)
    }
}
