import PCIBus

/// Bits of the status register.
enum Status {
    static var disconnectError: UInt32 { @_noLocks get { 0x4 } }
    /// What the receiver of the link can find wrong, by name.
    static let linkErrors: KeyValuePairs<String, UInt32> = [
        "disconnect": 0x4, "parity": 0x8, "escape": 0x10, "credit": 0x20,
    ]
    static var receiveRunning: UInt32 { @_noLocks get { 0x40 } }
    static var transmitRunning: UInt32 { @_noLocks get { 0x80 } }
    static var busError: UInt32 { @_noLocks get { 0x100 } }
    static var timeCode: UInt32 { @_noLocks get { 0x400 } }
    static var receiveDescriptor: UInt32 { @_noLocks get { 0x800 } }
    static var transmitDescriptor: UInt32 { @_noLocks get { 0x1000 } }
    static var receivePacket: UInt32 { @_noLocks get { 0x2000 } }
    static var isEmptyAfterPacket: UInt32 { @_noLocks get { 0x4000 } }
    /// Bits that stay until a 1 is written to them.
    static var sticky: UInt32 { @_noLocks get { 0x3c3c } }
}

/// Bits of the control register.
enum Control {
    static var reset: UInt32 { @_noLocks get { 0x1 } }
    static var resetDMA: UInt32 { @_noLocks get { 0x2 } }
    static var linkStart: UInt32 { @_noLocks get { 0x4 } }
    static var autostart: UInt32 { @_noLocks get { 0x8 } }
    static var linkDisable: UInt32 { @_noLocks get { 0x10 } }
    static var startReceive: UInt32 { @_noLocks get { 0x40 } }
    static var startTransmit: UInt32 { @_noLocks get { 0x80 } }
    static var cancelTransmit: UInt32 { @_noLocks get { 0x100 } }
    static var linkInterrupt: UInt32 { @_noLocks get { 0x200 } }
    /// Bits that keep what was written.
    static var kept: UInt32 { @_noLocks get { 0x3e3c } }
}

/// The state of the link as the status register shows it.
enum LinkState {
    case off, started, connecting, run

    var number: UInt32 {
        @_noLocks get {
            switch self {
            case .off: 0
            case .started: 1
            case .connecting: 2
            case .run: 3
            }
        }
    }

    // Written out: the derived one is unknown to `@_noLocks`.
    @_noLocks static func == (left: LinkState, right: LinkState) -> Bool { left.number == right.number }
}

/// The registers of the SpaceWire Light core (AMBA variant), except those of its DMA engines. Under the lock of the card.
struct SpaceWireCore {
    var control: UInt32 = 0
    var sticky: UInt32 = 0
    var link = LinkState.off
    /// Divides the transmit clock; 10 Mbit/s out of 100 MHz.
    var scaler: UInt32 = 9
    var lastTimeCode: UInt32 = 0
    var nextTimeCode: UInt32 = 0
    var busError = false
    var isEmptyAfterPacket = true
    /// The receiver ends the packet it is in, and begins no other. Beside the core.
    var beginsNoPacket = false
    /// Beside the core: the card's own scratch register.
    var scratch: UInt32 = 0

    /// The status bits whose interrupt is enabled.
    var enabledStatus: UInt32 {
        @_noLocks get {
            (control & 1 << 10 != 0 ? Status.timeCode : 0)
                | (control & 1 << 11 != 0 ? Status.receiveDescriptor : 0)
                | (control & 1 << 12 != 0 ? Status.transmitDescriptor : 0)
                | (control & 1 << 13 != 0 ? Status.receivePacket : 0)
        }
    }
}

// All of these are called with the lock held.
extension Card {
    @_noLocks func readCore(_ offset: UInt64) -> UInt32 {
        switch offset {
        case 0x00: return state.pointee.core.control | Descriptor.tableSizeLog2 << 24
        case 0x04:
            let status = readStatus()
            acknowledgeEvents()
            return status
        case 0x08: return state.pointee.core.scaler
        case 0x0c: return state.pointee.core.lastTimeCode | state.pointee.core.nextTimeCode << 8
        case 0x10: return rx.state.pointee.pointer
        case 0x14: return tx.state.pointee.pointer
        default: return 0
        }
    }

    @_noLocks private func readStatus() -> UInt32 {
        let core = state.pointee.core
        var status = core.sticky | core.link.number
        if rx.state.pointee.isRunning { status |= Status.receiveRunning }
        if tx.state.pointee.isRunning { status |= Status.transmitRunning }
        if core.busError { status |= Status.busError }
        if core.isEmptyAfterPacket, !holdsData { status |= Status.isEmptyAfterPacket }
        return status
    }

    /// A register write; true when the engines must be settled before it is over.
    @_noLocks func writeCore(_ value: UInt32, _ offset: UInt64) -> Bool {
        switch offset {
        case 0x00: return writeControl(value)
        case 0x04:
            state.pointee.core.sticky &= ~(value & Status.sticky)
            evaluateInterrupts()
        case 0x08: state.pointee.core.scaler = value & 0xff
        case 0x0c: writeTimeCode(value)
        case 0x10: rx.state.pointee.pointer = value & ~7
        case 0x14: tx.state.pointee.pointer = value & ~7
        default: break
        }
        return false
    }

    @_noLocks private func writeControl(_ value: UInt32) -> Bool {
        let tx = self.tx
        let rx = self.rx
        if value & Control.reset != 0 {
            resetCore()
            return true
        }
        state.pointee.core.control = value & Control.kept
        var settles = false
        if value & Control.resetDMA != 0 {
            state.pointee.core.busError = false
            forget(tx)
            forget(rx)
            settles = true
        } else if value & Control.cancelTransmit != 0 {
            forget(tx)
            tx.state.pointee.isInPacket = false
            tx.state.pointee.isDiscarding = false
            settles = true
        }
        if !state.pointee.core.busError, value & Control.resetDMA == 0 {
            if value & Control.startReceive != 0 {
                rx.state.pointee.isRunning = true
                wake(rx)
            }
            if value & (Control.startTransmit | Control.cancelTransmit) == Control.startTransmit {
                tx.state.pointee.isRunning = true
                wake(tx)
            }
        }
        updateLink()
        evaluateInterrupts()
        return settles
    }

    /// Everything but the card's scratch register is as after power-on; the engines hold nothing and stand.
    @_noLocks func resetCore() {
        if state.pointee.core.link == .run { loseLink(isDisabled: true) }
        let scratch = state.pointee.core.scratch
        state.pointee.core = SpaceWireCore()
        state.pointee.core.scratch = scratch
        rx.state.pointee.endsInError = false
        tx.state.pointee.isDiscarding = false
        resetEngine(tx)
        resetEngine(rx)
        evaluateInterrupts()
    }

    @_noLocks private func resetEngine(_ engine: EnginePointer) {
        engine.state.pointee.pointer = 0
        engine.state.pointee.isInPacket = false
        engine.state.pointee.byteTotal = 0
        forget(engine)
        engine.slave.pointee.isOn = false
    }

    // MARK: Link

    /// Follows the control bits and the cable. The far end is always willing, and the times of the state machine are nothing
    /// to a program.
    @_noLocks func updateLink() {
        let old = state.pointee.core.link
        let control = state.pointee.core.control
        let isStarted = control & Control.linkStart != 0
        let new: LinkState
        if control & Control.linkDisable != 0 {
            new = .off
        } else if !state.pointee.wire.isPlugged {
            // Without a far end a link that is started sends Nulls, times out, and begins again.
            new = isStarted ? .started : .off
        } else {
            new = isStarted || control & Control.autostart != 0 || old == .run ? .run : .off
        }
        if control & Control.linkDisable != 0 { tx.state.pointee.isDiscarding = false }
        if new == old { return }
        state.pointee.core.link = new
        guard new == .run || old == .run else { return }
        if old == .run { loseLink(isDisabled: control & Control.linkDisable != 0) }
        if control & Control.linkInterrupt != 0 { announceLinkChange() }
        wake(tx)
        wake(rx)
    }

    /// The receiver of the link finds something wrong: both ends begin again, and the cause stays in the status register
    /// (ECSS-E-ST-50-12C 5.5.7).
    func failLink(_ error: UInt32) {
        guard state.pointee.core.link == .run else { return }
        state.pointee.core.sticky |= error
        state.pointee.core.link = .off
        loseLink(isDisabled: false)
        if state.pointee.core.control & Control.linkInterrupt != 0 { announceLinkChange() }
        updateLink()
    }

    /// What both ends do to packets that are cut off (ECSS-E-ST-50-12C 5.5.8).
    @_noLocks private func loseLink(isDisabled: Bool) {
        let tx = self.tx
        let rx = self.rx
        state.pointee.wire.lose(whileSending: rx.state.pointee.isInPacket)
        if rx.state.pointee.isInPacket {
            rx.state.pointee.isInPacket = false
            rx.state.pointee.endsInError = true
        }
        // A disabled link drops nothing: what is left of the packet will begin the next one.
        if tx.state.pointee.isInPacket, !isDisabled { tx.state.pointee.isDiscarding = true }
        tx.state.pointee.isInPacket = false
        interrupt(tx)
        interrupt(rx)
    }

    // MARK: Time-codes

    @_noLocks private func writeTimeCode(_ value: UInt32) {
        let code = value >> 8 & 0x3f
        guard value & 1 << 16 != 0 else {
            state.pointee.core.nextTimeCode = code
            return
        }
        state.pointee.core.nextTimeCode = (code &+ 1) & 0x3f
        guard state.pointee.core.link == .run, state.pointee.wire.mode == .loopback else { return }
        // The far end sends it back; the core reports every time-code, whether it follows the last one or not.
        state.pointee.core.lastTimeCode = code
        state.pointee.core.sticky |= Status.timeCode
        evaluateInterrupts()
    }
}
