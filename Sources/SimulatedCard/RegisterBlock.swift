import CHardware
import PCIBus

/// Layout of BAR0 beside the core.
enum RegisterBlock {
    static var bar0Bytes: UInt64 { @_noLocks get { 0x40000 } }
    static var bar2Bytes: UInt64 { @_noLocks get { 0x1000 } }
    static var bar4Bytes: UInt64 { @_noLocks get { 0x1000 } }
    static var windowOffset: UInt64 { @_noLocks get { 0x20000 } }
    /// Two memory windows of 8 KiB.
    static var windowBytes: Int { @_noLocks get { 0x4000 } }
    static func byteCount(bar: Int) -> UInt64 { bar == 0 ? bar0Bytes : bar2Bytes }
}

/// Why the card was last reset, in register 0x0c of BAR2.
enum ResetCause {
    static var powerOn: UInt32 { @_noLocks get { 0x1 } }
    static var function: UInt32 { @_noLocks get { 0x2 } }
    static var power: UInt32 { @_noLocks get { 0x4 } }
}

/// The card's configuration registers: BAR2. Under the lock of the card.
struct ConfigurationRegisters {
    var resetCause = ResetCause.powerOn
    /// The version of what is loaded into the FPGA: major in the upper half, minor in the lower.
    var firmware: UInt32 = 0x0001_0000
    /// The clock of the core in hertz.
    var clock: UInt32 = 100_000_000
    /// Words without a meaning to the model: from 0x14 to 0x3c.
    var words = InlineArray<16, UInt32>(repeating: 0)

    @_noLocks func load(_ offset: UInt64) -> UInt32 {
        switch offset {
        case 0x00: 0x5350_0001  // board: "SP", type 1
        case 0x04: firmware
        case 0x08: 0
        case 0x0c: resetCause
        case 0x10: clock
        case 0x14..<0x40: words[Int(offset >> 2)]
        default: 0
        }
    }

    @_noLocks mutating func store(_ value: UInt32, _ offset: UInt64) {
        switch offset {
        case 0x10: clock = value
        case 0x14..<0x40: words[Int(offset >> 2)] = value
        default: break
        }
    }
}

/// A bus read of a BAR: the context of a register window is the card's state.
@_noLocks func load(_ context: UnsafeMutableRawPointer?, bar: Int, _ offset: UInt64, _ width: UInt32) -> UInt64 {
    let card = Card(parts: context!.assumingMemoryBound(to: CardParts.self))
    let state = card.state
    let mask = AccessWidth.mask(width)
    card.lock.lock()
    defer { card.lock.unlock() }
    guard card.isPresent else { return card.silence & mask }
    guard isAligned(bar: bar, offset, width), state.pointee.configuration.decodes(bar: bar) else { return mask }
    if bar == 0, offset >= RegisterBlock.windowOffset {
        let at = Int(offset &- RegisterBlock.windowOffset)
        guard at < RegisterBlock.windowBytes else { return 0 }
        switch width {
        case 1: return UInt64(card.windows.load(fromByteOffset: at, as: UInt8.self))
        case 2: return UInt64(UInt16(littleEndian: card.windows.load(fromByteOffset: at, as: UInt16.self)))
        case 4: return UInt64(UInt32(littleEndian: card.windows.load(fromByteOffset: at, as: UInt32.self)))
        default: return UInt64(littleEndian: card.windows.load(fromByteOffset: at, as: UInt64.self))
        }
    }
    let low = UInt64(card.read32(bar: bar, offset & ~3))
    if width == 8 { return low | UInt64(card.read32(bar: bar, offset &+ 4)) << 32 }
    return low >> ((offset & 3) << 3) & mask
}

/// A bus write to a BAR.
@_noLocks func store(
    _ context: UnsafeMutableRawPointer?,
    bar: Int,
    _ offset: UInt64,
    _ width: UInt32,
    _ value: UInt64
) {
    let card = Card(parts: context!.assumingMemoryBound(to: CardParts.self))
    let state = card.state
    card.lock.lock()
    var settles = false
    if card.isPresent, isAligned(bar: bar, offset, width), state.pointee.configuration.decodes(bar: bar) {
        if bar == 0, offset >= RegisterBlock.windowOffset {
            card.storeWindow(Int(offset &- RegisterBlock.windowOffset), width, value)
        } else if width >= 4 {
            // Narrower writes are dropped: the core's bus has no byte enables.
            settles = card.write32(UInt32(truncatingIfNeeded: value), bar: bar, offset)
            if width == 8, card.write32(UInt32(truncatingIfNeeded: value >> 32), bar: bar, offset &+ 4) {
                settles = true
            }
        }
    }
    card.unlockAndDeliver()
    if settles { card.settle() }
}

@_noLocks private func isAligned(bar: Int, _ offset: UInt64, _ width: UInt32) -> Bool {
    let byteCount = bar == 0 ? RegisterBlock.bar0Bytes : RegisterBlock.bar2Bytes
    return offset & UInt64(width &- 1) == 0 && offset < byteCount && UInt64(width) <= byteCount &- offset
}

// All of these are called with the lock held.
extension Card {
    @_noLocks fileprivate func read32(bar: Int, _ offset: UInt64) -> UInt32 {
        switch bar {
        case 2: return state.pointee.registers.load(offset)
        case 4: return state.pointee.msix.load(offset)
        default: break
        }
        switch offset {
        case 0..<0x20: return readCore(offset)
        case 0x100: return 0x5350_5743
        case 0x104: return 0x0001_0000
        case 0x108: return state.pointee.core.scratch
        case 0x10c: return flow
        case 0x110..<0x120: return readSlave(offset)
        case 0x120: return tx.state.pointee.byteTotal
        case 0x124: return rx.state.pointee.byteTotal
        case 0x128: return packetsUnderWay
        default: return 0
        }
    }

    /// True when the engines must be settled before the write is over.
    @_noLocks fileprivate func write32(_ value: UInt32, bar: Int, _ offset: UInt64) -> Bool {
        switch bar {
        case 2: state.pointee.registers.store(value, offset)
        case 4:
            state.pointee.msix.store(value, offset)
            releasePending()
        default:
            if offset < 0x20 { return writeCore(value, offset) }
            if offset == 0x108 { state.pointee.core.scratch = value }
            if offset >= 0x110, offset < 0x120 { writeSlave(value, offset) }
        }
        return false
    }

    @_noLocks fileprivate func storeWindow(_ at: Int, _ width: UInt32, _ value: UInt64) {
        guard at < RegisterBlock.windowBytes else { return }
        switch width {
        case 1: windows.storeBytes(of: UInt8(truncatingIfNeeded: value), toByteOffset: at, as: UInt8.self)
        case 2:
            windows.storeBytes(of: UInt16(truncatingIfNeeded: value).littleEndian, toByteOffset: at, as: UInt16.self)
        case 4:
            windows.storeBytes(of: UInt32(truncatingIfNeeded: value).littleEndian, toByteOffset: at, as: UInt32.self)
        default: windows.storeBytes(of: value.littleEndian, toByteOffset: at, as: UInt64.self)
        }
    }

    /// Bit 0: the transmitter has something for a far end that grants no credit. Bit 1: the receiver holds data and has no
    /// descriptor. An engine that hangs is not blocked by either.
    private var flow: UInt32 {
        @_noLocks get {
            let tx = self.tx
            var flow: UInt32 = 0
            if tx.state.pointee.isRunning, tx.state.pointee.holdsDescriptor, !tx.state.pointee.isDiscarding,
                state.pointee.core.link == .run,
                !(state.pointee.fault == .hangTransmit),
                tx.state.pointee.byteCount == 0 ? !state.pointee.wire.takesMarker : !state.pointee.wire.takesData
            {
                flow |= 1
            }
            if !rx.state.pointee.isRunning, !(state.pointee.fault == .hangReceive), holdsData { flow |= 2 }
            return flow
        }
    }

    /// Bit 0: the transmitter is in a packet. Bit 1: the receiver is.
    private var packetsUnderWay: UInt32 {
        @_noLocks get {
            let (tx, rx) = (tx.state, rx.state)
            return (tx.pointee.isInPacket || tx.pointee.isMoving || tx.pointee.isDiscarding ? 1 : 0)
                | (rx.pointee.isInPacket || rx.pointee.isMoving || rx.pointee.endsInError ? 2 : 0)
        }
    }
}

extension AccessWidth {
    /// All ones in `width` bytes.
    @_noLocks fileprivate static func mask(_ width: UInt32) -> UInt64 {
        width >= 8 ? .max : (1 << (UInt64(width) << 3)) &- 1
    }
}
