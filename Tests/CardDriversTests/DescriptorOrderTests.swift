import CHardware
import DriverCore
import PCIBus
import SimulatedCard
import Synchronization
import Testing

/// What a card may see of its descriptor table while the driver fills it: a card looks whenever it likes, not only when the
/// doorbell rings.
@Suite struct DescriptorOrderTests {
    /// The card's view: its descriptor table, and all memory it reaches.
    private final class View: @unchecked Sendable {  // constant but for the atomics
        static let enable: UInt32 = 1 << 16
        static let wrap: UInt32 = 1 << 17
        static let interrupt: UInt32 = 1 << 18
        static let tableByteCount: UInt64 = 8192

        let mappings: [(start: UInt64, bytes: UnsafeMutableRawBufferPointer)]
        /// Where the next descriptor will be; 0 while nothing is to be watched.
        let watched = Atomic<UInt64>(0)
        let isOver = Atomic<Bool>(false)
        /// The round that was looked at last.
        let seen = Atomic<Int>(0)
        /// Descriptors that were behind an enabled one and were not enabled, and bytes that were not those to be sent.
        let early = Atomic<Int>(0)
        let wrong = Atomic<Int>(0)

        init(_ function: WatchedFunction) { mappings = function.mappings }

        func pointer(_ logical: UInt64) -> UnsafeMutableRawPointer? {
            for mapping in mappings where logical >= mapping.start {
                let offset = logical - mapping.start
                if offset < UInt64(mapping.bytes.count) { return mapping.bytes.baseAddress.map { $0 + Int(offset) } }
            }
            return nil
        }

        /// A word of the table, with everything the driver wrote before it.
        private func word(_ logical: UInt64) -> UInt32 {
            guard let place = pointer(logical) else { return 0 }
            return place.assumingMemoryBound(to: Atomic<UInt32>.self).pointee.load(ordering: .acquiring)
        }

        /// The address of a descriptor that was found enabled. Read plainly: where the enable bit does not order what the driver
        /// wrote before it, ThreadSanitizer sees a race here.
        private func address(_ descriptor: UInt64) -> UInt64 {
            UInt64(pointer(descriptor + 4)?.load(as: UInt32.self) ?? 0)
        }

        /// Waits for each first descriptor, then looks at those behind it.
        func watch() {
            while !isOver.load(ordering: .acquiring) {
                let first = watched.load(ordering: .acquiring)
                guard first != 0, word(first) & Self.enable != 0 else {
                    chw_pause()
                    continue
                }
                look(first)
                watched.store(0, ordering: .releasing)
                seen.wrappingAdd(1, ordering: .acquiringAndReleasing)
            }
        }

        private func look(_ first: UInt64) {
            var place = first
            var offset = 0
            for _ in 0..<64 {
                let descriptor = word(place)
                guard descriptor & Self.enable != 0 else {
                    early.wrappingAdd(1, ordering: .relaxed)
                    return
                }
                let count = Int(descriptor & 0xffff)
                if count > 0, let bytes = pointer(address(place))?.assumingMemoryBound(to: UInt8.self) {
                    if bytes[0] != Self.byte(offset) || bytes[count - 1] != Self.byte(offset + count - 1) {
                        wrong.wrappingAdd(1, ordering: .relaxed)
                    }
                }
                offset += count
                if descriptor & Self.interrupt != 0 { return }
                place = descriptor & Self.wrap != 0 ? place & ~(Self.tableByteCount - 1) : place + 8
            }
            early.wrappingAdd(1, ordering: .relaxed)
        }

        /// What ``pattern(_:seed:)`` has at a place.
        private static func byte(_ place: Int) -> UInt8 { UInt8(truncatingIfNeeded: place &* 0x9e37_79b9 >> 13) }
    }

    struct Way: Sendable, CustomTestStringConvertible {
        var engine: DMAEngine
        var bits = 32
        var testDescription: String { "\(engine.rawValue), \(bits) bits" }
    }

    @Test(arguments: [Way(engine: .scatterGather), Way(engine: .common), Way(engine: .scatterGather, bits: 24)])
    func `a card that finds the first descriptor of a transfer enabled finds all of it, and its bytes`(way: Way) throws
    {
        var configuration = SimulatedBus.Configuration()
        configuration.addressBits = way.bits
        let bus = SimulatedBus(configuration)
        let function = WatchedFunction(try bus.open(PCIAddress(bus: 1, device: 0, function: 0)))
        let station = try Station(function: { _ in function })
        try station.dma.select(way.engine)
        try station.set("wire", "sink")
        let view = View(function)
        let window = try function.map(bar: 0)
        let card = Thread(name: "card") { view.watch() }
        defer {
            view.isOver.store(true, ordering: .releasing)
            card.join()
        }
        for round in 1...40 {
            // The card itself keeps still: what it has taken would not be enabled any more.
            try station.set("fault", "hang-tx")
            view.watched.store(UInt64(window.load32(0x14)), ordering: .releasing)
            let write = station.write(pattern(1_000_000))
            try #require(eventually { view.seen.load(ordering: .acquiring) == round })
            try station.set("fault", "none")
            #expect(try station.wait(write).information == 1_000_000)
            try #require(eventually { station.counter("tx_sent_bytes_total") == round * 1_000_000 })
        }
        #expect(view.early.load(ordering: .relaxed) == 0 && view.wrong.load(ordering: .relaxed) == 0)
        station.expectBalance()
    }
}
