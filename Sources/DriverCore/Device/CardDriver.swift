public import CHardware
public import PCIBus

/// A driver for one type of card (the callbacks of a WDF driver).
///
/// The framework calls it at passive level, one callback at a time, in this order, and in the reverse one on the way down:
/// `prepareHardware`, `d0Entry`, interrupts are connected, `enableInterrupts`, `interruptsEnabled`, bus mastering is switched
/// on, `startIO`. If `prepareHardware` throws, `releaseHardware` follows; if `d0Entry` throws, `d0Exit` does not. An orderly
/// way down begins with `queryStop`; a removal ends with `flushIO`. ``Device/departure`` says why the card leaves D0.
public protocol CardDriver: AnyObject {
    /// What it drives, for people.
    static var name: String { get }

    /// Whether it drives a function that says it is this.
    static func matches(_ identity: PCIIdentity) -> Bool

    /// The card's registers.
    static var registerMap: RegisterMap { get }

    /// The registers of one function, where they depend on it; ``registerMap`` otherwise.
    static func registerMap(of function: any PCIFunction) -> RegisterMap

    /// What the card can do as a bus master; nil for a card without DMA.
    static var dmaDescription: DeviceDescription? { get }

    /// What this very card can do as a bus master, where cards of a type differ; asked before each start. Configuration space
    /// can be read, BARs are not mapped yet.
    static func dmaDescription(of function: any PCIFunction) -> DeviceDescription?

    /// Makes the driver for a device that has been found (EvtDriverDeviceAdd). Allocates what lives as long as the device.
    init(device: Device) throws(StatusError)

    /// Maps what is needed and allocates DMA memory (EvtDevicePrepareHardware).
    func prepareHardware(_ resources: ResourceLists) throws(StatusError)

    /// Undoes ``prepareHardware(_:)``, however far it came (EvtDeviceReleaseHardware).
    func releaseHardware()

    /// Brings the card into its working state; interrupts and bus mastering are still off (EvtDeviceD0Entry).
    func d0Entry() throws(StatusError)

    /// Takes the card out of its working state (EvtDeviceD0Exit).
    func d0Exit()

    /// The vectors are connected: lets the card interrupt (EvtInterruptEnable).
    func enableInterrupts()

    /// The vectors will be disconnected next: keeps the card from interrupting (EvtInterruptDisable).
    func disableInterrupts()

    /// The vectors are connected now (EvtDeviceD0EntryPostInterruptsEnabled).
    func interruptsEnabled() throws(StatusError)

    /// The vectors will be disconnected next (EvtDeviceD0ExitPreInterruptsDisabled).
    func interruptsDisabling()

    /// The card may do DMA now: starts queues and engines (EvtDeviceSelfManagedIoInit, …Restart).
    func startIO()

    /// Stops queues and engines; what the card still had is aborted and accounted for (EvtDeviceSelfManagedIoSuspend).
    func suspendIO()

    /// Begins nothing new and waits until the card has finished what it has, so that it can stop, or sleep where
    /// ``Device/departure`` says so, without a loss (EvtDeviceQueryStop). Throws ``Status/deviceBusy`` with what is in the way, or ``Status/cancelled``; then
    /// ``cancelStop()`` follows. The wait is bounded.
    func queryStop(_ cancellation: Cancellation) throws(StatusError)

    /// The card does not stop: begins new things again.
    func cancelStop()

    /// The card is gone (EvtDeviceSurpriseRemoval): no register answers. The usual way down follows.
    func surpriseRemoval()

    /// The device was removed or could not be started: ends every request that waits with the status of
    /// ``Device/departure``, and each that comes until `startIO` (EvtDeviceSelfManagedIoFlush).
    func flushIO()

    /// The data path: how requests reach the driver. nil for a card without DMA.
    var entryPoints: chw_entry_points? { get }

    /// The controls of the DMA streams. nil for a card without DMA.
    var dma: (any DMAControl)? { get }
}

// What a driver need not have.
extension CardDriver {
    /// The same registers for every function.
    public static func registerMap(of function: any PCIFunction) -> RegisterMap { registerMap }

    /// The card's interrupts have no enable of their own.
    public func enableInterrupts() {}

    /// The card's interrupts have no enable of their own.
    public func disableInterrupts() {}

    /// The driver has nothing under way that `suspendIO` would cut off.
    public func queryStop(_ cancellation: Cancellation) throws(StatusError) {}

    /// Nothing was held back.
    public func cancelStop() {}

    /// Nothing is to be told.
    public func surpriseRemoval() {}

    /// No request waits in the driver.
    public func flushIO() {}
}

extension CardDriver {
    /// What all of its type can.
    public static func dmaDescription(of function: any PCIFunction) -> DeviceDescription? { dmaDescription }
}

/// What the control files of `dma/` do. Any thread, passive level.
public protocol DMAControl: AnyObject {
    /// Whether packet boundaries are kept.
    var framing: Framing { get set }

    /// How the last packet read ended.
    var lastPacketEnd: PacketEnd { get }

    /// What the last finished transfer did.
    var lastPlan: TransferPlan { get }

    /// How the data is moved.
    var engine: DMAEngine { get }

    /// Moves the data in another way from now on. ``Status/invalidDeviceState`` while anything is under way,
    /// ``Status/notSupported`` for a way the card lacks; nothing has changed then.
    func select(_ engine: DMAEngine) throws(StatusError)

    /// Discards what has not been read and aborts what has not been sent.
    func flush()

    /// The most bytes one request can carry in packet framing.
    var maximumPacketLength: Int { get }

    /// The sentence for a request that failed.
    func sentence(for cause: FailureCause, kind: RequestKind) -> String

    /// Counters of the driver, for the metrics file: name, help, value. Names that end in `_total` only rise. Those of a direction
    /// are taken at one moment, so that they add up: `tx_accepted_bytes_total` is `tx_sent_bytes_total`, `tx_lost_bytes_total` and
    /// `tx_waiting_bytes`; `rx_arrived_bytes_total` is `rx_read_bytes_total`, `rx_discarded_bytes_total` and `rx_waiting_bytes`.
    /// Bytes count as read once it is decided that a reader gets them, copied or lent.
    var counters: [(name: String, help: String, value: UInt64)] { get }

    /// Counters of which one name has several, told apart by a cause.
    var countersByCause: [(name: String, help: String, causes: [(cause: String, value: UInt64)])] { get }

    /// Whether mapped reads are served.
    var lendsRing: Bool { get }

    /// The memory the card writes, for programs that look at it there instead of reading copies; nil where there is none.
    var mappableRing: MappableRing? { get }

    /// An open file of a stream was closed: what was lent through it comes back. No request of it is under way.
    func streamClosed(_ stream: UnsafeMutablePointer<StreamRecord>)

    /// Asks that a change of readiness in a direction (0 to the card, 1 from it) be told, or no longer.
    func watchReadiness(_ direction: UInt32, _ on: Bool)
}

extension DMAControl {
    /// There are none.
    public var countersByCause: [(name: String, help: String, causes: [(cause: String, value: UInt64)])] { [] }

    /// They are not.
    public var lendsRing: Bool { false }

    /// There is none.
    public var mappableRing: MappableRing? { nil }

    /// Nothing was lent.
    public func streamClosed(_ stream: UnsafeMutablePointer<StreamRecord>) {}
}

/// The memory of a receive ring, as a program can map it.
public struct MappableRing: Sendable {
    /// A descriptor of this process for the file the memory is.
    public var file: CInt
    /// Bytes of the ring.
    public var byteCount: Int

    /// Describes a ring.
    public init(file: CInt, byteCount: Int) {
        self.file = file
        self.byteCount = byteCount
    }
}

/// Whether the boundaries of packets are visible.
public enum Framing: UInt32, Sendable {
    /// A byte stream.
    case stream
    /// One write is one packet, one read returns at most one.
    case packet
}

/// How a packet that was read ended.
public enum PacketEnd: UInt32, Sendable {
    /// Nothing was read yet.
    case none
    /// Normal end of packet.
    case eop
    /// Error end of packet: it was cut short on its way.
    case eep
    /// The rest comes with the next read.
    case more
}
