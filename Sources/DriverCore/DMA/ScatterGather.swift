import CHardware
import PCIBus

/// A buffer as the card may reach it, until ``DMAAdapter/putScatterGatherList(_:transferred:)`` (SCATTER_GATHER_LIST).
public final class MappedScatterGatherList: @unchecked Sendable {  // `isPut` is guarded by the adapter
    /// The runs, in order.
    public let elements: [ScatterGatherElement]
    /// Bytes in all.
    public let byteCount: Int
    /// Which way they go.
    public let direction: TransferPlan.Direction
    /// Map registers in use.
    public let mapRegisterCount: Int
    /// Bytes that had to be copied, or will have to be.
    public let bouncedBytes: Int
    fileprivate let base: MapRegisterBase?
    fileprivate let pieces: [(mdl: MDL, address: VirtualAddress, byteCount: Int)]
    fileprivate let registers: [MapRegister]
    fileprivate var isPut = false

    fileprivate init(
        elements: [ScatterGatherElement],
        direction: TransferPlan.Direction,
        base: MapRegisterBase?,
        pieces: [(mdl: MDL, address: VirtualAddress, byteCount: Int)],
        bouncedBytes: Int,
        registers: [MapRegister]
    ) {
        self.elements = elements
        self.direction = direction
        self.base = base
        self.pieces = pieces
        self.bouncedBytes = bouncedBytes
        self.registers = registers
        mapRegisterCount = base?.count ?? 0
        byteCount = elements.reduce(0) { $0 + $1.byteCount }
    }

    /// What each map register in use maps.
    public var mapRegisters: [MapRegister] { registers }

    /// Writes the list into a table in a common buffer, `stride` bytes an entry, as the card's engine reads it. `fill` gets
    /// each element, its place and whether it is the last. ``Status/bufferTooSmall`` when the table is too short.
    public func write(
        into table: CommonBuffer,
        stride: Int,
        _ fill: (ScatterGatherElement, UnsafeMutableRawPointer, Bool) -> Void
    ) throws(StatusError) {
        guard stride > 0, elements.count <= table.byteCount / stride else {
            throw StatusError(
                .bufferTooSmall,
                "\(elements.count) elements do not fit into \(table.byteCount) bytes",
                misuse: .bufferTooSmall
            )
        }
        for (index, element) in elements.enumerated() {
            fill(element, table.base + index * stride, index == elements.count - 1)
        }
        chw_dma_write_barrier()
    }
}

extension DMAAdapter {
    /// A range of a chain, cut into the parts that lie in each of its lists; nil if it does not lie in the chain.
    func parts(_ mdl: MDL, from offset: Int, byteCount: Int) -> [(mdl: MDL, address: VirtualAddress, byteCount: Int)]? {
        guard offset >= 0, byteCount > 0 else { return nil }
        var result: [(mdl: MDL, address: VirtualAddress, byteCount: Int)] = []
        var skip = offset
        var left = byteCount
        for part in mdl.chain {
            if left == 0 { break }
            guard skip < part.byteCount else {
                skip -= part.byteCount
                continue
            }
            let count = min(left, part.byteCount - skip)
            result.append((part, part.virtualAddress.advanced(by: skip), count))
            skip = 0
            left -= count
        }
        return left == 0 ? result : nil
    }

    /// The map registers a range of a chain needs now: none for what the card reaches (CalculateScatterGatherList). Any level.
    /// A card without scatter/gather gets the whole as one run, or through registers.
    public func mapRegistersNeeded(_ mdl: MDL, from offset: Int, byteCount: Int) -> Int {
        guard let parts = parts(mdl, from: offset, byteCount: byteCount) else { return 0 }
        if !description.scatterGather {
            if parts.count == 1, let run = reach(parts[0].mdl, parts[0].address, byteCount), run.byteCount == byteCount
            {
                return 0
            }
            return Page.span(of: parts[0].address.value, byteCount: byteCount)
        }
        var count = 0
        for part in parts {
            var done = 0
            while done < part.byteCount {
                let address = part.address.advanced(by: done)
                if let run = reach(part.mdl, address, part.byteCount - done) {
                    done += run.byteCount
                } else {
                    let piece = min(Page.size - Int(address.value % UInt(Page.size)), part.byteCount - done)
                    count += 1
                    done += piece
                }
            }
        }
        return count
    }

    /// Makes a range of a buffer, or of a chain of buffers, reachable and hands `callback` the runs (GetScatterGatherList):
    /// the channel, as many map registers as it takes, and a mapping of every piece. The callback runs at dispatch level,
    /// at once if the registers are there, and must not wait. Any number of requests may wait.
    ///
    /// - Returns: ``Status/success`` whether it ran or waits. ``Status/invalidParameter`` for no bytes or such that do not lie
    ///   in the chain, ``Status/insufficientResources`` when more registers are needed than there are,
    ///   ``Status/invalidDeviceState`` for pages that are not resident and at another level than dispatch; `callback` is
    ///   never called then.
    public func getScatterGatherList(
        _ mdl: MDL,
        from offset: Int = 0,
        byteCount: Int,
        _ direction: TransferPlan.Direction,
        _ callback: @escaping @Sendable (MappedScatterGatherList) -> Void
    ) -> Status {
        do throws(StatusError) { try LevelRule.getScatterGatherList.check() } catch { return error.status }
        guard let parts = parts(mdl, from: offset, byteCount: byteCount),
            parts.allSatisfy({ $0.address.value % UInt(description.alignment) == 0 })
        else {
            let isInside = self.parts(mdl, from: offset, byteCount: byteCount) != nil
            Verifier.note(
                byteCount == 0 ? .zeroLength : isInside ? .notAligned : .rangePastMDL,
                "\(byteCount) bytes at \(offset) of an MDL cannot be a scatter/gather list"
            )
            return .invalidParameter
        }
        guard parts.allSatisfy(\.mdl.isResident) else {
            Verifier.note(.notLocked, "a scatter/gather list of pages that are not locked")
            return .invalidDeviceState
        }
        let needed = mapRegistersNeeded(mdl, from: offset, byteCount: byteCount)
        guard needed > 0 else {
            channel.lock.locked { channel.lists += 1 }
            callback(list(Parts(parts), direction, nil))
            return .success
        }
        guard let registers = mapRegisters, needed <= min(registers.count, mapRegisterCount) else {
            Verifier.note(.tooManyRegistersForList, "a scatter/gather list needs \(needed) map registers")
            return .insufficientResources
        }
        channel.lock.locked { channel.lists += 1 }
        let held = Parts(parts)
        return registers.allocate(needed) { [self] base in
            ExecutionLevel.dispatch.run { callback(list(held, direction, base)) }
        }
    }

    /// The parts of a chain on their way to the thread that frees registers, which is then the one that uses the chain.
    private struct Parts: @unchecked Sendable {
        let parts: [(mdl: MDL, address: VirtualAddress, byteCount: Int)]
        init(_ parts: [(mdl: MDL, address: VirtualAddress, byteCount: Int)]) { self.parts = parts }
    }

    /// The loop of MapTransfer. What lies in registers side by side is one run.
    private func list(
        _ held: Parts,
        _ direction: TransferPlan.Direction,
        _ base: MapRegisterBase?
    ) -> MappedScatterGatherList {
        var elements: [ScatterGatherElement] = []
        func add(_ address: LogicalAddress, _ byteCount: Int) {
            if let last = elements.last, last.address.advanced(by: UInt64(last.byteCount)) == address {
                elements[elements.count - 1].byteCount += byteCount
            } else {
                elements.append(ScatterGatherElement(address: address, byteCount: byteCount))
            }
        }
        var mapped: [MapRegister] = []
        var bounced = 0
        var used = 0
        // Where the next bounced byte goes: a card without scatter/gather sees one run even of a chain.
        var place = held.parts[0].address.value % UInt(Page.size)
        for part in held.parts {
            var done = 0
            while done < part.byteCount {
                let address = part.address.advanced(by: done)
                let left = part.byteCount - done
                if let run = reach(part.mdl, address, left), base == nil || description.scatterGather {
                    add(run.address, run.byteCount)
                    done += run.byteCount
                    continue
                }
                guard let base, let registers = mapRegisters else { break }
                if description.scatterGather { place = UInt(used * Page.size) + address.value % UInt(Page.size) }
                let inPage = Page.size - Int(place % UInt(Page.size))
                let count = min(
                    left,
                    min(inPage, description.scatterGather ? Page.size - Int(address.value % UInt(Page.size)) : inPage)
                )
                let bounce = registers.memory(base) + Int(place)
                if case .toDevice = direction, let source = address.pointer { chw_copy(bounce, source, count) }
                let logical = registers.logical(base).advanced(by: UInt64(place))
                add(logical, count)
                mapped.append(MapRegister(logicalAddress: logical, byteCount: count))
                channel.lock.locked {
                    channel.mappings[base.serial, default: []].append(
                        .init(
                            address: address,
                            byteCount: count,
                            direction: direction,
                            bounce: bounce,
                            registers: Int(place) / Page.size..<Int(place) / Page.size + 1
                        )
                    )
                }
                bounced += count
                done += count
                place += UInt(count)
                used += 1
            }
        }
        chw_dma_write_barrier()
        return MappedScatterGatherList(
            elements: elements,
            direction: direction,
            base: base,
            pieces: held.parts,
            bouncedBytes: bounced,
            registers: mapped
        )
    }

    /// Ends a transfer (PutScatterGatherList): the first `transferred` bytes the card has written, all by default, are in the
    /// buffer after, and the registers go to who waits. ``Status/invalidParameter`` the second time.
    public func putScatterGatherList(
        _ list: MappedScatterGatherList,
        transferred: Int? = nil
    ) throws(StatusError) {
        try LevelRule.putScatterGatherList.check()
        let flushed: [AdapterChannelQueue.Mapping] = try channel.lock.locked { () throws(StatusError) in
            guard !list.isPut else {
                throw StatusError(
                    .invalidParameter,
                    "this scatter/gather list was put back already",
                    misuse: .listFreedTwice
                )
            }
            guard list.base.map({ mapRegisters?.isHeld($0) == true }) ?? true else {
                throw StatusError(
                    .invalidParameter,
                    "this scatter/gather list is another adapter's",
                    misuse: .wrongHandle
                )
            }
            list.isPut = true
            channel.lists -= 1
            guard let base = list.base else { return [] }
            return channel.mappings.removeValue(forKey: base.serial) ?? []
        }
        guard let base = list.base else { return }
        chw_dma_read_barrier()
        copyBack(flushed, list, max(0, min(transferred ?? list.byteCount, list.byteCount)))
        try mapRegisters?.free(base)
    }

    private func copyBack(_ mappings: [AdapterChannelQueue.Mapping], _ list: MappedScatterGatherList, _ limit: Int) {
        guard case .fromDevice = list.direction else { return }
        var start = 0
        for part in list.pieces {
            for mapping in mappings
            where mapping.address >= part.address
                && mapping.address.value < part.address.value + UInt(part.byteCount)
            {
                let from = start + Int(mapping.address.value - part.address.value)
                guard from < limit, let bounce = mapping.bounce, let target = mapping.address.pointer else { continue }
                chw_copy(target, bounce, min(mapping.byteCount, limit - from))
            }
            start += part.byteCount
        }
    }
}
