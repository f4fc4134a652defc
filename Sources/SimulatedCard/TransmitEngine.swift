import CHardware
import PCIBus
import Synchronization

// The transmit engine: fetches descriptors, reads memory, hands bytes and end markers to the far end.

extension Card {
    /// Looks for something to send. The lock is held.
    @_noLocks func planTransmit(_ transfer: inout Transfer) -> Step {
        let tx = self.tx
        while true {
            if state.pointee.isClosing { return .end }
            tx.state.pointee.awaitsWire = false
            guard tx.state.pointee.isRunning, isBusMaster, !(state.pointee.fault == .hangTransmit) else { return .wait }
            if !tx.state.pointee.holdsDescriptor {
                switch fetch(tx) {
                case .enabled: break
                case .disabled:
                    tx.state.pointee.isRunning = false
                    return .wait
                case .fault, .idle: return .wait
                }
            }
            let marker = tx.state.pointee.flags & (Descriptor.eop | Descriptor.eep)
            if tx.state.pointee.isDiscarding {
                if marker != 0 { tx.state.pointee.isDiscarding = false }
                tx.state.pointee.byteTotal &+= UInt32(truncatingIfNeeded: tx.state.pointee.byteCount)
                finishTransmit(marker)
                if state.pointee.interrupts.toDeliver != 0 { return .again }
                continue
            }
            guard state.pointee.core.link == .run else { return .wait }
            guard tx.state.pointee.byteCount == 0 else { return planPiece(&transfer) }
            if marker != 0 {
                guard state.pointee.wire.takesMarker else {
                    tx.state.pointee.awaitsWire = true
                    return .wait
                }
                state.pointee.wire.putMarker(isError: marker & Descriptor.eep != 0)
                tx.state.pointee.isInPacket = false
                wakeReceiver()
            }
            finishTransmit(marker)
            if state.pointee.interrupts.toDeliver != 0 { return .again }
        }
    }

    @_noLocks private func planPiece(_ transfer: inout Transfer) -> Step {
        let tx = self.tx
        var count = min(tx.state.pointee.byteCount, transferLimit)
        if tx.slave.pointee.isOn {
            guard tx.slave.pointee.isUnmasked else { return .wait }
            count = min(count, Int(tx.slave.pointee.remaining))
            tx.state.pointee.logical = tx.slave.pointee.address
        }
        if state.pointee.wire.rate != 0 {
            if clock.now() < tx.state.pointee.nextTransfer { return .waitUntil(tx.state.pointee.nextTransfer) }
            count = min(count, state.pointee.wire.piece)
        }
        if state.pointee.wire.mode == .loopback {
            let room = state.pointee.wire.reserve()
            guard room > 0 else {
                tx.state.pointee.awaitsWire = true
                return .wait
            }
            count = min(count, room)
            transfer.ring = state.pointee.wire.writePointer
        }
        transfer.logical = tx.state.pointee.logical
        transfer.byteCount = count
        transfer.mode = state.pointee.wire.mode
        transfer.generation = tx.state.pointee.generation
        transfer.wireGeneration = state.pointee.wire.generation
        transfer.receivedGeneration = state.pointee.wire.receivedGeneration
        transfer.crc = state.pointee.wire.receivedCRC
        transfer.attention = tx.words.pointee.attention.load(ordering: .relaxed)
        tx.state.pointee.isMoving = true
        return .move
    }

    /// Moves a piece page by page, with no lock held.
    @_noLocks func moveTransmit(_ transfer: inout Transfer) {
        let tx = self.tx
        while transfer.moved < transfer.byteCount {
            let logical = transfer.logical &+ UInt32(truncatingIfNeeded: transfer.moved)
            let count = min(transfer.byteCount &- transfer.moved, pageBytes &- Int(logical & 0xfff))
            pin(tx)
            // After the pin: who raised the attention before it waits for the pin, who raises it later is seen here.
            guard tx.words.pointee.attention.load(ordering: .sequentiallyConsistent) == transfer.attention else {
                unpin(tx)
                return
            }
            guard let source = iommu.translate(logical, .read) else {
                unpin(tx)
                transfer.faulted = true
                return
            }
            // The checksum is taken of the copy while it is in the first-level cache.
            let copy = transfer.ring.map { $0 + transfer.moved } ?? cardBuffer
            chw_copy(copy, source, count)
            unpin(tx)
            transfer.crc = chw_crc32c(transfer.crc, copy, count)
            transfer.moved &+= count
        }
    }

    /// Accounts for a piece that arrived. The lock is held.
    @_noLocks func commitTransmit(_ transfer: Transfer) {
        let tx = self.tx
        let count = transfer.moved
        if count > 0 {
            tx.state.pointee.byteCount &-= count
            tx.state.pointee.byteTotal &+= UInt32(truncatingIfNeeded: count)
            if tx.slave.pointee.isOn { tx.slave.pointee.advance(count) }
            tx.state.pointee.logical &+= UInt32(truncatingIfNeeded: count)
            tx.state.pointee.isInPacket = true
            tx.state.pointee.runEnd = tx.state.pointee.logical
            state.pointee.wire.put(count)
            if state.pointee.wire.receivedGeneration == transfer.receivedGeneration {
                state.pointee.wire.receivedBytes &+= UInt64(count)
                state.pointee.wire.receivedCRC = transfer.crc
            }
            pace(tx, count)
            wakeReceiver()
        }
        if transfer.faulted { busError(transfer.logical &+ UInt32(truncatingIfNeeded: count), .read) }
    }

    /// Tells the receiver of something new on the wire, if that comes back to it. The lock is held.
    @_noLocks private func wakeReceiver() {
        let rx = self.rx
        if state.pointee.wire.mode == .loopback, rx.state.pointee.awaitsWire { wake(rx) }
    }

    @_noLocks private func finishTransmit(_ marker: UInt32) {
        let tx = self.tx
        let interrupts = tx.state.pointee.flags & Descriptor.interrupt != 0
        // The core writes back length 0: it counts the length down.
        guard finish(tx, marker) else { return }
        if interrupts {
            state.pointee.core.sticky |= Status.transmitDescriptor
            evaluateInterrupts()
        }
    }

    /// Puts off the next piece of a direction as the rate asks. The lock is held.
    @_noLocks func pace(_ engine: EnginePointer, _ count: Int) {
        let rate = state.pointee.wire.rate
        guard rate != 0 else { return }
        let now = clock.now()
        // A late wake-up is made good for up to a millisecond, so that the mean is the rate that was set.
        let start = max(engine.state.pointee.nextTransfer, now > 1_000_000 ? now &- 1_000_000 : 0)
        engine.state.pointee.nextTransfer = start &+ UInt64(count) &* 1_000_000_000 / rate
    }
}
