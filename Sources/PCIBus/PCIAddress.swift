/// Where a PCI function sits: domain, bus, device, function, as `lspci -D` writes it (`0000:02:00.0`).
public struct PCIAddress: Hashable, Comparable, Sendable, LosslessStringConvertible {
    /// PCI segment group.
    public var domain: UInt16
    /// Bus number, 0…255.
    public var bus: UInt8
    /// Device number, 0…31.
    public var device: UInt8
    /// Function number, 0…7.
    public var function: UInt8

    /// Makes an address; traps when the device or function number does not exist.
    public init(domain: UInt16 = 0, bus: UInt8, device: UInt8, function: UInt8) {
        precondition(device < 32 && function < 8)
        self.domain = domain
        self.bus = bus
        self.device = device
        self.function = function
    }

    /// Reads `DDDD:BB:DD.F` or, in domain 0, `BB:DD.F`, digits hexadecimal; nil for anything else.
    public init?(_ description: String) {
        let dot = description.split(separator: ".", omittingEmptySubsequences: false)
        guard dot.count == 2, let function = Self.field(dot[1], digits: 1...1), function < 8 else { return nil }
        let parts = dot[0].split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2 || parts.count == 3 else { return nil }
        var domain: UInt32 = 0
        if parts.count == 3 {
            guard let read = Self.field(parts[0], digits: 4...4) else { return nil }
            domain = read
        }
        guard let bus = Self.field(parts[parts.count - 2], digits: 2...2),
            let device = Self.field(parts[parts.count - 1], digits: 2...2), device < 32
        else { return nil }
        self.init(domain: UInt16(domain), bus: UInt8(bus), device: UInt8(device), function: UInt8(function))
    }

    private static func field(_ text: Substring, digits: ClosedRange<Int>) -> UInt32? {
        guard digits.contains(text.utf8.count),
            text.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") })
        else { return nil }
        return UInt32(text, radix: 16)
    }

    /// The address as `lspci -D` writes it.
    public var description: String {
        "\(hexadecimal(domain, digits: 4)):\(hexadecimal(bus, digits: 2)):\(hexadecimal(device, digits: 2)).\(function)"
    }

    /// Orders as `lspci` lists.
    public static func < (left: PCIAddress, right: PCIAddress) -> Bool {
        (left.domain, left.bus, left.device, left.function) < (right.domain, right.bus, right.device, right.function)
    }
}

/// `value` in lower-case hexadecimal with at least `digits` digits and no prefix.
public func hexadecimal(_ value: some FixedWidthInteger & UnsignedInteger, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
}
