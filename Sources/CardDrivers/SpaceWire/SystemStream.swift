import CHardware
import DriverCore
import PCIBus

/// One direction of system DMA: a common buffer that a channel of the slave controller goes round, and where both are in it.
/// Positions count bytes since the channel was loaded. Under the lock of the port.
struct SystemStream {
    let channel: SlaveDMAChannel
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    /// Where the driver is: bytes put into the buffer, or bytes of it that were given to readers and back to the card.
    var driver: UInt64 = 0
    /// Where the controller is.
    var controller: UInt64 = 0
    /// How far the controller may go: to what the driver has posted to the card, or granted it.
    var limit: UInt64 = 0

    init(_ adapter: SystemDMAAdapter, _ buffer: CommonBuffer) {
        channel = adapter.channel
        base = buffer.base
        byteCount = buffer.byteCount
    }

    /// Follows the controller (ReadDmaCounter). It is never a whole round ahead of the last look: the driver keeps a byte back.
    /// A counter that cannot be so is answered, and not followed.
    @_noLocks mutating func follow(_ kind: CardFault.Kind) -> CardFault? {
        let counter = channel.counter()
        let allowed = limit &- controller
        guard counter >= 0, counter <= byteCount else {
            return CardFault(kind, UInt64(truncatingIfNeeded: counter), limit: allowed)
        }
        let place = byteCount &- counter
        let before = Int(truncatingIfNeeded: controller % UInt64(byteCount))
        let moved = UInt64(place >= before ? place &- before : place &+ byteCount &- before)
        guard moved <= allowed else { return CardFault(kind, UInt64(truncatingIfNeeded: counter), limit: allowed) }
        controller &+= moved
        return nil
    }

    /// Where a position is in the buffer.
    @_noLocks func place(_ position: UInt64) -> Int { Int(truncatingIfNeeded: position % UInt64(byteCount)) }

    /// Bytes the driver may put into the buffer.
    var room: Int { @_noLocks get { byteCount &- 1 &- Int(truncatingIfNeeded: driver &- controller) } }
}

extension TransmitChannel {
    /// Copies a request behind what the controller has still to take, and tells the card to ask for it.
    @_noLocks mutating func postStream(_ record: UnsafeMutablePointer<RequestRecord>) {
        guard let context, var stream, let payload = record.pointee.payload else { return }
        if tail == head { lastProgress = context.clock.now() }
        let length = record.pointee.length
        let place = stream.place(stream.driver)
        let first = min(length, stream.byteCount &- place)
        chw_copy(stream.base + place, payload, first)
        if first < length { chw_copy(stream.base, payload + first, length &- first) }
        chw_dma_write_barrier()
        stream.driver &+= UInt64(length)
        stream.limit = stream.driver
        self.stream = stream
        tail &+= 1
        accept(record, .none)
        (marks + (Int(truncatingIfNeeded: tail &- 1) & (Self.ringCount &- 1))).pointee.end = stream.driver
        context.window.store32(UInt32(truncatingIfNeeded: length) | 1 << 31, SpaceWireLayout.slaveSend)
        note(record, MemoryDescriptorList(virtualAddress: VirtualAddress(payload), byteCount: length), 1)
        decide(record)
    }

    /// Whether the buffer takes a request now.
    @_noLocks func hasStreamRoom(_ byteCount: Int) -> Bool {
        guard let stream else { return false }
        return byteCount <= stream.room && tail &- head < UInt64(Self.ringCount)
    }
}

extension ReceiveChannel {
    /// Takes over what the controller has delivered: packets that ended, and what there is of the one that has not.
    @_noLocks mutating func reapStream() {
        guard let context, var stream else { return }
        let before = filled
        if let fault = stream.follow(.receiveCounter) { return refuse(fault) }
        while filled &- released < UInt64(Self.slotCount) &- 2 {
            let packet = context.window.load32(SpaceWireLayout.slavePacket)
            guard packet & SpaceWireLayout.Packet.isThere != 0, packet != .max else { break }
            let length = UInt64(packet & SpaceWireLayout.Packet.lengthMask)
            let end = packetStart &+ length
            // What the card has ended it has delivered, after the look above perhaps.
            if end > stream.controller, let fault = stream.follow(.receiveCounter) { return refuse(fault) }
            guard end >= chunked, end <= stream.controller else {
                return refuse(CardFault(.packetLength, length, limit: stream.controller &- packetStart))
            }
            let isError = packet & SpaceWireLayout.Packet.eep != 0
            let goesOn = packet & SpaceWireLayout.Packet.goesOn != 0
            if !goesOn || end > chunked { addChunk(stream, upTo: end, end: goesOn ? .none : isError ? .eep : .eop) }
            packetStart = end
            if goesOn { continue }
            counters.packets &+= 1
            if isError { counters.errorPackets &+= 1 }
        }
        if filled &- released < UInt64(Self.slotCount) &- 2, chunked < stream.controller {
            addChunk(stream, upTo: stream.controller, end: .none)
        }
        self.stream = stream
        if filled != before { lastArrival = context.clock.now() }
    }

    /// Takes over all that was delivered, as a part of a packet; what there is no slot for is discarded.
    mutating func takeUntold() {
        guard var stream else { return }
        if let fault = stream.follow(.receiveCounter) { return refuse(fault) }
        self.stream = stream
        if chunked < stream.controller, filled &- released < UInt64(Self.slotCount) &- 2 {
            addChunk(stream, upTo: stream.controller, end: .none)
        }
        let rest = stream.controller - chunked
        counters.arrivedBytes += rest
        counters.discardedBytes += rest
        chunked = stream.controller
    }

    /// Whether the card has delivered bytes whose place in packets it has not told.
    var isUntold: Bool {
        guard case .system = engine, let stream else { return false }
        return packetStart != stream.controller
    }

    /// Adds bytes to those that can be read, cut where the buffer ends.
    @_noLocks private mutating func addChunk(_ stream: SystemStream, upTo position: UInt64, end: PacketEnd) {
        repeat {
            let place = stream.place(chunked)
            var slot = ReceiveSlot()
            slot.offset = place
            slot.length = min(Int(truncatingIfNeeded: position &- chunked), stream.byteCount &- place)
            chunked &+= UInt64(slot.length)
            if chunked == position { slot.end = end }
            take(slot)
        } while chunked < position
    }

    /// Lets the card deliver as many bytes more as were read.
    @_noLocks mutating func repostStream() {
        guard let context, !isHeld, fault == nil else { return }
        var bytes = 0
        while released != head, slots[place(released)].users == 0 {
            bytes &+= slots[place(released)].length
            released &+= 1
        }
        posted = released &+ UInt64(Self.slotCount)
        guard bytes > 0 else { return }
        stream?.limit &+= UInt64(bytes)
        context.window.store32(UInt32(truncatingIfNeeded: bytes), SpaceWireLayout.slaveCredit)
    }
}
