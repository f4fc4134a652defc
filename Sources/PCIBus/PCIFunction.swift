public import CHardware

/// A base address register of a function: where the BAR is and how it may be used.
public struct BaseAddressRegister: Hashable, Sendable {
    /// What address space the BAR decodes.
    public enum Kind: Hashable, Sendable {
        /// 32-bit memory.
        case memory32
        /// 64-bit memory; the next index belongs to this BAR as well.
        case memory64
        /// I/O ports.
        case io
    }

    /// 0…5.
    public var index: Int
    /// The address space.
    public var kind: Kind
    /// No read side effects, so that reads may be prefetched and writes merged.
    public var isPrefetchable: Bool
    /// Where the BAR decodes: the address the host sees.
    public var address: PhysicalAddress
    /// Its size, a power of two.
    public var byteCount: UInt64

    /// Describes a BAR.
    public init(index: Int, kind: Kind, isPrefetchable: Bool, address: PhysicalAddress, byteCount: UInt64) {
        self.index = index
        self.kind = kind
        self.isPrefetchable = isPrefetchable
        self.address = address
        self.byteCount = byteCount
    }

    /// The most bytes a BAR may have here: more than any machine has room for, and few enough to be counted in signed numbers.
    public static let largest: UInt64 = 1 << 56

    /// Whether the numbers can be so: an index of the header, bytes, and an end that is an address.
    public var isSound: Bool {
        (0..<6).contains(index) && (1...Self.largest).contains(byteCount)
            && !address.value.addingReportingOverflow(byteCount - 1).overflow
    }
}

extension PCIFunction {
    /// The BARs whose numbers can be so, each index once. What a card or its bus says of others is as if it were not there: this
    /// is the list for who uses the numbers.
    public var usableBARs: [BaseAddressRegister] {
        var seen: Set<Int> = []
        return baseAddressRegisters.filter { $0.isSound && seen.insert($0.index).inserted }
    }
}

/// The ways a function can interrupt.
public enum InterruptKind: String, Hashable, Sendable, CaseIterable {
    /// Message-signalled with a table of vectors.
    case msix = "MSI-X"
    /// Message-signalled.
    case msi = "MSI"
    /// A level-triggered pin, which may be shared.
    case intx = "INTx"
}

/// What the card may do with memory that is mapped for it; the device's view, as in VFIO_IOMMU_MAP_DMA.
public struct DMAAccess: OptionSet, Hashable, Sendable {
    /// The bits.
    public let rawValue: Int
    /// Makes a set.
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// The card may read the memory.
    public static let read = DMAAccess(rawValue: 1)
    /// The card may write the memory.
    public static let write = DMAAccess(rawValue: 2)
}

/// Memory a bus can map for DMA: page-aligned, resident, zeroed, and fit to be the target of a system call.
public struct DMAMemory: @unchecked Sendable {  // a description; who may touch the bytes is the owner's business
    /// The first byte.
    public let base: UnsafeMutableRawPointer
    /// A multiple of ``Page/size``.
    public let byteCount: Int
    /// The page frame of each page, in order; they need not follow each other. nil when the platform does not tell.
    public let frames: UnsafePointer<UInt64>?
    /// A descriptor of the file these bytes are, which other processes can map to read them; nil for memory of this process
    /// alone.
    public let file: CInt?

    /// Describes memory.
    public init(
        base: UnsafeMutableRawPointer,
        byteCount: Int,
        frames: UnsafePointer<UInt64>?,
        file: CInt? = nil
    ) {
        self.base = base
        self.byteCount = byteCount
        self.frames = frames
        self.file = file
    }
}

/// A named control that a bus offers beside the function, such as the far end of a simulated wire. Shown under `sim/`.
public struct BusControl: Sendable {
    /// The file name.
    public var name: String
    /// One line on what it does and what may be written.
    public var summary: String
    /// The text a reader gets, each line ended by a newline. Any thread.
    public var read: @Sendable () -> String
    /// Takes one line without its newline; nil for a control that only shows. Any thread.
    public var write: (@Sendable (String) throws(BusError) -> Void)?

    /// Describes a control.
    public init(
        name: String,
        summary: String,
        read: @escaping @Sendable () -> String,
        write: (@Sendable (String) throws(BusError) -> Void)?
    ) {
        self.name = name
        self.summary = summary
        self.read = read
        self.write = write
    }
}

/// What is called when a vector fires: a plain function, because it runs where nothing may be allocated.
public struct InterruptSink: @unchecked Sendable {  // the context outlives the connection, which its owner guarantees
    /// The routine's context.
    public let context: UnsafeMutableRawPointer
    /// The interrupt service routine. Called on a thread of the bus, at device level: it must not block.
    public let routine: chw_service_routine

    /// Names a routine and its context.
    public init(context: UnsafeMutableRawPointer, routine: @escaping chw_service_routine) {
        self.context = context
        self.routine = routine
    }
}

/// What a bus tells of a function by itself.
public enum FunctionEvent: Hashable, Sendable {
    /// The platform wants the function back, because it is being unplugged or unbound, and waits until
    /// ``PCIFunction/release()``.
    case releaseRequested
    /// The function has left the bus.
    case removed
    /// The function, or a bridge on the way to it, reported an uncorrectable error: what was under way may be lost.
    case errorReported
}

/// One PCI function, as a driver reaches it. Everything above this protocol is the same for silicon and for a model of it.
///
/// The calls below may block and are made at passive level, by one thread at a time unless they say otherwise. The data
/// path uses none of them: it goes through ``RegisterWindow`` and memory that was mapped before.
public protocol PCIFunction: AnyObject, Sendable {
    /// Where the function sits.
    var address: PCIAddress { get }

    /// One word for people: `simulated`, `vfio`.
    var busName: String { get }

    /// Bytes of configuration space: 256 or 4096.
    var configurationSize: Int { get }

    /// Reads 1, 2 or 4 bytes, naturally aligned, in exactly one configuration access. Any thread.
    func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32

    /// Writes 1, 2 or 4 bytes, naturally aligned, in exactly one configuration access. Any thread.
    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError)

    /// The BARs that exist, by rising index, as the platform placed them. See ``usableBARs``.
    var baseAddressRegisters: [BaseAddressRegister] { get }

    /// Maps a BAR. The function must be in D0 with memory decoding on for accesses to reach it; otherwise reads return
    /// all ones and writes vanish.
    func map(bar index: Int) throws(BusError) -> RegisterWindow

    /// Ends the mapping of a BAR.
    func unmap(bar index: Int)

    /// The logical addresses the platform can translate for this function, as closed ranges.
    var logicalAddressRanges: [ClosedRange<LogicalAddress>] { get }

    /// The most map registers a driver of this function gets from the platform; nil for as many as it wants.
    var mapRegisterLimit: Int? { get }

    /// The channels of the machine's slave DMA controller that the function's request lines are wired to: the first to the
    /// function, the second from it. Empty where there is no such controller. What is mapped for the function is mapped for
    /// its channels.
    var slaveDMAChannels: [SlaveDMAChannel] { get }

    /// Takes zeroed memory that can be mapped for DMA; `byteCount` is rounded up to pages.
    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory

    /// As ``allocateMemory(byteCount:)``, for memory that programs of the same user may map to read it: it has a
    /// ``DMAMemory/file`` where the platform can do that.
    func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory

    /// Gives memory back. Nothing of it may be mapped for the card; who else has mapped it keeps the bytes.
    func freeMemory(_ memory: DMAMemory)

    /// Lets the card reach memory of ``allocateMemory(byteCount:)`` at `logical`…, for which all three arguments are
    /// multiples of the page size. EINVAL for what is not aligned, empty, outside the ranges; EEXIST for an overlap.
    func mapDMA(
        _ base: UnsafeMutableRawPointer,
        byteCount: Int,
        at logical: LogicalAddress,
        access: DMAAccess
    ) throws(BusError)

    /// Takes whole mappings away again; EINVAL if the range cuts one in two.
    func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError)

    /// How many vectors there are of each kind; a kind that is not there is absent.
    var interruptVectors: [InterruptKind: Int] { get }

    /// Routes `count` vectors of a kind to a sink and enables them. Only one kind at a time.
    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError)

    /// Disables all vectors; when it returns, no call of the sink is running or will come.
    func disconnectInterrupts()

    /// Function level reset: the card is as after power-on, its configuration restored, bus mastering off.
    func resetFunction() throws(BusError)

    /// Names who is told of events; nil for nobody. The sink is called on a thread of the bus and must hand the work on: it
    /// may not call ``release()`` or ``close()``. Any thread.
    func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?)

    /// Gives the function back to the platform, which may then take it away; memory stays allocated. Everything of it is
    /// unmapped and disconnected first. Until ``reclaim()`` the function answers like one that is gone: ENODEV.
    func release()

    /// Takes the function anew after ``release()``: the one that sits at the same address now, which may be another card, with
    /// other BARs. ENODEV when nothing is there. Nothing when it was not given back.
    func reclaim() throws(BusError)

    /// Controls the bus offers beside the function.
    var controls: [BusControl] { get }

    /// Gives the function back. Everything mapped is unmapped first.
    func close()
}

extension PCIFunction {
    /// Nothing to tell: no platform is behind this function that could ask for it.
    public func setEventSink(_ sink: (@Sendable (FunctionEvent) -> Void)?) {}
    /// Nobody to give it to.
    public func release() {}
    /// It was never given back.
    public func reclaim() throws(BusError) {}
}

extension PCIFunction {
    /// Memory of this process alone.
    public func allocateSharedMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        try allocateMemory(byteCount: byteCount)
    }

    /// As many as are wanted.
    public var mapRegisterLimit: Int? { nil }

    /// None.
    public var slaveDMAChannels: [SlaveDMAChannel] { [] }
}

/// A source of functions: the simulated machine, or this one.
public protocol PCIBus: Sendable {
    /// What people call it: `sim`, `vfio`.
    var name: String { get }

    /// Takes a function for this process.
    func open(_ address: PCIAddress) throws(BusError) -> any PCIFunction
}
