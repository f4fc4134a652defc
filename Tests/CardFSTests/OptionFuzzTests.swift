import CardFS
import Fuzz
import PCIBus
import Testing

/// Random and mutated `-o` lists: each is taken as another reading of the manual takes it, or refused by the name of its option.
@Suite struct OptionFuzzTests {
    private let times: [(name: String, key: WritableKeyPath<MountOptions, UInt64>, limit: UInt64)] = [
        ("gather", \.gatherNanoseconds, 365 * 86400 * 1_000_000_000),
        ("tx_timeout", \.transmitTimeoutNanoseconds, 365 * 86400 * 1_000_000_000),
        ("rx_timeout", \.receiveTimeoutNanoseconds, 365 * 86400 * 1_000_000_000),
        ("loan_timeout", \.loanTimeoutNanoseconds, 365 * 86400 * 1_000_000_000),
        ("linger", \.lingerNanoseconds, 365 * 86400 * 1_000_000_000),
        ("reload_timeout", \.reloadTimeoutNanoseconds, 365 * 86400 * 1_000_000_000),
        ("spin", \.spinNanoseconds, 1_000_000_000),
    ]
    private static let timeUnits: [String: UInt64] = ["ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000]
    private static let sizeUnits: [String: UInt64] = [
        "K": 1 << 10, "k": 1 << 10, "M": 1 << 20, "m": 1 << 20, "G": 1 << 30, "g": 1 << 30,
    ]

    private func parsed(_ list: String) -> Result<MountOptions, Refusal> {
        do throws(Refusal) { return .success(try MountOptions([list])) } catch { return .failure(error) }
    }

    /// The value of an option, nearly right; no comma, which would end it.
    private func value(_ fuzz: inout Fuzz, units: [String]) -> String {
        var text = fuzz.numberText(fuzz.number())
        if !fuzz.once(in: 3) { text += fuzz.pick(units) }
        var bytes = Array(text.utf8)
        if fuzz.once(in: 2) { bytes = fuzz.mutated(bytes) }
        return String(decoding: bytes.filter { $0 != UInt8(ascii: ",") }, as: UTF8.self)
    }

    /// Compares what came of `name=text` with what should: nothing else has changed, or the option is named.
    private func expect(_ name: String, _ text: String, _ expected: MountOptions?, _ seed: UInt64) {
        let what = "seed \(seed): \(name)='\(Fuzz.quoted(text.utf8))'"
        switch parsed("\(name)=\(text)") {
        case .success(let options): #expect(options == expected, "\(what)")
        case .failure(let refusal):
            #expect(expected == nil, "\(what): \(refusal.sentence)")
            #expect(refusal.sentence.hasPrefix("option \(name)"), "\(what): \(refusal.sentence)")
        }
    }

    @Test func `a time is what its number and its unit say`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(2000) {
            let (name, key, limit) = fuzz.pick(times)
            let text = value(&fuzz, units: Array(Self.timeUnits.keys) + ["m", "h", "S"])
            let time = NumberRules.quantity(text, units: Self.timeUnits, alone: 1_000_000_000)
            var expected: MountOptions?
            if let time, time <= limit {
                expected = MountOptions()
                expected?[keyPath: key] = time
            }
            expect(name, text, expected, fuzz.seed)
        }
    }

    @Test func `a size is what its number and its letter say`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(1000) {
            let isReceiver = fuzz.once(in: 2)
            let text = value(&fuzz, units: Array(Self.sizeUnits.keys) + ["T", "B"])
            let size = NumberRules.quantity(text, units: Self.sizeUnits, alone: 1)
            var expected: MountOptions?
            if let size, isReceiver ? (4096...1 << 36).contains(size) : size <= 1 << 30 {
                expected = MountOptions()
                if isReceiver { expected?.receiverByteCount = Int(size) } else { expected?.directThreshold = Int(size) }
            }
            expect(isReceiver ? "receiver" : "direct_threshold", text, expected, fuzz.seed)
        }
    }

    @Test func `a number is one in its range`() {
        var fuzz = Fuzz()
        let options: [(name: String, range: ClosedRange<UInt64>, set: (inout MountOptions, UInt64) -> Void)] = [
            ("uid", 0...0xffff_fffe, { $0.uid = UInt32($1) }), ("gid", 0...0xffff_fffe, { $0.gid = UInt32($1) }),
            ("dma_bits", 24...32, { $0.simulatedAddressBits = Int($1) }),
            ("scatter_gather", 0...1, { $0.simulatedScatterGather = $1 == 1 }),
            ("map_registers", 2...1024, { $0.simulatedMapRegisters = Int($1) }),
            ("threads", 1...8, { $0.threads = Int($1) }),
        ]
        for _ in 0..<Fuzz.rounds(1500) {
            let option = fuzz.pick(options)
            var text = value(&fuzz, units: ["", "", " ", "K"])
            if fuzz.once(in: 2) {
                text = fuzz.numberText(UInt64(fuzz.below(Int(min(2 * option.range.upperBound, 1 << 40)))))
            }
            var expected: MountOptions?
            if !text.utf8.contains(where: { $0 <= 0x20 }),
                case .value(let number) = NumberRules.number(text[...], limit: .max), option.range.contains(number)
            {
                var changed = MountOptions()
                option.set(&changed, number)
                expected = changed
            }
            expect(option.name, text, expected, fuzz.seed)
        }
    }

    @Test func `permissions are up to 777 in octal`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(1000) {
            var bytes = Array((fuzz.pick(["", "0", "0o", "00"]) + String(fuzz.below(0o2000), radix: 8)).utf8)
            if fuzz.once(in: 2) { bytes = fuzz.mutated(bytes) }
            let text = String(decoding: bytes.filter { $0 != UInt8(ascii: ",") }, as: UTF8.self)
            let digits = text.hasPrefix("0o") ? text.dropFirst(2) : text[...]
            var expected: MountOptions?
            // More digits than any number has, all of them 0 but the last three, are no reason to refuse.
            let isOctal = !digits.isEmpty && digits.unicodeScalars.allSatisfy { ("0"..."7").contains($0) }
            let significant = digits.drop { $0 == "0" }
            if isOctal, significant.count <= 3 {
                expected = MountOptions()
                expected?.mode = significant.reduce(0) { $0 * 8 + UInt32($1.wholeNumberValue ?? 0) }
            }
            expect("mode", text, expected, fuzz.seed)
        }
    }

    @Test func `any list at all is taken or refused, and one with a word nobody knows is refused`() {
        var fuzz = Fuzz()
        let names = MountOptions.help.split(separator: "\n").map { line in
            String(line.drop { $0 == " " }.prefix { $0 != " " && $0 != "=" })
        }
        let others = ["defaults", "nodev", "suid", "x-systemd.automount", "user=bob", "noatime", "comment=x"]
        for _ in 0..<Fuzz.rounds(1500) {
            var items = (0...fuzz.below(4)).map { _ in
                let name = fuzz.pick(names + others)
                return fuzz.once(in: 2) ? name : name + "=" + value(&fuzz, units: ["s", "K", ""])
            }
            let whole = items.joined(separator: ",")
            let bytes = fuzz.once(in: 2) ? fuzz.mutated(Array(whole.utf8)) : Array(whole.utf8)
            let list = String(decoding: bytes, as: UTF8.self)
            let what = "seed \(fuzz.seed): '\(Fuzz.quoted(list.utf8))'"
            // The same twice is the same: an option says what is, not what is to be added.
            if case .success(let options) = parsed(list) {
                #expect(parsed(list + "," + list) == .success(options), "\(what)")
            } else if case .failure(let refusal) = parsed(list) {
                #expect(!refusal.sentence.isEmpty, "\(what)")
            }
            items.insert("no_such_option", at: fuzz.below(items.count + 1))
            if case .success = parsed(items.joined(separator: ",")) { Issue.record("\(what)") }
        }
    }
}
