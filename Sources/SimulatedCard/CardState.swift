import CHardware
import PCIBus
import Synchronization

/// What a test can make go wrong.
enum Fault: CaseIterable {
    case none, hangTransmit, hangReceive, errorEnd, gone, zeros

    // Written out: the derived one is unknown to `@_noLocks`.
    @_noLocks static func == (left: Fault, right: Fault) -> Bool {
        switch (left, right) {
        case (.none, .none), (.hangTransmit, .hangTransmit), (.hangReceive, .hangReceive), (.errorEnd, .errorEnd),
            (.gone, .gone), (.zeros, .zeros):
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
        case .gone: "gone"
        case .zeros: "zeros"
        }
    }
}

/// Everything a card is, at an address that does not change: the context of its register windows and its threads.
///
/// One lock protects it. Not under that lock are: atomics, tables of atomics, constants, the bytes engines move.
struct CardState: ~Copyable {
    let lock = Lock()
    let clock: Clock
    let address: PCIAddress
    let tx: EnginePointer
    let rx: EnginePointer
    let iommu: IOMMU
    /// Where a far end without memory takes data: a page that stays in the first-level cache.
    let cardBuffer: UnsafeMutableRawPointer

    var configuration: ConfigurationSpaceModel
    var msix = MSIXTable()
    var interrupts = InterruptController()
    var core = SpaceWireCore()
    var registers = ConfigurationRegisters()
    var wire: Wire
    var fault = Fault.none
    var isClosing = false
    /// The two memory windows of BAR0, one behind the other.
    let windows: UnsafeMutableRawPointer

    init(address: PCIAddress, clock: Clock, receiverMemory: Int, iommu: IOMMU) {
        self.address = address
        self.clock = clock
        self.iommu = iommu
        tx = .allocate(capacity: 1)
        tx.initialize(to: Engine(isTransmitter: true))
        rx = .allocate(capacity: 1)
        rx.initialize(to: Engine(isTransmitter: false))
        cardBuffer = mapZeroedPages(pageBytes)
        windows = mapZeroedPages(RegisterBlock.windowBytes)
        configuration = ConfigurationSpaceModel(address: address)
        wire = Wire(byteCount: receiverMemory)
    }

    /// Frees everything. The threads have ended and nobody holds a window.
    consuming func destroy() {
        tx.deinitialize(count: 1)
        tx.deallocate()
        rx.deinitialize(count: 1)
        rx.deallocate()
        munmap(cardBuffer, pageBytes)
        munmap(windows, RegisterBlock.windowBytes)
        wire.destroy()
        configuration.destroy()
        interrupts.destroy()
        lock.destroy()
    }
}

/// A handle of a card's state: the functions of the model are its methods, so that none of them counts references.
struct Card: @unchecked Sendable {  // the state behind the pointer has its own lock
    let state: UnsafeMutablePointer<CardState>

    @_noLocks init(state: UnsafeMutablePointer<CardState>) { self.state = state }

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
        state.pointee.lock.unlock()
        if raised != 0 { deliver(raised) }
    }

    /// Puts the card into the state after a reset. The configuration keeps what the platform would restore. The lock is held;
    /// the caller settles the engines when it has given the lock back.
    func reset(cause: UInt32) {
        resetCore()
        state.pointee.core.scratch = 0
        state.pointee.registers = ConfigurationRegisters()
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
