import CHardware
import DriverCore
import Glibc
import PCIBus

// How a read is put together: which bytes it gets, and whether they are answered from the ring or copied.
extension ReceiveChannel {
    /// What a look at the ring says of the next packet.
    private struct PacketView {
        /// Bytes of the packet that are there.
        var byteCount = 0
        /// Whether its end is there too.
        var isComplete = false
        var end = PacketEnd.none
    }

    /// Whether serving this reader would do anything.
    @_noLocks func canServe(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard let context else { return false }
        let wanted = record.pointee.length &- record.pointee.accumulated
        if isHeld { return false }
        if hasFaultToTell || isCrowded() && available > 0 { return true }
        if framing == .packet { return isPacketReady(atLeast: wanted) || isOverdue(record, context.clock.now()) }
        return available >= wanted
            || available &+ record.pointee.accumulated > 0
                && context.clock.now() >= lastArrival &+ context.policy.gather
    }

    /// In packet framing, time ends the wait only for a packet that fills the request exactly and whose end marker does
    /// not come: what is there is handed out as the beginning of a longer one.
    @_noLocks private func isOverdue(_ record: UnsafeMutablePointer<RequestRecord>, _ now: UInt64) -> Bool {
        guard let context else { return false }
        return available &+ record.pointee.accumulated >= record.pointee.length
            && now >= lastArrival &+ context.policy.gather
    }

    /// The card has few slots left to fill.
    @_noLocks func isCrowded() -> Bool { posted &- filled < Self.scarceSlots }

    @_noLocks func isPacketReady(atLeast wanted: Int) -> Bool {
        let view = packet(limit: wanted)
        return view.isComplete || view.byteCount > wanted
    }

    /// Looks at the packet at `head`, at most a byte further than `limit`.
    @_noLocks private func packet(limit: Int) -> PacketView {
        var view = PacketView()
        var slot = head
        var offset = headOffset
        while slot != filled {
            let entry = slots[place(slot)]
            view.byteCount &+= entry.length &- offset
            if entry.end != .none {
                // An end marker alone is an empty packet, or the end of one that was read already: neither is data.
                if view.byteCount > 0 {
                    view.isComplete = true
                    view.end = entry.end
                    return view
                }
            }
            if view.byteCount > limit { return view }
            offset = 0
            slot &+= 1
        }
        return view
    }

    /// Gives a request the driver owns what it can get now. True if it was decided; false if it has to wait, perhaps with
    /// bytes already copied to its own memory.
    @_noLocks mutating func serve(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        guard let context, !isHeld else { return false }
        skipEmpty()
        if tellFault(record) { return true }
        let wanted = record.pointee.length &- record.pointee.accumulated
        let now = context.clock.now()
        if framing == .packet {
            let view = packet(limit: wanted)
            if view.isComplete && view.byteCount <= wanted {
                return deliver(record, view.byteCount, end: view.end)
            }
            if view.byteCount > wanted || view.byteCount == wanted && isOverdue(record, now) {
                return deliver(record, wanted, end: .more)
            }
            if isCrowded() && view.byteCount > 0 && view.byteCount < wanted {
                if isImpatient(record) { return deliver(record, view.byteCount, end: .more) }
                return accumulate(record, view.byteCount)
            }
            return false
        }
        if available >= wanted { return deliver(record, wanted, end: .none) }
        let isGathered =
            record.pointee.flags.contains(.nonblocking) || now >= lastArrival &+ context.policy.gather
        if available &+ record.pointee.accumulated > 0 && isGathered { return deliver(record, available, end: .none) }
        if isCrowded() && available > 0 {
            if isImpatient(record) { return deliver(record, available, end: .none) }
            return accumulate(record, available)
        }
        return false
    }

    /// Whether a request takes what is there rather than gathering in memory of its own.
    @_noLocks private func isImpatient(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        record.pointee.flags.contains(.nonblocking) || record.pointee.flags.contains(.mapped)
    }

    /// Passes end markers that carry no data: empty packets, and the ends of packets that exactly filled their slots.
    @_noLocks mutating func skipEmpty() {
        while head != filled {
            let entry = slots[place(head)]
            guard entry.length == headOffset else { return }
            if entry.end != .none {
                if isPacketOpen { if framing == .packet { lastEnd = entry.end } } else { counters.emptyPackets &+= 1 }
                isPacketOpen = false
            }
            head &+= 1
            headOffset = 0
        }
    }

    /// Copies bytes out of a crowded ring into the request's own memory, so that the card can go on.
    @_noLocks private mutating func accumulate(_ record: UnsafeMutablePointer<RequestRecord>, _ count: Int) -> Bool {
        guard takeMemory(record) else { return deliver(record, count, end: framing == .packet ? .more : .none) }
        copyOut(record, count)
        repost()
        return false
    }

    /// Ends a request with `count` more bytes.
    @_noLocks private mutating func deliver(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ count: Int,
        end: PacketEnd
    ) -> Bool {
        guard let context else { return false }
        if record.pointee.flags.contains(.mapped) { return lend(record, count, end: end) }
        let total = record.pointee.accumulated &+ count
        var isDirect = false
        // Out of a common buffer every byte is copied, and its place goes back to the card at once.
        if case .scatterGather = engine {
            isDirect =
                record.pointee.accumulated == 0
                && (count >= context.policy.directThreshold || record.pointee.flags.contains(.direct))
        }
        var isDone = false
        if isDirect { isDone = pointAt(record, count, isWhole: true) == count }
        if !isDone {
            if takeMemory(record) {
                copyOut(record, count)
                segment(record, 0, record.pointee.payload, total)
                record.pointee.segmentCount = 1
            } else if record.pointee.accumulated == 0, pointAt(record, count, isWhole: true) != count {
                // Neither memory nor few enough pieces: a shorter answer is an answer, and the first piece is one piece.
                let piece = min(count, slots[place(head)].length &- headOffset)
                return deliver(record, piece, end: framing == .packet ? .more : .none)
            }
        }
        note(record, total, end)
        decided.add(record, .success, information: total)
        return true
    }

    @_noLocks mutating func note(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ total: Int,
        _ end: PacketEnd
    ) {
        RequestRecord.note(record, .handled)
        if framing == .packet { lastEnd = end }
        let isBuffered = record.pointee.storage != .none
        counters.readBytes &+= UInt64(total)
        if isBuffered { counters.bufferedRequests &+= 1 } else { counters.directRequests &+= 1 }
        plan.time = context?.clock.now() ?? 0
        plan.direction = .fromDevice
        plan.isBuffered = isBuffered
        plan.memory = isBuffered ? (record.pointee.storage == .systemBuffer ? .system : .request) : .ring
        if case .scatterGather = engine {
        } else {
            plan.memory = .commonBuffer
        }
        plan.engine = engine
        plan.byteCount = total
        plan.elements = (total &+ (Self.slotByteCount &- 1)) / Self.slotByteCount
        plan.pages = (total &+ 4095) &>> 12
    }

    /// Ends a request that had begun to gather bytes, with those; with the failure if it has none.
    @_noLocks mutating func finishPartly(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ status: Status,
        _ cause: FailureCause,
        end: PacketEnd = .more
    ) {
        guard record.pointee.accumulated > 0 else {
            decided.add(record, status, cause: cause)
            return
        }
        segment(record, 0, record.pointee.payload, record.pointee.accumulated)
        record.pointee.segmentCount = 1
        note(record, record.pointee.accumulated, end)
        decided.add(record, .success, information: record.pointee.accumulated)
    }

    /// Memory of the request's own to copy into: a system buffer for a small one, a receive buffer for others.
    @_noLocks private func takeMemory(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
        if record.pointee.storage != .none { return true }
        guard let context else { return false }
        if record.pointee.length <= PayloadArena.systemByteCount,
            let index = context.arena.pointee.takeSystemBuffer()
        {
            record.pointee.storage = .systemBuffer
            record.pointee.bufferIndex = index
            record.pointee.payload = context.arena.pointee.systemBuffer(index)
            return true
        }
        // The last buffers are for the receive threads: without one they could not take the next request.
        guard let index = context.arena.pointee.takeReceiveBuffer(leaving: 12) else { return false }
        record.pointee.storage = .receiveBuffer
        record.pointee.bufferIndex = index
        record.pointee.payload = context.arena.pointee.payload(index)
        return true
    }

    /// Copies `count` bytes from `head` on behind what the request has.
    @_noLocks private mutating func copyOut(_ record: UnsafeMutablePointer<RequestRecord>, _ count: Int) {
        guard let payload = record.pointee.payload, let data else { return }
        var left = count
        while left > 0 {
            let piece = nextPiece(left)
            chw_copy(payload + record.pointee.accumulated, data.base + piece.offset, piece.byteCount)
            // Spelled out: ThreadSanitizer takes `&+=` for a change of the whole record, and others look at its state.
            record.pointee.accumulated = record.pointee.accumulated &+ piece.byteCount
            left &-= piece.byteCount
        }
    }

    /// Describes `count` bytes from `head` on as segments of the ring and keeps the card off them until the reply is made.
    /// Answers the bytes described: fewer if that would take too many segments, or, with nothing changed, 0 if it is to be all
    /// or nothing.
    @_noLocks mutating func pointAt(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ count: Int,
        isWhole: Bool
    ) -> Int {
        guard let data else { return 0 }
        let before = (head, headOffset, available, isPacketOpen, counters.emptyPackets)
        let first = head
        var segments = 0
        var left = count
        var endOfLast = -1
        while left > 0 {
            // A piece that continues the one before needs no segment, which is known only when it is taken.
            let atLimit = (head, headOffset, available, isPacketOpen, counters.emptyPackets)
            let piece = nextPiece(left)
            if piece.offset == endOfLast {
                record.pointee.segments[segments &- 1].iov_len &+= piece.byteCount
            } else {
                guard segments < RequestRecord.maximumSegments else {
                    (head, headOffset, available, isPacketOpen, counters.emptyPackets) = isWhole ? before : atLimit
                    if isWhole { return 0 }
                    break
                }
                segment(record, segments, data.base + piece.offset, piece.byteCount)
                segments &+= 1
            }
            endOfLast = piece.offset &+ piece.byteCount
            left &-= piece.byteCount
        }
        record.pointee.segmentCount = segments
        // The slot the read ended in is in use too if a part of it is left.
        let end = headOffset == 0 ? head : head &+ 1
        var slot = first
        while slot != end {
            let entry = slots + place(slot)
            entry.pointee.users &+= 1
            slot &+= 1
        }
        record.pointee.driverContext = (first, end)
        return count &- left
    }

    @_noLocks private func segment(
        _ record: UnsafeMutablePointer<RequestRecord>,
        _ index: Int,
        _ base: UnsafeMutableRawPointer?,
        _ byteCount: Int
    ) {
        record.pointee.segments[index].iov_base = base
        record.pointee.segments[index].iov_len = byteCount
    }

    /// Takes up to `limit` bytes that lie together at `head`, as an offset into the ring's memory. There are bytes.
    @_noLocks private mutating func nextPiece(_ limit: Int) -> (offset: Int, byteCount: Int) {
        while slots[place(head)].length == headOffset {
            // Passing an empty packet in a stream, or the end marker behind a packet that filled its last slot.
            if slots[place(head)].end != .none {
                if !isPacketOpen { counters.emptyPackets &+= 1 }
                isPacketOpen = false
            }
            head &+= 1
            headOffset = 0
        }
        let entry = slots[place(head)]
        let count = min(limit, entry.length &- headOffset)
        let offset = entry.offset &+ headOffset
        headOffset &+= count
        available &-= count
        isPacketOpen = true
        if headOffset == entry.length {
            if entry.end != .none { isPacketOpen = false }
            head &+= 1
            headOffset = 0
        }
        return (offset, count)
    }
}
