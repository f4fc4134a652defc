import CHardware
import PCIBus
import Synchronization

/// What a test can make go wrong.
enum Fault: CaseIterable {
    case none, hangTransmit, hangReceive, errorEnd, falseLength, gone, zeros

    // Written out: the derived one is unknown to `@_noLocks`.
    @_noLocks static func == (left: Fault, right: Fault) -> Bool {
        switch (left, right) {
        case (.none, .none), (.hangTransmit, .hangTransmit), (.hangReceive, .hangReceive), (.errorEnd, .errorEnd),
            (.falseLength, .falseLength), (.gone, .gone), (.zeros, .zeros):
            true
        default: false
        }
    }

    var name: String {
        switch self {
        case .none: "none"
        case .hangTransmit: "hang-tx"
        case .hangReceive: "hang-rx"
        case .errorEnd: "eep"
        case .falseLength: "length"
        case .gone: "gone"
        case .zeros: "zeros"
        }
    }
}

/// What a card holds under its lock.
struct CardState {
    var configuration: ConfigurationSpaceModel
    var msix = MSIXTable()
    var interrupts = InterruptController()
    var core = SpaceWireCore()
    var registers = ConfigurationRegisters()
    var wire: Wire
    var fault = Fault.none
    var isClosing = false
}

/// The parts of a card, at an address that does not change: the context of its register windows and its threads. Constant, so
/// that it may be read without the lock.
struct CardParts {
    let lock: Lock
    let clock: Clock
    let iommu: IOMMU
    /// Whether the transmitter takes a packet from several runs of addresses.
    let isGathering: Bool
    /// The most that the register for packets counts.
    let packetCounterLimit: UInt32
    let tx: EnginePointer
    let rx: EnginePointer
    let gate: InterruptGate
    /// Where a far end without memory takes data: a page that stays in the first-level cache.
    let cardBuffer: UnsafeMutableRawPointer
    /// The two memory windows of BAR0, one behind the other. Under the lock.
    let windows: UnsafeMutableRawPointer
    /// Under the lock.
    let state: UnsafeMutablePointer<CardState>

    init(
        address: PCIAddress,
        configuration: SimulatedBus.Configuration,
        iommu: IOMMU,
        pages: HostPages
    ) throws(BusError) {
        // What can fail comes before what would have to be taken back.
        cardBuffer = try pages.map(pageBytes)
        windows = try pages.map(RegisterBlock.windowBytes)
        let initial = CardState(
            configuration: try ConfigurationSpaceModel(
                address: address,
                limits: UInt32(configuration.addressBits) | (configuration.scatterGather ? 0x300 : 0x200),
                pages: pages
            ),
            wire: try Wire(byteCount: configuration.receiverMemory, pages: pages)
        )
        clock = configuration.clock
        self.iommu = iommu
        isGathering = configuration.scatterGather
        packetCounterLimit = UInt32(clamping: min(max(configuration.packetCounterLimit, 1), SlaveState.longestPiece))
        lock = Lock()
        tx = EnginePointer(isTransmitter: true)
        rx = EnginePointer(isTransmitter: false)
        gate = InterruptGate()
        state = .allocate(capacity: 1)
        state.initialize(to: initial)
    }

    /// Frees everything. The threads have ended and nobody holds a window.
    func destroy() {
        state.deinitialize(count: 1)
        state.deallocate()
        gate.destroy()
        tx.destroy()
        rx.destroy()
        lock.destroy()
    }
}

/// A handle of a card: the functions of the model are its methods, so that none of them counts references.
///
/// (What needs no lock is not reached through ``CardState``: ThreadSanitizer takes a change of one member for a change of the
/// whole.)
struct Card: @unchecked Sendable {  // the state has its lock, the other parts are constant or atomic
    let parts: UnsafeMutablePointer<CardParts>

    @_noLocks init(parts: UnsafeMutablePointer<CardParts>) { self.parts = parts }

    var state: UnsafeMutablePointer<CardState> { @_noLocks get { parts.pointee.state } }
    var lock: Lock { @_noLocks get { parts.pointee.lock } }
    var clock: Clock { @_noLocks get { parts.pointee.clock } }
    var iommu: IOMMU { @_noLocks get { parts.pointee.iommu } }
    var isGathering: Bool { @_noLocks get { parts.pointee.isGathering } }
    var tx: EnginePointer { @_noLocks get { parts.pointee.tx } }
    var rx: EnginePointer { @_noLocks get { parts.pointee.rx } }
    var gate: InterruptGate { @_noLocks get { parts.pointee.gate } }
    var cardBuffer: UnsafeMutableRawPointer { @_noLocks get { parts.pointee.cardBuffer } }
    var windows: UnsafeMutableRawPointer { @_noLocks get { parts.pointee.windows } }

    /// Whether the card may read and write memory and send messages. The lock is held.
    var isBusMaster: Bool {
        @_noLocks get {
            isPresent && state.pointee.configuration.isBusMaster && state.pointee.configuration.isAwake
        }
    }

    /// Whether the card answers at all. The lock is held.
    var isPresent: Bool {
        @_noLocks get {
            !(state.pointee.fault == .gone) && !(state.pointee.fault == .zeros) && !state.pointee.isClosing
        }
    }

    /// What a read gets when nobody answers.
    var silence: UInt64 { @_noLocks get { state.pointee.fault == .zeros && !state.pointee.isClosing ? 0 : .max } }

    /// Gives the lock back, then sends the interrupts that were raised under it.
    @_noLocks func unlockAndDeliver() {
        let raised = state.pointee.interrupts.toDeliver
        state.pointee.interrupts.toDeliver = 0
        lock.unlock()
        if raised != 0 { deliver(raised) }
    }

    /// Puts the card into the state after a reset. The configuration keeps what the platform would restore. The lock is held;
    /// the caller settles the engines when it has given the lock back.
    func reset(cause: UInt32) {
        resetCore()
        state.pointee.core.scratch = 0
        let firmware = state.pointee.registers.firmware
        state.pointee.registers = ConfigurationRegisters()
        state.pointee.registers.firmware = firmware
        state.pointee.registers.resetCause = cause
        // The memory windows are block RAM: a reset does not reach their content.
    }

    /// A function level reset, or power-on: reset, and a configuration as the platform leaves it. The lock is held.
    func resetFunction(cause: UInt32) {
        reset(cause: cause)
        state.pointee.configuration.restore()
        state.pointee.msix = MSIXTable()
        state.pointee.interrupts.forgetLevels()
        if state.pointee.interrupts.connectedCount > 0 { programVectors() }
    }
}
