import Glibc

/// What the machine wrote into the configuration header of a function, so that it can be written again when the function has
/// forgotten it: after its FPGA was loaded, or its slot had no power.
public struct ConfigurationSnapshot: Hashable, Sendable {
    /// Where the words that are kept lie: base addresses, expansion ROM, cache line size and latency, interrupt line.
    private static let offsets =
        (0..<6).map { ConfigurationSpace.baseAddress0 + 4 * $0 } + [0x30, 0x0c, ConfigurationSpace.interruptLine & ~3]

    private var words: [UInt32]
    private var command: UInt32

    /// Reads what a function has now.
    public init(of function: any PCIFunction) throws(BusError) {
        words = []
        for offset in Self.offsets { words.append(try function.readConfiguration(offset, .long)) }
        command = try function.readConfiguration(ConfigurationSpace.command, .word)
    }

    /// Writes it back: the command register last, so that nothing is decoded before it has its place, and bus mastering left
    /// off.
    public func restore(to function: any PCIFunction) throws(BusError) {
        for (offset, word) in zip(Self.offsets, words) { try function.writeConfiguration(word, offset, .long) }
        let command = self.command & ~UInt32(ConfigurationSpace.Command.busMaster.rawValue)
        try function.writeConfiguration(command, ConfigurationSpace.command, .word)
    }

    /// Whether the function has lost what was written, as after power-on: an address reads 0, or memory is not decoded any
    /// more. Another address is none that was lost: the machine may have moved the function.
    public func isForgotten(by function: any PCIFunction) throws(BusError) -> Bool {
        let now = try ConfigurationSnapshot(of: function)
        for (before, now) in zip(words, now.words).prefix(6) where before >> 4 != 0 && now >> 4 == 0 { return true }
        return command & ~now.command & UInt32(ConfigurationSpace.Command.memorySpace.rawValue) != 0
    }
}

extension PCIFunction {
    /// Puts the function into a power state by its power management capability, and waits the 10 ms it may take (PCI Bus Power
    /// Management Interface 1.2, 5.6.1). Does nothing to a function without the capability. `state` is 0 for D0, 3 for D3hot.
    public func setPowerState(_ state: UInt32) throws(BusError) {
        let id = ConfigurationSpace.Capability.powerManagement
        guard let capability = try capability(id, byteCount: ConfigurationSpace.powerManagementByteCount) else {
            return
        }
        let offset = capability + ConfigurationSpace.powerManagementControl
        let old = try readConfiguration(offset, .word)
        guard old & 3 != state else { return }
        // Bit 15 is cleared by writing it: a wake-up that is pending stays so.
        try writeConfiguration(old & 0x7ffc | state, offset, .word)
        usleep(10_000)
    }
}
