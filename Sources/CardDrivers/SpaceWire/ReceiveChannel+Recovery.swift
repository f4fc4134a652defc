import DriverCore
import PCIBus

// Starting, stopping and emptying the receive ring, and what happens when nothing comes.
extension ReceiveChannel {
    /// Takes over hardware that was just prepared. The engine is stopped.
    mutating func attach(_ context: ChannelContext, ring: DescriptorRing, data: CommonBuffer) {
        self.context = context
        self.ring = ring
        self.data = data
        // Who has mapped the memory of before sees nothing of this one.
        revokeLoans()
    }

    /// Whether nobody reads and nothing is there to be read.
    mutating func isIdle() -> Bool {
        reap()
        settle()
        return available == 0 && readers.oldest == nil && !isInUse && fault == nil
    }

    /// Whether anything has come that nobody has read.
    mutating func hasArrived() -> Bool {
        reap()
        return available > 0
    }

    /// Lets readers and an engine that was reset go on where they were.
    mutating func goOn() {
        isHeld = false
        readers.start()
        restartEngine()
        settle()
    }

    /// Lets the card deliver as much as there is room for, and starts its receiver.
    private mutating func grant() {
        guard let context, let stream else { return }
        let room = stream.byteCount - 1 - slots(from: released, to: filled)
        self.stream?.limit = stream.controller + UInt64(room)
        context.window.store32(UInt32(room), SpaceWireLayout.slaveCredit)
        context.ring(SpaceWireLayout.Control.receiveStart)
    }

    private func slots(from first: UInt64, to end: UInt64) -> Int {
        var bytes = 0
        var slot = first
        while slot != end {
            bytes += slots[place(slot)].length
            slot += 1
        }
        return bytes
    }

    /// Gives the ring to an engine that was reset and lets readers in: the whole ring, or what the unread bytes of before a
    /// sleep leave of it.
    mutating func start() {
        refusal = nil
        isHeld = false
        readers.start()
        // What was wrong before a sleep is still to be told, behind what came before it.
        if !keepsUnread { fault = nil }
        if fault != nil { context?.deferred.pointee.queue(call) }
        if keepsUnread { restartEngine() } else { restartRing() }
        keepsUnread = false
        repost()
        settle()
        setTimer()
    }

    mutating func restartRing() {
        guard let ring, let context else { return }
        ring.clear()
        posted = 0
        filled = 0
        head = 0
        headOffset = 0
        available = 0
        isPacketOpen = false
        slots.update(repeating: ReceiveSlot(), count: Self.slotCount)
        // The counters start one lap apart: every slot was "read" and may be handed out.
        head = UInt64(Self.slotCount)
        filled = head
        posted = head
        released = 0
        if case .system = engine {
            chunked = 0
            packetStart = 0
            stream = startStream?()
            grant()
            return
        }
        context.window.store32(
            UInt32(truncatingIfNeeded: ring.logicalAddress.value),
            SpaceWireLayout.rxDescriptorPointer
        )
    }

    /// Gives nothing more to the card; what it has filled is lost when the ring starts anew. Answers whether no reply uses
    /// the ring now.
    mutating func hold() {
        isHeld = true
        revokeLoans()
        readers.stop()
    }

    /// Whether replies are being made from the ring.
    var isInUse: Bool { (0..<Self.slotCount).contains { slots[$0].users != 0 } }

    /// Takes over what the stopped engine has finished: kept for after a sleep, or counted as discarded.
    mutating func cease(keepsUnread: Bool) {
        reap()
        self.keepsUnread = keepsUnread
        guard !keepsUnread else { return }
        counters.discardedBytes += UInt64(available)
        available = 0
    }

    /// Forgets the hardware; what waits goes on waiting.
    mutating func detach() {
        isHeld = true
        // The memory goes, and with it what a card that did not wake had left.
        if keepsUnread { counters.discardedBytes += UInt64(available) }
        keepsUnread = false
        available = 0
        fault = nil
        ring = nil
        stream = nil
        startStream = nil
        data = nil
        context = nil
    }

    /// Lets an engine that a bus error stopped go on at the descriptor it had.
    mutating func restartEngine() {
        guard let ring, let context, !isHeld, fault == nil else { return }
        reap()
        guard fault == nil else { return }
        if case .system = engine {
            // The card has forgotten what it had not told of: that is here, and its packet ends in error.
            closeStreamPacket()
            if fault == nil { grant() }
            return
        }
        let place = UInt64(place(filled) * SpaceWireLayout.descriptorByteCount)
        context.window.store32(
            UInt32(truncatingIfNeeded: ring.logicalAddress.value + place),
            SpaceWireLayout.rxDescriptorPointer
        )
        context.ring(SpaceWireLayout.Control.receiveStart)
    }

    /// Throws away what is in the ring (the `flush` command). Answers the bytes.
    mutating func discard() -> Int {
        reap()
        let bytes = available
        while head != filled {
            let entry = slots[place(head)]
            isPacketOpen = entry.end == .none
            head += 1
        }
        headOffset = 0
        available = 0
        counters.discardedBytes += UInt64(bytes)
        if fault != nil { dropFault() }
        return bytes
    }

    /// Ends every wait, and every request that comes until a start; a reader that has gathered bytes gets those.
    mutating func failAll(_ status: Status, _ cause: FailureCause) {
        refusal = (status, cause)
        while let record = readers.oldest {
            readers.remove(record)
            if record.pointee.claim() { finishPartly(record, status, cause) }
        }
    }

    /// Collects what has arrived, serves readers and looks at the clock. Dispatch level.
    mutating func runDeferred() {
        reap()
        settle()
        expire()
        setTimer()
    }

    private mutating func expire() {
        guard let context, context.policy.receiveTimeout != 0 else { return }
        let now = context.clock.now()
        var next = readers.oldest
        while let record = next {
            next = readers.next(after: record)
            guard now >= max(record.pointee.waitingSince, lastArrival) + context.policy.receiveTimeout,
                record.pointee.claim()
            else { continue }
            readers.remove(record)
            counters.timeouts += 1
            finishPartly(record, .ioTimeout, .noData)
        }
    }
}
