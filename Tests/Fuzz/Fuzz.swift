import Glibc

/// Random and mutated input for the parsers, from a seed that is told with each failure.
///
/// `CARDFS_FUZZ_SEED` gives the seed of an earlier run, `CARDFS_FUZZ` how many times as many inputs as usual are tried.
public struct Fuzz: RandomNumberGenerator {
    /// What everything is made from.
    public let seed: UInt64
    private var state: UInt64

    /// Begins with the seed that was asked for, or with another one each time.
    public init() {
        let wanted = getenv("CARDFS_FUZZ_SEED").flatMap { UInt64(String(cString: $0)) }
        seed = wanted ?? UInt64.random(in: 0...UInt64(UInt32.max))
        state = seed
    }

    /// How many inputs are tried where `usual` are by default.
    public static func rounds(_ usual: Int) -> Int {
        let factor = getenv("CARDFS_FUZZ").flatMap { Int(String(cString: $0)) } ?? 1
        return usual * max(1, min(factor, 1_000_000))
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// A number from 0 on, below `end`.
    public mutating func below(_ end: Int) -> Int { Int.random(in: 0..<end, using: &self) }

    /// True once in `count` times.
    public mutating func once(in count: Int) -> Bool { below(count) == 0 }

    /// One of several; there must be one.
    public mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }

    /// A number of any size: as many with 3 bits as with 60.
    public mutating func number() -> UInt64 { next() >> UInt64(below(64)) }

    /// A number as a person writes one: in a base, in small letters or capitals, sometimes with zeros in front.
    public mutating func numberText(_ value: UInt64) -> String {
        let zeros = once(in: 6) ? String(repeating: "0", count: below(30)) : ""
        switch below(4) {
        case 0: return String(value)
        case 1: return pick(["0b", "0B"]) + zeros + String(value, radix: 2)
        case 2: return pick(["0o", "0O"]) + zeros + String(value, radix: 8)
        default: return pick(["0x", "0X"]) + zeros + String(value, radix: 16, uppercase: once(in: 2))
        }
    }

    /// `bytes` with a few bytes taken out, put in, changed, swapped or said twice.
    public mutating func mutated(_ bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        for _ in 0...below(3) {
            let place = below(bytes.count + 1)
            switch below(6) {
            case 0: bytes.insert(byte(), at: place)
            case 1 where place < bytes.count: bytes.remove(at: place)
            case 2 where place < bytes.count: bytes[place] = byte()
            case 3 where bytes.count > 1: bytes.swapAt(below(bytes.count), below(bytes.count))
            case 4: bytes.insert(contentsOf: bytes[place...].prefix(1 + below(4)), at: place)
            default: bytes.removeSubrange(place..<min(bytes.count, place + below(3)))
            }
        }
        return bytes
    }

    /// A byte that a parser of numbers and words may stumble on, or any.
    private mutating func byte() -> UInt8 {
        let likely = Array("0123456789abcdefABCDEFxXoO:.,=-+_ \t\nsmukMG%\u{1b}\"'\\/".utf8)
        return once(in: 8) ? UInt8(truncatingIfNeeded: next()) : pick(likely)
    }

    /// A text for a person who looks for the input again.
    public static func quoted(_ bytes: some Sequence<UInt8>) -> String {
        bytes.reduce(into: "") { text, byte in
            if (0x20..<0x7f).contains(byte), byte != UInt8(ascii: "\\") {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let digits = String(byte, radix: 16)
                text += "\\x" + (digits.utf8.count < 2 ? "0" : "") + digits
            }
        }
    }
}
