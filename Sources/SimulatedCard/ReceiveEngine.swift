import CHardware
import PCIBus
import Synchronization

// The receive engine: takes bytes and end markers of the far end, writes memory, finishes descriptors.

extension Card {
    /// What the receiver holds: bytes up to the next end marker, or the marker itself when there are none before it.
    /// The lock is held.
    var received: (byteCount: Int, marker: Wire.Marker) {
        @_noLocks get {
            if rx.state.pointee.endsInError { return (0, .eep) }
            guard state.pointee.core.link == .run else { return (0, .none) }
            return state.pointee.wire.available
        }
    }

    /// Whether the receiver holds anything. The lock is held.
    var holdsData: Bool {
        @_noLocks get {
            let (byteCount, marker) = received
            return byteCount > 0 || !(marker == .none)
        }
    }

    /// Looks for something to store. The lock is held.
    @_noLocks func planReceive(_ transfer: inout Transfer) -> Step {
        let rx = self.rx
        while true {
            if state.pointee.isClosing { return .end }
            rx.state.pointee.awaitsWire = false
            guard rx.state.pointee.isRunning, isBusMaster, !(state.pointee.fault == .hangReceive) else { return .wait }
            let (available, marker) = received
            guard available > 0 || !(marker == .none) else {
                rx.state.pointee.awaitsWire = true
                return .wait
            }
            // Between packets, and told to stay there.
            if state.pointee.core.beginsNoPacket, !rx.state.pointee.isInPacket, !rx.state.pointee.endsInError {
                return .wait
            }
            state.pointee.core.isEmptyAfterPacket = false
            if !rx.state.pointee.holdsDescriptor {
                switch fetch(rx) {
                case .enabled: break
                case .disabled:
                    rx.state.pointee.isRunning = false
                    return .wait
                case .fault, .idle: return .wait
                }
            }
            guard available == 0 else {
                guard makeSlaveRoom() else { return .wait }
                return planPiece(available, &transfer)
            }
            guard endPacket(isError: marker == .eep) else { return .wait }
            if state.pointee.interrupts.toDeliver != 0 { return .again }
        }
    }

    @_noLocks private func planPiece(_ available: Int, _ transfer: inout Transfer) -> Step {
        let rx = self.rx
        var count = min(min(available, rx.state.pointee.byteCount &- rx.state.pointee.position), transferLimit)
        if rx.slave.pointee.isOn {
            count = min(count, Int(parts.pointee.packetCounterLimit &- rx.slave.pointee.packetBytes))
        }
        if state.pointee.wire.rate != 0 {
            if clock.now() < rx.state.pointee.nextTransfer { return .waitUntil(rx.state.pointee.nextTransfer) }
            count = min(count, state.pointee.wire.piece)
        }
        transfer.logical = rx.state.pointee.logical &+ UInt32(truncatingIfNeeded: rx.state.pointee.position)
        transfer.byteCount = count
        transfer.mode = state.pointee.wire.mode
        if transfer.mode == .loopback {
            transfer.ring = state.pointee.wire.beginReading()
        } else {
            transfer.position = state.pointee.wire.sourcePosition
        }
        transfer.generation = rx.state.pointee.generation
        transfer.wireGeneration = state.pointee.wire.generation
        transfer.attention = rx.words.pointee.attention.load(ordering: .relaxed)
        rx.state.pointee.isMoving = true
        return .move
    }

    /// Moves a piece page by page, with no lock held.
    @_noLocks func moveReceive(_ transfer: inout Transfer) {
        let rx = self.rx
        while transfer.moved < transfer.byteCount {
            let logical = transfer.logical &+ UInt32(truncatingIfNeeded: transfer.moved)
            let count = min(transfer.byteCount &- transfer.moved, pageBytes &- Int(logical & 0xfff))
            pin(rx)
            guard rx.words.pointee.attention.load(ordering: .sequentiallyConsistent) == transfer.attention else {
                unpin(rx)
                return
            }
            guard let target = iommu.translate(logical, .write) else {
                unpin(rx)
                transfer.faulted = true
                return
            }
            if transfer.moved &+ count < transfer.byteCount {
                iommu.expect(logical &+ UInt32(truncatingIfNeeded: count))
            }
            if let ring = transfer.ring {
                chw_copy(target, ring + transfer.moved, count)
            } else {
                writeSource(target, count, from: transfer.position &+ UInt64(transfer.moved))
            }
            unpin(rx)
            transfer.moved &+= count
        }
    }

    /// Accounts for a piece that was stored. The lock is held.
    @_noLocks func commitReceive(_ transfer: Transfer) {
        let rx = self.rx
        let count = transfer.moved
        if count > 0 {
            rx.state.pointee.position &+= count
            rx.state.pointee.byteTotal &+= UInt32(truncatingIfNeeded: count)
            if rx.slave.pointee.isOn {
                rx.slave.pointee.advance(count)
                noteSlaveBytes(count)
            }
            rx.state.pointee.isInPacket = true
            state.pointee.wire.take(count)
            pace(rx, count)
            if tx.state.pointee.awaitsWire { wake(tx) }
        }
        if transfer.faulted {
            busError(transfer.logical &+ UInt32(truncatingIfNeeded: count), .write)
        } else if rx.state.pointee.position == rx.state.pointee.byteCount {
            finishReceive(0)
        }
    }

    /// Takes the end marker that comes next; false after a bus error.
    @_noLocks private func endPacket(isError: Bool) -> Bool {
        let rx = self.rx
        if rx.slave.pointee.isOn, rx.slave.pointee.stored &- rx.slave.pointee.taken >= SlaveState.depth { return false }
        var isError = isError
        if rx.state.pointee.endsInError {
            rx.state.pointee.endsInError = false
        } else {
            state.pointee.wire.takeMarker()
            rx.state.pointee.isInPacket = false
            if tx.state.pointee.awaitsWire { wake(tx) }
        }
        if state.pointee.fault == .errorEnd {
            state.pointee.fault = .none
            isError = true
        }
        if rx.slave.pointee.isOn {
            // The controller moves bytes, and no marker among them.
            _ = endSlavePacket(isError: isError)
            rx.slave.pointee.untold = 0
            state.pointee.core.sticky |= Status.receiveDescriptor
            finishReceive(isError ? Descriptor.eep : Descriptor.eop)
            return true
        }
        // The receive FIFO holds whole words, in which the marker repeats behind the last byte, and whole words are written:
        // a driver whose buffers do not end on a word would see it here as on the card.
        let position = rx.state.pointee.position
        let logical = rx.state.pointee.logical &+ UInt32(truncatingIfNeeded: position)
        pin(rx)
        guard let target = iommu.translate(logical, .write) else {
            unpin(rx)
            busError(logical, .write)
            return false
        }
        for index in 0..<(4 &- position & 3) {
            target.storeBytes(of: isError ? 1 : 0, toByteOffset: index, as: UInt8.self)
        }
        unpin(rx)
        finishReceive(isError ? Descriptor.eep : Descriptor.eop)
        return true
    }

    @_noLocks private func finishReceive(_ marker: UInt32) {
        let rx = self.rx
        let interrupts = rx.state.pointee.flags & Descriptor.interrupt != 0
        var length = UInt32(truncatingIfNeeded: rx.state.pointee.position) & Descriptor.length
        if state.pointee.fault == .falseLength, !rx.slave.pointee.isOn {
            state.pointee.fault = .none
            length = Descriptor.length
        }
        guard finish(rx, length | marker) else { return }
        if interrupts { state.pointee.core.sticky |= Status.receiveDescriptor }
        if marker != 0 {
            state.pointee.core.sticky |= Status.receivePacket
            state.pointee.core.isEmptyAfterPacket = !holdsData
        }
        evaluateInterrupts()
    }
}

/// Writes `count` bytes of the source's stream from byte `position` on: word k of the stream, little-endian, is k times
/// the golden ratio's fraction of 2^64.
@_noLocks func writeSource(_ target: UnsafeMutableRawPointer, _ count: Int, from position: UInt64) {
    let step: UInt64 = 0x9E37_79B9_7F4A_7C15
    var offset = 0
    var position = position
    while offset < count, position & 7 != 0 {
        let word = (position >> 3) &* step
        target.storeBytes(
            of: UInt8(truncatingIfNeeded: word >> ((position & 7) << 3)),
            toByteOffset: offset,
            as: UInt8.self
        )
        offset &+= 1
        position &+= 1
    }
    let words = (count &- offset) >> 3
    var word = (position >> 3) &* step
    let first = target + offset
    for index in 0..<words {
        first.storeBytes(of: word.littleEndian, toByteOffset: index &* 8, as: UInt64.self)
        word &+= step
    }
    offset &+= words &* 8
    while offset < count {
        target.storeBytes(of: UInt8(truncatingIfNeeded: word), toByteOffset: offset, as: UInt8.self)
        word >>= 8
        offset &+= 1
    }
}
