import CHardware
import CardDrivers
import DriverCore
import PCIBus
import SimulatedCard
import Testing

/// Nonsense in every number a driver reads of a card before it moves data: nothing traps, nothing is reached that was not
/// mapped, and the card works once it tells the truth, or is refused with a sentence.
@Suite(.timeLimit(.minutes(10))) struct HostileNumberTests {
    private typealias Liar = HostileCardTests.Liar

    // MARK: BARs

    /// What a bus may say of BAR0.
    struct Place: Sendable, CustomTestStringConvertible {
        var testDescription: String
        /// Whether a driver can go on with it.
        var isUsable = false
        var change: @Sendable (BaseAddressRegister) -> [BaseAddressRegister]

        init(
            _ description: String,
            isUsable: Bool = false,
            _ change: @escaping @Sendable (BaseAddressRegister) -> [BaseAddressRegister]
        ) {
            testDescription = description
            self.isUsable = isUsable
            self.change = change
        }
    }

    static let places: [Place] = [
        Place("no BAR0") { _ in [] },
        Place("0 bytes") { [$0.with(byteCount: 0)] },
        Place("1 byte") { [$0.with(byteCount: 1)] },
        Place("more than is mapped") { [$0.with(byteCount: 2 * $0.byteCount)] },
        Place("2^55 bytes") { [$0.with(byteCount: 1 << 55)] },
        Place("2^63 bytes") { [$0.with(byteCount: 1 << 63)] },
        Place("2^64 - 1 bytes") { [$0.with(byteCount: .max)] },
        Place("an end beyond 2^64") { [$0.with(address: .max - 4095)] },
        Place("index 6") { [$0.with(index: 6)] },
        Place("index -1") { [$0.with(index: -1)] },
        Place("index 2^63 - 1") { [$0.with(index: .max)] },
        Place("no power of two", isUsable: true) { [$0.with(byteCount: $0.byteCount - 4093)] },
        Place("the same twice", isUsable: true) { [$0, $0] },
        Place("others that are nonsense", isUsable: true) {
            [$0.with(index: -7), $0, $0.with(index: 5, byteCount: 0), $0.with(index: 99, byteCount: .max)]
        },
    ]

    @Test(arguments: places) func `a BAR that cannot be so is refused with a sentence, or not used`(place: Place) throws
    {
        let made = Result { () throws in
            try Liar(before: { card in card.lie { $0.bars = { place.change($0[0]) } } })
        }
        switch made {
        case .success(let liar):
            #expect(place.isUsable)
            try liar.expectWorking()
        case .failure(let error):
            #expect(!place.isUsable)
            #expect(try #require(error as? StatusError).sentence.contains("BAR0 of 0000:01:00.0"))
        }
    }

    @Test(arguments: places) func `a card without a driver of its own is shown as far as its BARs can be so`(
        place: Place
    ) throws {
        let clock = Clock.stepped()
        defer { clock.destroy() }
        let card = LyingFunction(try SimulatedBus().open(PCIAddress(bus: 1, device: 0, function: 0)))
        card.lie { $0.bars = { place.change($0[0]) } }
        let device = try generic(card, clock)
        defer { device.close() }
        // What was refused when it was to be mapped leaves a card that has failed.
        if (try? device.start()) == nil { #expect(!place.isUsable && device.state.pnp == .failed) }
        let registers = device.registers
        for offset: UInt64 in [0, 4, 0x3fffc, 0x40000, 1 << 40, .max - 3] {
            var value: UInt64 = 0
            let fault = registers.pointee.read(bar: 0, offset: offset, width: .long, into: &value)
            #expect(fault != .none || offset < 0x40000)
        }
        #expect(!place.isUsable || device.registerMap.window.upperBound >= 0x3f000)
    }

    private func generic(_ function: any PCIFunction, _ clock: Clock) throws -> Device {
        var capacity = Device.Capacity()
        capacity.requests = 4
        capacity.receiveBuffers = 1
        capacity.systemBuffers = 1
        return try Device(
            function: function,
            drivers: [GenericDriver.self],
            clock: clock,
            policy: TransferPolicy(),
            capacity: capacity,
            completionContext: UnsafeMutableRawPointer(bitPattern: 8)!,
            completion: { _, _ in }
        )
    }

    // MARK: Configuration space

    /// What the list of capabilities may look like: words that stand in configuration space instead of the card's.
    static let lists: [[Int: UInt32]] = [
        [0x34: 0x40, 0x40: 0x0000_4005],  // one that leads to itself
        [0x34: 0x40, 0x40: 0x0000_5005, 0x50: 0x0000_4011],  // two that lead to each other
        [0x34: 0x00], [0x34: 0x04], [0x34: 0x3c], [0x34: 0xff],  // the first in the header, at its end
        [0x34: 0x40, 0x40: 0x0000_ff02], [0x34: 0x40, 0x40: 0x0000_0402],  // the next one likewise
        [0x34: 0xfc, 0xfc: 0x0108_0009], [0x34: 0xfc, 0xfc: 0xffff_ff01],  // bodies beyond the end
        [0x34: 0xfc, 0xfc: 0xffff_ff11], [0x34: 0xfc, 0xfc: 0xffff_ff05],
        // MSI-X: a table in no BAR, at the end of everything, of 2048 entries; MSI with all bits.
        [0xb0: 0xffff_c011, 0xb4: 0xffff_ffff, 0xb8: 0xffff_ffff], [0xb0: 0x07ff_c011, 0xb4: 0xffff_fff8, 0xb8: 7],
        [0x50: 0xffff_6005],
        // Power management that is never in D0.
        [0x44: 0xffff_ffff],
        // The limits of the bus master.
        [0xc0: 0x0108_0009, 0xc4: 0], [0xc0: 0x0108_0009, 0xc4: 0xffff_fffe], [0xc0: 0x0108_0009, 0xc4: 0x3ff],
        [0xc0: 0x0108_0009, 0xc4: 0x1ff], [0xc0: 0x0108_0009, 0xc4: 0x100], [0xc0: 0xffff_0009], [0xc0: 0x0000_0009],
        // Base addresses, interrupt line and pin, the class.
        [0x10: 0xffff_ffff, 0x14: 0xffff_ffff], [0x10: 0, 0x14: 0], [0x3c: 0xffff_ffff], [0x3c: 0], [0x08: 0xffff_ffff],
    ]

    @Test(arguments: lists) func `configuration space full of nonsense is read to its end, and the card works`(
        words: [Int: UInt32]
    ) throws {
        let liar = try Liar(before: { card in
            card.lie { lies in
                lies.configuration = { offset, truth in
                    guard let word = words[offset & ~3] else { return truth }
                    return word >> UInt32(8 * (offset & 3))
                }
            }
        })
        try liar.pass(5000)
        // What asks for capabilities and base addresses again.
        for command in 0..<3 {
            switch command {
            case 0: try? liar.station.device.reset()
            case 1: try? liar.station.device.suspend()
            default: try? liar.station.device.resume()
            }
            _ = liar.station.device.examine()
        }
        liar.card.tellTruth()
        if liar.station.device.state.power != .d0 { try liar.station.device.reset() }
        try liar.expectWorking()
    }

    @Test(
        arguments: [[.msix: Int.max, .msi: -1], [.msix: 0, .msi: 0, .intx: 0], [:], [.msi: 3], [.intx: 7]]
            as [[InterruptKind: Int]]
    )
    func `a number of vectors that is not there is refused with a sentence, or not used`(vectors: [InterruptKind: Int])
        throws
    {
        do {
            let liar = try Liar(before: { card in card.lie { $0.vectors = vectors } })
            // Without an interrupt the driver looks by itself, as time goes on.
            let stream = liar.station.device.streams.open()
            #expect(try liar.station.wait(liar.station.write(pattern(100), stream)).status == .success)
            #expect(try liar.station.collect(100, by: 100) == pattern(100))
            liar.station.device.streams.close(stream)
        } catch let error as StatusError {
            #expect(error.sentence.contains("0000:01:00.0 has"))
        }
    }

    // MARK: Registers, counters, interrupts

    /// The registers that a driver reads, and one that it does not.
    static let registers: [UInt64] = [0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x100, 0x10c, 0x110, 0x114, 0x11c]
    static let values: [UInt64] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, .max, 0x5a5a_5a5a, 0x0000_3dff]

    /// Uses the card in all ways, none of which waits for it for long.
    private func use(_ liar: Liar, _ round: Int) {
        let station = liar.station
        station.write(pattern(100 + round % 3 * 40_000), nil, .nonblocking)
        _ = station.read(1 << 20, .nonblocking)
        _ = station.readiness(0)
        _ = station.readiness(1)
        station.advance(milliseconds: 600)
        for vector: UInt32 in [0, 1, 2, 3, 4, .max] { _ = liar.card.interrupt(vector) }
        switch round % 6 {
        case 1: station.dma.flush()
        case 2: try? station.device.suspend()
        case 3: try? station.device.resume()
        case 4: try? station.device.reset()
        case 5: try? station.dma.select(station.dma.engine == .system ? .common : .system)
        default: break
        }
        _ = station.dma.counters
        _ = station.dma.lastPlan
    }

    /// Brings a card that tells the truth again to work.
    private func recover(_ liar: Liar) throws {
        liar.card.tellTruth()
        let device = liar.station.device
        // What was reported missing is looked at once more by the worker.
        #expect(
            eventually {
                if device.state.pnp == .started, device.state.power == .d3 { try? device.resume() }
                if device.state.pnp != .started { try? device.start() }
                return device.state == (.started, .d0) && (try? device.reset()) != nil
            }
        )
        liar.station.dma.flush()
        _ = try? liar.station.collectAll()
        try liar.pass(5000)
        try liar.pass(200_000)
    }

    @Test(arguments: [DMAEngine.scatterGather, .common, .system], registers)
    func `nonsense in a register is survived, and the card works when it tells the truth`(
        engine: DMAEngine,
        register: UInt64
    )
        throws
    {
        let liar = try Liar(engine)
        for (round, value) in Self.values.enumerated() {
            liar.card.lie { $0.register = { offset, truth in offset == register ? value : truth } }
            use(liar, round)
        }
        try recover(liar)
    }

    @Test(arguments: [DMAEngine.scatterGather, .common, .system], 1...2 as ClosedRange<UInt64>)
    func `nonsense everywhere at once is survived`(engine: DMAEngine, seed: UInt64) throws {
        let liar = try Liar(engine, framing: seed % 2 == 0 ? .packet : .stream)
        let dice = Dice(seed)
        liar.card.lie { lies in
            lies.register = { offset, truth in dice.throwOne(of: 4) ? dice.next() : truth }
            lies.counter = { _, truth in dice.throwOne(of: 4) ? UInt32(truncatingIfNeeded: dice.next()) : truth }
            // The header stays: what the driver reads there it writes back, as the machine's own.
            lies.configuration = { offset, truth in
                offset >= 0x34 && dice.throwOne(of: 8) ? UInt32(truncatingIfNeeded: dice.next()) : truth
            }
        }
        for round in 0..<12 {
            use(liar, round)
            for entry in 0..<8 {
                let word = UInt32(truncatingIfNeeded: dice.next())
                liar.card.finish(receiving: true, (entry + round * 8) % 128, word)
                liar.card.finish(receiving: false, (entry + round * 8) % 128, word | 1 << 16)
            }
        }
        try recover(liar)
    }
}

extension BaseAddressRegister {
    /// The same with other numbers.
    fileprivate func with(index: Int? = nil, address: UInt64? = nil, byteCount: UInt64? = nil) -> BaseAddressRegister {
        BaseAddressRegister(
            index: index ?? self.index,
            kind: kind,
            isPrefetchable: isPrefetchable,
            address: address.map { PhysicalAddress($0) } ?? self.address,
            byteCount: byteCount ?? self.byteCount
        )
    }
}

/// Numbers that look like nonsense and come again in each run. Any thread.
private final class Dice: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var state: UInt64

    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
    deinit { lock.destroy() }

    func next() -> UInt64 {
        lock.locked {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            // Small, great and in between.
            return state >> (state & 31)
        }
    }

    func throwOne(of count: UInt64) -> Bool { next() % count == 0 }
}
