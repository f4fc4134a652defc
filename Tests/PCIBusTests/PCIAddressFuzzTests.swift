import Fuzz
import PCIBus
import Testing

@Suite struct PCIAddressFuzzTests {
    /// `DDDD:BB:DD.F` or `BB:DD.F`, read by a regular expression.
    private func reading(_ text: String) -> PCIAddress? {
        guard text.utf8.allSatisfy({ $0 < 0x80 }),
            let match = text.wholeMatch(
                of: #/(?:([0-9A-Fa-f]{4}):)?([0-9A-Fa-f]{2}):([01][0-9A-Fa-f])\.([0-7])/#
            ),
            let domain = UInt16(match.1 ?? "0", radix: 16), let bus = UInt8(match.2, radix: 16),
            let device = UInt8(match.3, radix: 16), let function = UInt8(match.4, radix: 16)
        else { return nil }
        return PCIAddress(domain: domain, bus: bus, device: device, function: function)
    }

    @Test func `an address is what lspci writes, and nothing else`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(3000) {
            let address = PCIAddress(
                domain: fuzz.once(in: 2) ? 0 : UInt16(truncatingIfNeeded: fuzz.next()),
                bus: UInt8(truncatingIfNeeded: fuzz.next()),
                device: UInt8(fuzz.below(32)),
                function: UInt8(fuzz.below(8))
            )
            #expect(PCIAddress(address.description) == address)
            let short = String(address.description.dropFirst(5))
            #expect(PCIAddress(short) == PCIAddress("0000:" + short))
            let text = String(
                decoding: fuzz.mutated(Array(fuzz.pick([address.description, short]).utf8)),
                as: UTF8.self
            )
            #expect(PCIAddress(text) == reading(text), "seed \(fuzz.seed): '\(Fuzz.quoted(text.utf8))'")
        }
    }
}
