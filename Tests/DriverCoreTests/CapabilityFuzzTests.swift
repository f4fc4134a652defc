import CHardware
import DriverCore
import Fuzz
import PCIBus
import Testing

/// Configuration space as a hostile card has it: whatever stands there, it is followed no further than it goes.
@Suite struct CapabilityFuzzTests {
    /// A function with a list of capabilities that may be whole, broken, endless or made of chance.
    private func function(_ fuzz: inout Fuzz) -> FakeFunction {
        let function = FakeFunction()
        if fuzz.once(in: 4) {
            for offset in 0x34..<256 { function.configuration[offset] = UInt8(truncatingIfNeeded: fuzz.next()) }
        }
        var place = 0x34
        var offset = 0x40 + 4 * fuzz.below(48)
        for _ in 0..<fuzz.below(60) {
            function.configuration[place] = UInt8(offset + fuzz.below(4))
            if offset >= 0x40 { function.configuration[offset] = fuzz.pick([0x01, 0x05, 0x09, 0x10, 0x11, 0xff, 0]) }
            // Below lies what other fields of the header say.
            if offset < 0x40 { break }
            place = offset + 1
            offset = fuzz.once(in: 20) ? 4 * fuzz.below(64) : 0x40 + 4 * fuzz.below(48)
        }
        if !fuzz.once(in: 8) { function.put(0x10, at: ConfigurationSpace.status) }
        return function
    }

    /// The first place of a capability, by the specification: pointers are multiples of 4 behind the header, and a place that
    /// comes again is the end.
    private func reading(_ bytes: [UInt8], _ id: UInt8) -> Int? {
        guard bytes[6] & 0x10 != 0 else { return nil }
        var seen: Set<Int> = []
        var offset = Int(bytes[0x34]) / 4 * 4
        while offset >= 0x40, seen.insert(offset).inserted {
            if bytes[offset] == id { return offset }
            offset = Int(bytes[offset + 1]) / 4 * 4
        }
        return nil
    }

    @Test func `a list of capabilities is followed to its end, and round in a circle once`() throws {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(1500) {
            let function = function(&fuzz)
            for id in [0x01, 0x05, 0x09, 0x10, 0x11, 0x42] as [UInt8] {
                #expect(try function.capability(id) == reading(function.configuration, id), "seed \(fuzz.seed), \(id)")
            }
        }
    }

    @Test func `a card with any list starts or is refused, and leaves nothing behind`() throws {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(40) {
            let function = function(&fuzz)
            let device = try makeDevice(function)
            _ = status { () throws(StatusError) in try device.start() }
            _ = status { () throws(StatusError) in try device.suspend() }
            _ = status { () throws(StatusError) in try device.resume() }
            _ = status { () throws(StatusError) in try device.reset() }
            if device.state.pnp == .started {
                #expect(status { () throws(StatusError) in try device.stop() } == .success)
            }
            #expect(
                function.mappedBARs.isEmpty && function.mappings.isEmpty && function.sink == nil,
                "seed \(fuzz.seed)"
            )
            #expect(function.command & 4 == 0, "seed \(fuzz.seed)")
        }
    }
}
