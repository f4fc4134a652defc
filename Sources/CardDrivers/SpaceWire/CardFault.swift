import DriverCore
import PCIBus

/// A number of the card's that cannot be so. It is found where it is read, before anything is done with it; the engines are
/// then reset, and who reads or writes next is told.
struct CardFault {
    /// Which number.
    enum Kind: UInt8 {
        /// More bytes than the memory that a receive descriptor names.
        case receiveLength
        /// A descriptor that came back without its DONE bit.
        case receiveStatus
        case transmitStatus
        /// The counter of a slave DMA channel, which left its buffer or what the driver had granted.
        case receiveCounter
        case transmitCounter
        /// The length of a packet that the receiver has not delivered.
        case packetLength
    }

    var kind: Kind
    /// What the card said.
    var value: UInt64
    /// The most that could be so, where there is such a thing.
    var limit: UInt64 = 0
    /// The engines were reset, and what happened was reported.
    var isReported = false
    /// A reader got the error: the ring may begin again.
    var isTold = false

    @_noLocks init(_ kind: Kind, _ value: UInt64, limit: UInt64 = 0) {
        self.kind = kind
        self.value = value
        self.limit = limit
    }

    /// What happened, for a person.
    func text(_ card: PCIAddress) -> String {
        let number = "0x" + String(value, radix: 16)
        switch kind {
        case .receiveLength: return "\(card) wrote a length of \(value) into a receive descriptor of \(limit) bytes"
        case .receiveStatus:
            return "\(card) gave a receive descriptor back that is not done: its first word is \(number)"
        case .transmitStatus:
            return "\(card) gave a transmit descriptor back that is not done: its first word is \(number)"
        case .receiveCounter:
            return
                "the slave DMA counter of the receiver of \(card) reads \(value): it moved beyond the \(limit) bytes granted"
        case .transmitCounter:
            return
                "the slave DMA counter of the transmitter of \(card) reads \(value): it moved beyond the \(limit) bytes posted"
        case .packetLength: return "\(card) told the end of a packet after \(value) bytes and had delivered \(limit)"
        }
    }
}

extension TransmitChannel {
    /// Keeps what is wrong: what the card has is not taken for sent, and nothing more is given to it before its engines were
    /// reset.
    @_noLocks mutating func refuse(_ fault: CardFault) {
        self.fault = fault
        counters.cardErrors &+= 1
        context?.deferred.pointee.queue(call)
    }

    /// Whether the card has taken what the entry at `head` stands for.
    @_noLocks mutating func isTaken(_ mark: TransmitMark, _ ring: DescriptorRing) -> Bool {
        if case .system = engine { return mark.end <= stream?.controller ?? 0 }
        let word = ring.status(head)
        if word & SpaceWireLayout.Descriptor.enable != 0 { return false }
        if word & SpaceWireLayout.Descriptor.done == 0 { refuse(CardFault(.transmitStatus, UInt64(word))) }
        return fault == nil
    }

    /// Looks how far the controller of the engine `system` is.
    @_noLocks mutating func followStream() {
        guard var stream else { return }
        if let fault = stream.follow(.transmitCounter) { return refuse(fault) }
        self.stream = stream
    }
}

extension ReceiveChannel {
    /// Keeps what is wrong, and ends the packet it happened in: nothing more is taken from the card until its engines were reset.
    @_noLocks mutating func refuse(_ fault: CardFault) {
        self.fault = fault
        counters.cardErrors &+= 1
        // The place of the descriptor that cannot be believed, or one of the two that system DMA keeps back.
        var slot = ReceiveSlot()
        let isOpen = filled == head ? isPacketOpen : slots[place(filled &- 1)].end == .none
        if isOpen {
            slot.end = .eep
            counters.packets &+= 1
            counters.errorPackets &+= 1
        }
        slots[place(filled)] = slot
        filled &+= 1
        guard let context else { return }
        lastArrival = context.clock.now()
        context.deferred.pointee.queue(call)
    }

    /// Ends a reader with the error, once it has got all that came before. True if the reader was ended.
    @_noLocks mutating func tellFault(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard hasFaultToTell else { return false }
        // One that has gathered bytes gets those, and the next one the error.
        if record.pointee.accumulated == 0 { dropFault() }
        finishPartly(record, .ioDeviceError, .cardError)
        return true
    }

    /// Whether the next reader is to be told of an error of the card.
    var hasFaultToTell: Bool {
        @_noLocks get {
            guard available == 0, let fault else { return false }
            return fault.isReported && !fault.isTold
        }
    }

    /// The error needs to be told no more.
    @_noLocks mutating func dropFault() {
        fault?.isTold = true
        context?.deferred.pointee.queue(call)
    }

    /// Lets an engine that an error of the card had stopped go on with an empty ring, once the error was told.
    mutating func restartAfterFault() {
        guard let fault, fault.isTold, fault.isReported, let ring, let data, let context, !isHeld else { return }
        guard engine != .system else {
            // A reply is one system call; look again when it is made.
            guard !isInUse else { return context.deferred.pointee.queue(call) }
            self.fault = nil
            noteCounter()
            restartRing()
            repost()
            return
        }
        self.fault = nil
        var entry = filled
        while entry != posted {
            // What the card has filled behind the descriptor that was wrong is not believed either.
            let word = ring.status(entry)
            let length = Int(word & SpaceWireLayout.Descriptor.lengthMask)
            if word & SpaceWireLayout.Descriptor.enable == 0, length <= Self.slotByteCount {
                counters.arrivedBytes += UInt64(length)
                counters.discardedBytes += UInt64(length)
            }
            ring.enable(
                entry,
                SpaceWireLayout.Descriptor.interrupt,
                length: Self.slotByteCount,
                address: data.logicalAddress.advanced(by: UInt64(place(entry) * Self.slotByteCount))
            )
            entry += 1
        }
        noteCounter()
        restartEngine()
        repost()
    }
}
