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
        endLateLoans(besides: nil)
        reap()
        settle()
        return available == 0 && readers.oldest == nil && !isInUse && fault == nil
    }

    /// What was counted so far, and the bytes that have arrived and were neither given to a reader nor discarded, which add up:
    /// one look, with the lock held. A reader that gathers has not been given its bytes before it ends.
    func account() -> (counters: ReceiveCounters, waiting: UInt64) {
        var waiting = UInt64(available)
        var next = readers.oldest
        while let record = next {
            waiting += UInt64(record.pointee.accumulated)
            next = readers.next(after: record)
        }
        return (counters, waiting)
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
        takePart()
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
        noteCounter()
        if keepsUnread {
            endArrival()
            restartEngine()
        } else {
            restartRing()
        }
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
        isArrivalCut = false
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

    /// Takes over what the stopped engine has stored: kept for after a sleep, or counted as discarded.
    mutating func cease(keepsUnread: Bool) {
        reap()
        takePart()
        self.keepsUnread = keepsUnread
        if !keepsUnread { loseUnread() }
    }

    /// What the ring holds is lost. A packet or stream that a reader has begun goes no further.
    private mutating func loseUnread() {
        counters.discardedBytes += UInt64(available)
        available = 0
        cut()
    }

    /// What comes next does not continue what was read. A reader that has gathered bytes gets those; where it was in a packet, the
    /// packet ends in error, and where nobody gathers, the next read is told.
    private mutating func cut() {
        if let record = readers.oldest, record.pointee.accumulated > 0, record.pointee.claim() {
            readers.remove(record)
            finishPartly(record, .success, .none, end: .eep)
            return
        }
        guard framing == .packet, lastEnd == .more else { return }
        lastEnd = .eep
        tellCut()
    }

    /// Tells the next read that something is missing before what it would get.
    private mutating func tellCut() {
        isCutUntold = true
        guard let record = readers.oldest, record.pointee.claim() else { return }
        readers.remove(record)
        // One that has gathered bytes gets those, and the next one the failure.
        isCutUntold = record.pointee.accumulated > 0
        finishPartly(record, .requestAborted, .packetCut)
    }

    /// After a sleep: the far end dropped what was left of the packet that came in.
    private mutating func endArrival() {
        guard isArriving else { return }
        if isArrivalCut, framing == .packet {
            isArrivalCut = false
            return
        }
        isArrivalCut = false
        counters.packets += 1
        counters.errorPackets += 1
        if head != filled { slots[place(filled - 1)].end = .eep }
        if framing == .stream {
            tellCut()
        } else if head == filled {
            isPacketOpen = false
            cut()
        }
    }

    /// Whether the packet that came last has not ended.
    private var isArriving: Bool { filled != UInt64(Self.slotCount) && slots[place(filled - 1)].end == .none }

    /// Remembers what the card's counter shows while all it has stored is told.
    mutating func noteCounter() {
        guard let context, context.isFullCard else { return }
        stored = (context.window.load32(SpaceWireLayout.bytesStored), counters.arrivedBytes)
    }

    /// Bytes the card has stored and not told of, in the slot it is at.
    private var partStored: Int {
        guard let context, fault == nil else { return 0 }
        let told = UInt32(truncatingIfNeeded: counters.arrivedBytes - stored.arrived)
        let limit = Self.slotByteCount
        return context.bytes(SpaceWireLayout.bytesStored, since: stored.base &+ told, limit: limit) ?? 0
    }

    /// Takes over what a stopped engine has stored and not told of, as a part of a packet.
    mutating func takePart() {
        guard fault == nil else { return }
        if case .system = engine { return takeUntold() }
        let count = partStored
        guard count > 0, filled != posted, let ring, let data else { return }
        // The card must not come back to this slot before it has been read.
        ring.prepare(filled, 0, length: 0, address: data.logicalAddress)
        var slot = ReceiveSlot()
        slot.length = count
        slot.offset = place(filled) * Self.slotByteCount
        take(slot)
    }

    /// Bytes that the card was seen to have stored since the device was added, whether it told of them or not.
    var bytesMoved: UInt64 { counters.arrivedBytes + UInt64(partStored) }

    /// Forgets the hardware; what waits goes on waiting.
    mutating func detach() {
        isHeld = true
        // The memory goes, and with it what a card that did not wake had left.
        if keepsUnread { loseUnread() }
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
        if case .system = engine {
            // The card counts the bytes of a packet that goes on from here.
            packetStart = chunked
            grant()
            return
        }
        let place = UInt64(place(filled) * SpaceWireLayout.descriptorByteCount)
        context.window.store32(
            UInt32(truncatingIfNeeded: ring.logicalAddress.value + place),
            SpaceWireLayout.rxDescriptorPointer
        )
        context.ring(SpaceWireLayout.Control.receiveStart)
    }

    /// Throws away what is in the ring (the `flush` command), and what still comes of a packet of which it throws a part away.
    /// Answers all bytes discarded so far.
    mutating func discard() -> UInt64 {
        reap()
        if head != filled {
            counters.discardedBytes += UInt64(available)
            available = 0
            head = filled
            headOffset = 0
            isArrivalCut = isArriving
            isPacketOpen = isArriving && framing == .stream
            cut()
        }
        if fault != nil { dropFault() }
        // Behind a piece that is lent lies more to discard.
        recall(for: .command)
        return counters.discardedBytes
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
        if recall(for: .nobody) { settle() }
        expire()
        setTimer()
        watchLoans()
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
