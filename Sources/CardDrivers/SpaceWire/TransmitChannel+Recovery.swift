import CHardware
import DriverCore
import PCIBus

/// What a look at the clock found.
enum TransmitStall {
    /// The card makes progress, or has nothing to do.
    case none
    /// Descriptors are with the card and none was finished for the time allowed.
    case stalled
}

// What happens when the card does not: none of it is on the path of a request that goes well.
extension TransmitChannel {
    /// Starts the ring anew on hardware that was just prepared. The engine is stopped.
    mutating func attach(_ context: ChannelContext, ring: DescriptorRing, slots: CommonBuffer) {
        self.context = context
        self.ring = ring
        self.slots = slots
    }

    /// Whether nothing is with the card and nobody waits.
    mutating func isIdle() -> Bool {
        reap()
        settle()
        return head == tail && current == nil && barriers.isEmpty && writes.waitingCount == 0
    }

    /// Sends in another way from the next ``start()`` on. The channel is idle and held.
    mutating func select(_ engine: DMAEngine, ring: DescriptorRing) {
        self.engine = engine
        self.ring = ring
    }

    /// Empties the ring for an engine that was reset, and lets writes through. What waited begins to wait anew.
    mutating func start() {
        refusal = nil
        restartRing()
        lastProgress = context?.clock.now() ?? 0
        resume()
    }

    private mutating func restartRing() {
        guard let ring, let context else { return }
        ring.clear()
        fault = nil
        marks.update(repeating: TransmitMark(), count: Self.ringCount)
        head = 0
        tail = 0
        taken.sent = counters.sentBytes
        if context.isFullCard { taken.base = context.window.load32(SpaceWireLayout.bytesTaken) }
        if case .system = engine {
            stream = startStream?()
            context.ring(SpaceWireLayout.Control.transmitStart)
            return
        }
        context.window.store32(
            UInt32(truncatingIfNeeded: ring.logicalAddress.value),
            SpaceWireLayout.txDescriptorPointer
        )
    }

    /// Takes no other write; the one that has begun goes on.
    mutating func close() { writes.stop() }

    /// Lets nothing new into the ring.
    mutating func hold() {
        isHeld = true
        writes.stop()
    }

    /// Forgets the hardware; what waits goes on waiting.
    mutating func detach() {
        isHeld = true
        ring = nil
        slots = nil
        stream = nil
        startStream = nil
        context = nil
    }

    /// Takes back what a stopped engine left in the ring; each file that lost bytes is told at its next call. The ring is
    /// ready for use again, with an error end of packet if a packet was left open. Answers the bytes lost.
    mutating func reclaim(_ status: Status, _ cause: FailureCause, endPacket: Bool) -> UInt64 {
        reap()
        var lost: UInt64 = 0
        let wasOpen = head != tail
        // What the card took of the oldest request is with the far end: it is sent, and the rest is lost.
        var part = partTaken
        while head != tail {
            let mark = marks[Int(truncatingIfNeeded: head) & (Self.ringCount - 1)]
            head += 1
            guard mark.sequence != 0 else { continue }
            let sent = min(part, UInt64(mark.byteCount))
            part -= sent
            counters.sentBytes += sent
            lost += UInt64(mark.byteCount) - sent
            mark.stream?.pointee.lose(UInt64(mark.byteCount) - sent, of: mark.generation, status, cause)
            done = mark.sequence
            giveBack(mark)
        }
        abandonMappings(status, cause)
        counters.lostBytes += lost
        counters.recoveries += 1
        failBarriers(status, cause)
        restartRing()
        if endPacket, wasOpen, case .system = engine {
            // A piece without bytes that ends the packet in error.
            context?.window.store32(1 << 30, SpaceWireLayout.slaveSend)
            context?.ring(SpaceWireLayout.Control.transmitStart)
        } else if endPacket, wasOpen, let ring, let context {
            // The receiver has the beginning of a packet that will not go on: only an end marker closes it.
            marks[0] = TransmitMark()
            ring.enable(
                0,
                SpaceWireLayout.Descriptor.eep,
                length: 0,
                address: ring.logicalAddress
            )
            tail = 1
            context.ring(SpaceWireLayout.Control.transmitStart)
        }
        lastProgress = context?.clock.now() ?? 0
        return lost
    }

    /// Ends the waits for bytes that will not be sent; a wait for bytes that were is a success.
    private mutating func failBarriers(_ status: Status, _ cause: FailureCause) {
        var barrier = barriers.first
        while let record = barrier {
            barrier = barriers.next(after: record)
            guard record.pointee.claim() else { continue }
            barriers.remove(record)
            if let stream = record.pointee.stream {
                guard let loss = stream.pointee.lost else {
                    decided.add(record, .success, information: record.pointee.accumulated)
                    continue
                }
                record.pointee.lostBytes = loss.byteCount
            }
            decided.add(record, status, cause: cause)
        }
    }

    /// Ends every wait, and every request that comes until a start; what the card had is reclaimed separately.
    mutating func failAll(_ status: Status, _ cause: FailureCause) {
        refusal = (status, cause)
        isHeld = true
        while let record = writes.oldest {
            writes.remove(record)
            if record.pointee.claim() { decided.add(record, status, cause: cause) }
        }
        if let record = current {
            mapping.phase = .wanted
            current = nil
            record.pointee.accumulated = 0
            if record.pointee.claim() { decided.add(record, status, cause: cause) }
            _ = writes.finished()
        }
        failBarriers(status, cause)
    }

    /// What was counted so far, and the bytes accepted that the card has still to take, which add up: one look, with the lock
    /// held.
    func account() -> (counters: TransmitCounters, waiting: UInt64) {
        var waiting: UInt64 = 0
        var entry = head
        while entry != tail {
            let mark = marks[Int(truncatingIfNeeded: entry) & (Self.ringCount - 1)]
            if mark.sequence != 0 { waiting += UInt64(mark.byteCount) }
            entry += 1
        }
        return (counters, waiting)
    }

    /// Bytes of requests the card has not finished that it has taken, where it counts them.
    private var partTaken: UInt64 {
        guard let context, head != tail else { return 0 }
        let finished = UInt32(truncatingIfNeeded: counters.sentBytes - taken.sent)
        let limit = Int(account().waiting) + (current?.pointee.accumulated ?? 0)
        return UInt64(context.bytes(SpaceWireLayout.bytesTaken, since: taken.base &+ finished, limit: limit) ?? 0)
    }

    /// Bytes that the card was seen to have taken since the device was added, parts of requests included. Only rises, and not
    /// beyond what was accepted, whatever the card says.
    var bytesMoved: UInt64 {
        mutating get {
            taken.seen = max(taken.seen, counters.sentBytes + partTaken)
            return taken.seen
        }
    }

    /// Writes the card has and has not finished, and one that has begun.
    var unsentRequests: UInt64 {
        mutating get {
            reap()
            settle()
            return accepted - done + (current == nil ? 0 : 1)
        }
    }

    /// Whether the card has nothing of a request any more, but the end of a packet of which a part was lost.
    var holdsOnlyEnd: Bool { head != tail && current == nil && account().waiting == 0 }

    /// Whether somebody waits.
    var isAwaited: Bool { current != nil || !barriers.isEmpty }

    /// Lets writes in after ``reclaim(_:_:endPacket:)`` or a start.
    mutating func resume() {
        isHeld = false
        writes.start()
        deliver(writes.next())
        settle()
        setTimer()
    }

    /// Collects what is done and looks at the clock. Dispatch level.
    mutating func runDeferred() -> TransmitStall {
        isTimerSet = false
        reap()
        settle()
        expireClosing()
        if let context, context.clock.now() >= lastProgress &+ ChannelContext.lookInterval / 2 { followBytes() }
        let stall = self.stall
        setTimer()
        return stall
    }

    /// Takes bytes for progress that the card has taken of a request it has not finished.
    mutating func followBytes() {
        guard let context, context.policy.transmitTimeout != 0, head != tail, !isHeld else { return }
        let before = max(taken.seen, counters.sentBytes)
        if bytesMoved > before { lastProgress = context.clock.now() }
    }

    /// Whether the card has had a descriptor for the time allowed and did nothing.
    var stall: TransmitStall {
        guard let context, context.policy.transmitTimeout != 0, head != tail || current != nil,
            context.clock.now() >= lastProgress &+ context.policy.transmitTimeout
        else { return .none }
        return .stalled
    }

    private mutating func expireClosing() {
        guard let context else { return }
        let now = context.clock.now()
        var barrier = barriers.first
        while let record = barrier {
            barrier = barriers.next(after: record)
            guard record.pointee.kind == .close, now >= record.pointee.waitingSince &+ context.policy.linger,
                record.pointee.claim()
            else { continue }
            barriers.remove(record)
            counters.timeouts += 1
            decided.add(record, .ioTimeout, cause: .stillSending)
        }
    }

    /// Ends every wait that has lasted the time allowed without progress; what was accepted stays in the ring.
    mutating func expire(_ cause: FailureCause) {
        if let context {
            let now = context.clock.now()
            let timeout = context.policy.transmitTimeout
            let base = lastProgress
            func isOver(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
                now >= max(record.pointee.waitingSince, base) &+ timeout
            }
            var queued = writes.oldest
            while let record = queued {
                queued = writes.next(after: record)
                guard isOver(record), record.pointee.claim() else { continue }
                writes.remove(record)
                counters.timeouts += 1
                decided.add(record, .ioTimeout, cause: cause)
            }
            if let record = current, isOver(record), record.pointee.claim() {
                let bytes = record.pointee.accumulated
                if mapping.isOn { cutCurrent(record) }
                current = nil
                counters.timeouts += 1
                if bytes > 0 {
                    decided.add(record, .success, information: bytes)
                } else {
                    decided.add(record, .ioTimeout, cause: cause)
                }
                deliver(writes.finished())
            }
            var barrier = barriers.first
            while let record = barrier {
                barrier = barriers.next(after: record)
                guard isOver(record), record.pointee.claim() else { continue }
                barriers.remove(record)
                counters.timeouts += 1
                decided.add(record, .ioTimeout, cause: cause)
            }
            settle()
            setTimer()
        }
    }
}
