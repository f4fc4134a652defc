import CHardware
public import PCIBus

// How memory becomes reachable for the card, piece by piece.

extension DMAAdapter {
    /// How the card sees the memory at `address` now: where, and how many of `byteCount` bytes in one run. nil if it cannot
    /// reach it. A run ends at a 4 GiB line, which engines with 32-bit counters do not cross.
    func reach(_ mdl: MDL, _ address: VirtualAddress, _ byteCount: Int) -> (address: LogicalAddress, byteCount: Int)? {
        for entry in buffers {
            let buffer = entry.buffer
            guard let pointer = address.pointer, buffer.contains(address, byteCount: 1) else { continue }
            let start = buffer.logical(pointer)
            let left = buffer.memory.byteCount - Int(start.value - buffer.logicalAddress.value)
            return (start, Self.clipped(start, min(byteCount, left)))
        }
        guard translation == .identity, let frames = mdl.frames else { return nil }
        let first = Int(address.value / UInt(Page.size) - mdl.virtualAddress.value / UInt(Page.size))
        let offset = Int(address.value % UInt(Page.size))
        // The last byte of a page counts, not the byte behind it: a buffer may end at the limit.
        func isReachable(_ frame: PageFrameNumber) -> Bool { frame.address.value + UInt64(Page.size - 1) <= limit }
        guard isReachable(frames[first]) else { return nil }
        var count = Page.size - offset
        var index = first + 1
        while count < byteCount, index < frames.count, frames[index].value == frames[index - 1].value + 1,
            isReachable(frames[index])
        {
            count += Page.size
            index += 1
        }
        let start = frames[first].address.advanced(by: UInt64(offset))
        return (LogicalAddress(start.value), Self.clipped(LogicalAddress(start.value), min(byteCount, count)))
    }

    private static func clipped(_ start: LogicalAddress, _ byteCount: Int) -> Int {
        Int(min(UInt64(byteCount), 1 << 32 - start.value & (1 << 32 - 1)))
    }

    /// Bytes from `address` on that the card cannot reach, at most `byteCount`.
    private func unreachable(_ mdl: MDL, _ address: VirtualAddress, _ byteCount: Int) -> Int {
        var count = 0
        while count < byteCount, reach(mdl, address.advanced(by: count), 1) == nil {
            count += Page.size - Int(address.advanced(by: count).value % UInt(Page.size))
        }
        return min(count, byteCount)
    }

    /// Makes the next piece of a buffer reachable (MapTransfer): bytes for the card are copied into map registers now where
    /// it cannot reach them.
    ///
    /// - Parameters:
    ///   - base: The registers; nil where none were asked for.
    ///   - address: Where the piece begins: an index into the list, which is moved on by the length of the call before.
    ///   - length: The bytes wanted; on return those mapped. For a card with scatter/gather that is one run; for another one
    ///     it is what was asked for.
    /// - Returns: Where the card finds the piece, its offset in the page kept.
    /// - Throws: ``Status/invalidParameter`` for no bytes, a place outside the list or one that is not aligned,
    ///   ``Status/invalidDeviceState`` for pages that are not resident or bytes that are mapped already,
    ///   ``Status/insufficientResources`` when the registers do not suffice. Nothing is mapped then.
    public func mapTransfer(
        _ mdl: MDL,
        base: MapRegisterBase?,
        at address: VirtualAddress,
        length: inout Int,
        direction: TransferPlan.Direction
    ) throws(StatusError) -> LogicalAddress {
        try LevelRule.mapTransfer.check()
        guard length > 0 else { throw StatusError(.invalidParameter, "a transfer of no bytes", misuse: .zeroLength) }
        guard mdl.contains(address, byteCount: length) else {
            throw StatusError(
                .invalidParameter,
                "\(length) bytes at \(address) do not lie in the MDL",
                misuse: mdl.contains(address, byteCount: 1) ? .rangePastMDL : .addressNotInMDL
            )
        }
        guard mdl.isResident else {
            throw StatusError(.invalidDeviceState, "the pages of the MDL are not locked", misuse: .notLocked)
        }
        guard address.value % UInt(description.alignment) == 0 else {
            throw StatusError(
                .invalidParameter,
                "\(address) is no multiple of \(description.alignment)",
                misuse: .notAligned
            )
        }
        if let base, mapRegisters?.isHeld(base) != true {
            throw StatusError(.invalidParameter, "map registers \(base.first)… are not out")
        }
        let wanted = length
        let key = base?.serial ?? 0
        try requireUnmapped(key, address, wanted)
        let run = reach(mdl, address, wanted)
        if let run, description.scatterGather || run.byteCount == wanted {
            note(key, .init(address: address, byteCount: run.byteCount, direction: direction, registers: 0..<0))
            length = run.byteCount
            return run.address
        }
        guard let base, let registers = mapRegisters else {
            throw StatusError(
                .insufficientResources,
                "\(address) is out of the card's reach, and there is no map register"
            )
        }
        let offset = Int(address.value % UInt(Page.size))
        let used = channel.lock.locked { channel.mappings[key]?.map(\.registers.upperBound).max() ?? 0 }
        let room = (base.count - used) * Page.size - offset
        let count = description.scatterGather ? min(unreachable(mdl, address, wanted), max(room, 0)) : wanted
        guard count > 0, count <= room else {
            throw StatusError(
                .insufficientResources,
                "\(wanted) bytes at \(address) need more than the \(base.count - used) map registers left",
                misuse: .outOfRegisters
            )
        }
        let span = Page.span(of: UInt(offset), byteCount: count)
        let bounce = registers.memory(base) + used * Page.size + offset
        if Verifier.isChecking { BounceGuard.lay(registers.memory(base) + used * Page.size, span, offset, count) }
        note(
            key,
            .init(
                address: address,
                byteCount: count,
                direction: direction,
                bounce: bounce,
                registers: used..<used + span
            )
        )
        if case .toDevice = direction, let source = address.pointer {
            chw_copy(bounce, source, count)
            chw_dma_write_barrier()
        }
        length = count
        return registers.logical(base).advanced(by: UInt64(used * Page.size + offset))
    }

    private func requireUnmapped(_ key: UInt64, _ address: VirtualAddress, _ byteCount: Int) throws(StatusError) {
        let end = address.value + UInt(byteCount)
        let isMapped = channel.lock.locked {
            (channel.mappings[key] ?? []).contains { other in
                other.address.value < end && address.value < other.address.value + UInt(other.byteCount)
            }
        }
        if isMapped {
            throw StatusError(
                .invalidDeviceState,
                "\(address) is mapped already, and was not flushed",
                misuse: .alreadyMapped
            )
        }
    }

    private func note(_ key: UInt64, _ mapping: AdapterChannelQueue.Mapping) {
        channel.lock.locked { channel.mappings[key, default: []].append(mapping) }
    }

    /// Ends what ``mapTransfer(_:base:at:length:direction:)`` began (FlushAdapterBuffers): what the card wrote into map
    /// registers is copied into the buffer, which does not have it before. A transfer that ended early says in `transferred`
    /// how many of the bytes moved.
    ///
    /// ``Status/invalidParameter`` for no bytes, and for a range in which nothing is mapped, as the second time.
    public func flushAdapterBuffers(
        _ mdl: MDL,
        base: MapRegisterBase?,
        at address: VirtualAddress,
        length: Int,
        transferred: Int? = nil
    ) throws(StatusError) {
        try LevelRule.flushAdapterBuffers.check()
        guard length > 0 else { throw StatusError(.invalidParameter, "a flush of no bytes", misuse: .zeroLength) }
        let key = base?.serial ?? 0
        let end = address.value &+ UInt(length)
        let flushed: [AdapterChannelQueue.Mapping] = channel.lock.locked {
            let all = channel.mappings[key] ?? []
            func isInside(_ mapping: AdapterChannelQueue.Mapping) -> Bool {
                mapping.address >= address && mapping.address.value + UInt(mapping.byteCount) <= end
            }
            channel.mappings[key] = all.filter { !isInside($0) }
            return all.filter(isInside)
        }
        guard !flushed.isEmpty else {
            let isPastEnd = base.map { Page.span(of: address.value, byteCount: length) > $0.count } ?? false
            throw StatusError(
                .invalidParameter,
                "\(length) bytes at \(address) are flushed but not mapped",
                misuse: isPastEnd
                    ? .flushPastRegisters : base == nil ? .flushOfUnmappedBuffer : .flushOfUnmappedRegisters
            )
        }
        chw_dma_read_barrier()
        if Verifier.isChecking, let base, let registers = mapRegisters {
            for mapping in flushed where mapping.bounce != nil {
                BounceGuard.check(
                    registers.memory(base) + mapping.registers.lowerBound * Page.size,
                    mapping.registers.count,
                    Int(mapping.address.value % UInt(Page.size)),
                    mapping.byteCount
                )
            }
        }
        let limit = address.value &+ UInt(max(0, min(transferred ?? length, length)))
        for mapping in flushed {
            guard case .fromDevice = mapping.direction, let bounce = mapping.bounce,
                let target = mapping.address.pointer,
                mapping.address.value < limit
            else { continue }
            chw_copy(target, bounce, min(mapping.byteCount, Int(limit - mapping.address.value)))
        }
    }
}
