public import PCIBus

/// A register with a name, as a card driver describes it.
public struct RegisterDescription: Sendable {
    /// The file name under `regs/`: lower case, no suffix.
    public var name: String
    /// Offset in BAR0.
    public var offset: UInt64
    /// How it is accessed.
    public var width: AccessWidth
    /// Whether a write has a meaning.
    public var isWritable: Bool
    /// The driver owns it: a write from outside would pull the ground from under a transfer.
    public var isDriverOwned: Bool
    /// One line for a person.
    public var summary: String

    /// Describes a register.
    public init(
        _ name: String,
        at offset: UInt64,
        width: AccessWidth = .long,
        isWritable: Bool = true,
        isDriverOwned: Bool = false,
        _ summary: String
    ) {
        self.name = name
        self.offset = offset
        self.width = width
        self.isWritable = isWritable
        self.isDriverOwned = isDriverOwned
        self.summary = summary
    }
}

/// What a card driver says of its registers.
public struct RegisterMap: Sendable {
    /// The named registers, by rising offset.
    public var registers: [RegisterDescription]
    /// The window of BAR0 that the files `bar0` and `offset` reach.
    public var window: Range<UInt64>
    /// BARs whose contents a stray write must not reach: EACCES unless the mount allows it.
    public var protectedBARs: Set<Int>

    /// A 32-bit register of BAR0 that is read without an effect and never reads 0 or all ones while the card is there, awake
    /// and decoding. It is read behind each write, since a write alone tells nothing; without one, configuration space is.
    public var presence: UInt64?

    /// Registers of BAR0, from its beginning up to this offset, to which the driver carries out the stores itself, once it has
    /// given ``RegisterSpace/setStoreRoutine(context:_:)`` a routine: those it writes too, and those it has to write again when the
    /// card has forgotten them.
    public var carriedOutByDriver: UInt64 = 0

    /// Describes the registers of a card.
    public init(
        registers: [RegisterDescription],
        window: Range<UInt64>,
        protectedBARs: Set<Int>,
        presence: UInt64? = nil,
        carriedOutByDriver: UInt64 = 0
    ) {
        self.registers = registers
        self.window = window
        self.protectedBARs = protectedBARs
        self.presence = presence
        self.carriedOutByDriver = carriedOutByDriver
    }
}
