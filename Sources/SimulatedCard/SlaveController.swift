import CHardware
public import PCIBus
import Synchronization

// The machine's slave DMA controller, with a channel for each direction of the card, and the card's side of it: instead of
// fetching descriptors, an engine is told by registers what to move, asks for it by its request line, and the channel says
// where in memory.
//
//     0x110  bit 0 the transmitter, bit 1 the receiver is served by the slave controller; bit 2 the receiver begins no packet
//     0x114  written: bits 23:0 bytes of a piece to send, bit 31 end of packet behind it, bit 30 an error end; read: pieces there is
//            room for
//     0x118  written: bytes more the receiver may deliver
//     0x11c  read: bits 28:0 bytes of the oldest packet that ended, bit 30 in EEP, bit 31 there was one; with bit 29 it has not
//            ended, and these are the bytes of a piece of it

/// A channel and what the engine that it serves was told. Under the lock of the card.
struct SlaveState {
    /// Pieces or packets the card remembers.
    static var depth: Int { @_noLocks get { 512 } }
    /// Bytes after which a receiver that has not ended a packet tells of them.
    static var noticeBytes: Int { @_noLocks get { 32 << 10 } }
    /// The most bytes that the register for packets can show.
    static var longestPiece: Int { 0x1fff_ffff }

    /// The controller serves the engine.
    var isOn = false
    /// What the channel was loaded with.
    var base: UInt32 = 0
    var byteCount: UInt32 = 0
    /// The counter: bytes left in this round.
    var remaining: UInt32 = 0
    var isUnmasked = false
    var isAutoInitialized = false
    var isToDevice = false

    /// Pieces to send, or packets received: positions count those ever stored and taken.
    let entries: UnsafeMutablePointer<UInt32>
    var stored = 0
    var taken = 0
    /// Receiver: bytes it may still deliver, bytes of the packet that has not ended, bytes nobody was told of.
    var credit = 0
    var packetBytes: UInt32 = 0
    var untold = 0

    init() {
        entries = .allocate(capacity: Self.depth)
        entries.initialize(repeating: 0, count: Self.depth)
    }

    /// Where the next byte is in memory.
    var address: UInt32 { @_noLocks get { base &+ (byteCount &- remaining) } }

    @_noLocks mutating func advance(_ count: Int) {
        remaining &-= UInt32(truncatingIfNeeded: count)
        guard remaining == 0 else { return }
        if isAutoInitialized { remaining = byteCount } else { isUnmasked = false }
    }

    @_noLocks mutating func forget() {
        stored = 0
        taken = 0
        credit = 0
        packetBytes = 0
        untold = 0
    }
}

// All of these are called with the lock held, but for what the platform calls.
extension Card {
    @_noLocks func slave(_ engine: EnginePointer) -> UnsafeMutablePointer<SlaveState> { engine.slave }

    /// Gets the next piece to move from the card's own registers, in place of a descriptor.
    @_noLocks func fetchFromSlave(_ engine: EnginePointer) -> Bool {
        let slave = engine.slave
        guard slave.pointee.isUnmasked, slave.pointee.isToDevice == engine.isTransmitter else { return false }
        if engine.isTransmitter {
            guard slave.pointee.stored != slave.pointee.taken else { return false }
            let piece = slave.pointee.entries[slave.pointee.taken & (SlaveState.depth &- 1)]
            slave.pointee.taken &+= 1
            engine.state.pointee.flags =
                Descriptor.interrupt | (piece & 1 << 31 != 0 ? Descriptor.eop : 0)
                | (piece & 1 << 30 != 0 ? Descriptor.eep : 0)
            engine.state.pointee.byteCount = Int(piece & 0xff_ffff)
        } else {
            guard slave.pointee.credit > 0 else { return false }
            engine.state.pointee.flags = 0
            engine.state.pointee.byteCount = min(slave.pointee.credit, Int(slave.pointee.remaining))
        }
        engine.state.pointee.holdsDescriptor = true
        engine.state.pointee.position = 0
        engine.state.pointee.logical = slave.pointee.address
        return true
    }

    /// The receiver got the end of a packet; false while the card remembers as many as it can.
    @_noLocks func endSlavePacket(isError: Bool) -> Bool {
        if state.pointee.fault == .falseLength {
            state.pointee.fault = .none
            rx.slave.pointee.packetBytes = 0x1fff_ffff
        }
        return storeSlavePacket(isError ? 1 << 30 : 0)
    }

    /// A packet of which no more bytes can be counted is told of as a piece before it goes on; false while the card remembers
    /// as many as it can.
    @_noLocks func makeSlaveRoom() -> Bool {
        guard rx.slave.pointee.isOn, rx.slave.pointee.packetBytes >= parts.pointee.packetCounterLimit else {
            return true
        }
        return storeSlavePacket(1 << 29)
    }

    @_noLocks private func storeSlavePacket(_ flags: UInt32) -> Bool {
        let slave = rx.slave
        guard slave.pointee.stored &- slave.pointee.taken < SlaveState.depth else { return false }
        slave.pointee.entries[slave.pointee.stored & (SlaveState.depth &- 1)] =
            slave.pointee.packetBytes | flags | 1 << 31
        slave.pointee.stored &+= 1
        slave.pointee.packetBytes = 0
        return true
    }

    /// The receiver delivered bytes.
    @_noLocks func noteSlaveBytes(_ count: Int) {
        let slave = rx.slave
        slave.pointee.credit &-= count
        slave.pointee.packetBytes &+= UInt32(truncatingIfNeeded: count)
        slave.pointee.untold &+= count
        if slave.pointee.untold >= SlaveState.noticeBytes || slave.pointee.credit == 0 {
            slave.pointee.untold = 0
            state.pointee.core.sticky |= Status.receiveDescriptor
            evaluateInterrupts()
        }
    }

    // MARK: Registers

    @_noLocks func readSlave(_ offset: UInt64) -> UInt32 {
        switch offset {
        case 0x110:
            return (tx.slave.pointee.isOn ? 1 : 0) | (rx.slave.pointee.isOn ? 2 : 0)
                | (state.pointee.core.beginsNoPacket ? 4 : 0)
        case 0x114: return UInt32(SlaveState.depth &- (tx.slave.pointee.stored &- tx.slave.pointee.taken))
        case 0x11c:
            let slave = rx.slave
            guard slave.pointee.stored != slave.pointee.taken else { return 0 }
            let packet = slave.pointee.entries[slave.pointee.taken & (SlaveState.depth &- 1)]
            slave.pointee.taken &+= 1
            wake(rx)
            return packet
        default: return 0
        }
    }

    @_noLocks func writeSlave(_ value: UInt32, _ offset: UInt64) {
        switch offset {
        case 0x110:
            setSlave(tx, value & 1 != 0)
            setSlave(rx, value & 2 != 0)
            state.pointee.core.beginsNoPacket = value & 4 != 0
            wake(rx)
        case 0x114:
            let slave = tx.slave
            guard slave.pointee.stored &- slave.pointee.taken < SlaveState.depth else { return }
            slave.pointee.entries[slave.pointee.stored & (SlaveState.depth &- 1)] = value
            slave.pointee.stored &+= 1
            wake(tx)
        case 0x118:
            rx.slave.pointee.credit &+= Int(value & 0xff_ffff)
            wake(rx)
        default: break
        }
    }

    @_noLocks private func setSlave(_ engine: EnginePointer, _ isOn: Bool) {
        guard engine.slave.pointee.isOn != isOn, !engine.state.pointee.isRunning else { return }
        engine.slave.pointee.isOn = isOn
        engine.slave.pointee.forget()
    }

    // MARK: The machine's part

    /// Loads a channel and lets it serve, or masks it for 0 bytes. No lock is held; when it returns nothing is being moved by
    /// what was loaded before.
    func orderSlave(_ engine: EnginePointer, _ address: UInt64, _ byteCount: UInt32, _ mode: UInt32) {
        lock.lock()
        let slave = engine.slave
        slave.pointee.isUnmasked = byteCount > 0
        if byteCount > 0 {
            slave.pointee.base = UInt32(truncatingIfNeeded: address)
            slave.pointee.byteCount = byteCount
            slave.pointee.remaining = byteCount
            slave.pointee.isToDevice = mode & 1 != 0
            slave.pointee.isAutoInitialized = mode & 2 != 0
        }
        engine.state.pointee.holdsDescriptor = false
        engine.state.pointee.generation &+= 1
        interrupt(engine)
        unlockAndDeliver()
        settle(engine)
    }
}

@_noLocks private func slaveCounter(_ parts: UnsafeMutablePointer<CardParts>, isTransmitter: Bool) -> UInt32 {
    let card = Card(parts: parts)
    card.lock.lock()
    defer { card.lock.unlock() }
    return (isTransmitter ? card.tx : card.rx).slave.pointee.remaining
}

extension SimulatedFunction {
    /// The channels of the machine's slave DMA controller that the card's request lines are wired to: to the card, from it.
    public var slaveDMAChannels: [SlaveDMAChannel] {
        [
            SlaveDMAChannel(
                context: UnsafeMutableRawPointer(card.parts),
                counter: { slaveCounter($0.assumingMemoryBound(to: CardParts.self), isTransmitter: true) },
                order: { context, address, count, mode in
                    let card = Card(parts: context.assumingMemoryBound(to: CardParts.self))
                    card.orderSlave(card.tx, address, count, mode)
                }
            ),
            SlaveDMAChannel(
                context: UnsafeMutableRawPointer(card.parts),
                counter: { slaveCounter($0.assumingMemoryBound(to: CardParts.self), isTransmitter: false) },
                order: { context, address, count, mode in
                    let card = Card(parts: context.assumingMemoryBound(to: CardParts.self))
                    card.orderSlave(card.rx, address, count, mode)
                }
            ),
        ]
    }
}
