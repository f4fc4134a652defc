import CHardware
public import PCIBus

/// What a card can do as a bus master (DEVICE_DESCRIPTION).
public struct DeviceDescription: Sendable, Equatable {
    /// Bits of a logical address the card can drive, 1…64.
    public var addressWidth: Int
    /// Whether one transfer may be made of several runs.
    public var scatterGather: Bool
    /// The most bytes of one transfer.
    public var maximumLength: Int
    /// What the start of a run must be a multiple of; a power of two.
    public var alignment: Int

    /// Describes a card.
    public init(addressWidth: Int, scatterGather: Bool, maximumLength: Int, alignment: Int) {
        self.addressWidth = addressWidth
        self.scatterGather = scatterGather
        self.maximumLength = maximumLength
        self.alignment = alignment
    }
}

/// Gives a card access to memory: common buffers, and scatter/gather lists of buffers in them (DMA_ADAPTER).
///
/// Everything is allocated and mapped at passive level when the device starts; on the data path only
/// ``CommonBuffer/scatterGatherList(of:)`` is used, which is arithmetic. Memory the card cannot reach goes through map
/// registers: ``allocateAdapterChannel(mapRegisters:for:control:)`` and what follows it.
///
/// The unchecked conformance is sound because common buffers are made and freed only while no transfer runs; all else is
/// guarded by locks.
public final class DMAAdapter: @unchecked Sendable {
    /// How addresses of the platform become those of the card.
    public enum Translation: Sendable {
        /// An IOMMU translates: the card reaches what is mapped for it, in one run.
        case remapped
        /// Nothing translates: the card sees physical addresses.
        case identity
    }

    let function: any PCIFunction
    /// What the card can do.
    public let description: DeviceDescription
    /// How the card sees memory that is in no common buffer.
    public let translation: Translation
    /// The highest logical address the card can drive.
    public let limit: UInt64
    private var addresses: LogicalAddressSpace
    private(set) var buffers: [Entry] = []
    let channel = AdapterChannelQueue()
    private var counts: [MemoryAllocator: MemoryStatistics] = [:]
    private var isAllocationOver = false
    private var isPut = false

    struct Entry {
        var buffer: CommonBuffer
        var ownsMemory: Bool
        var allocator: MemoryAllocator
    }

    /// The map registers of one transfer: one more than the pages of the greatest length, since a buffer need not begin on a
    /// page; less if the platform grants less.
    public let mapRegisterCount: Int
    /// The registers themselves, once ``reserveMapRegisters(_:)`` has made them.
    public private(set) var mapRegisters: MapRegisterFile?

    /// Makes an adapter (IoGetDmaAdapter). Throws ``Status/invalidParameter`` for an address width outside 1…64, an empty
    /// maximum length or an alignment that is no power of two.
    public init(
        function: any PCIFunction,
        description: DeviceDescription,
        translation: Translation = .remapped
    ) throws(StatusError) {
        try LevelRule.getDMAAdapter.check()
        guard (1...64).contains(description.addressWidth), description.maximumLength > 0,
            description.alignment > 0, description.alignment & (description.alignment - 1) == 0
        else {
            throw StatusError(.invalidParameter, "a DMA adapter cannot be made of \(description)")
        }
        self.function = function
        self.description = description
        self.translation = translation
        let wanted = Page.span(of: 0, byteCount: description.maximumLength) + 1
        mapRegisterCount = min(wanted, function.mapRegisterLimit ?? wanted)
        limit = description.addressWidth == 64 ? UInt64.max : (1 << UInt64(description.addressWidth)) - 1
        addresses = LogicalAddressSpace(ranges: function.logicalAddressRanges, limit: limit)
    }

    /// Takes memory and maps it for the card (AllocateCommonBuffer). At least one page is used, and bytes past `byteCount`
    /// belong to nobody. The logical address is a multiple of `alignment`.
    ///
    /// A shared one can be mapped by programs of the same user, where the bus can do that: see ``DMAMemory/file``.
    ///
    /// Throws ``Status/insufficientResources``; nothing is kept then. Passive level.
    public func allocateCommonBuffer(
        byteCount: Int,
        alignment: Int = Page.size,
        isShared: Bool = false
    ) throws(StatusError) -> CommonBuffer {
        try LevelRule.allocateCommonBuffer.check()
        return try allocate(.commonBuffer, byteCount: byteCount, alignment: alignment, isShared: isShared)
    }

    /// Takes memory that is contiguous for the card, lies between two logical addresses and does not cross a multiple of
    /// `boundary`, a power of two or 0 for none (MmAllocateContiguousMemorySpecifyCache). Zeroed, and on a page.
    ///
    /// Contiguous means what the card sees: behind an IOMMU the page frames need not follow each other. Errors as
    /// ``allocateCommonBuffer(byteCount:alignment:)``; ``freeCommonBuffer(_:)`` takes it back.
    public func allocateContiguousMemory(
        byteCount: Int,
        lowest: LogicalAddress = LogicalAddress(0),
        highest: LogicalAddress,
        boundary: UInt64 = 0
    ) throws(StatusError) -> CommonBuffer {
        try LevelRule.allocateContiguous.check()
        guard boundary == 0 || boundary & (boundary - 1) == 0 && boundary >= UInt64(Page.size), lowest <= highest else {
            throw StatusError(
                .invalidParameter,
                "contiguous memory between \(lowest) and \(highest) within \(boundary)"
            )
        }
        return try allocate(
            .contiguous,
            byteCount: byteCount,
            alignment: Page.size,
            within: lowest.value...highest.value,
            boundary: boundary
        )
    }

    /// Ends the time in which memory is plentiful: what is asked for from now on gets at most a page, since what is left is
    /// scattered. A driver takes its long-lived buffers when its device starts.
    func endAllocationPhase() { isAllocationOver = true }

    /// What was taken through an allocator of this adapter.
    public func statistics(_ allocator: MemoryAllocator) -> MemoryStatistics {
        counts[allocator] ?? MemoryStatistics()
    }

    private func allocate(
        _ allocator: MemoryAllocator,
        byteCount: Int,
        alignment: Int,
        within range: ClosedRange<UInt64> = 0...UInt64.max,
        boundary: UInt64 = 0,
        isShared: Bool = false
    ) throws(StatusError) -> CommonBuffer {
        guard byteCount > 0 else { throw StatusError(.invalidParameter, "a common buffer of no bytes") }
        guard !isPut else {
            throw StatusError(
                .invalidDeviceState,
                "the adapter of \(function.address) was put away",
                misuse: .adapterGone
            )
        }
        do {
            guard !isAllocationOver || byteCount <= Page.size else {
                throw StatusError(
                    .insufficientResources,
                    "\(byteCount) bytes for \(function.address) after its start: larger buffers are taken before"
                )
            }
            let memory: DMAMemory
            do throws(BusError) {
                memory =
                    try isShared
                    ? function.allocateSharedMemory(byteCount: byteCount)
                    : function.allocateMemory(byteCount: byteCount)
            } catch {
                throw StatusError(.insufficientResources, error.sentence)
            }
            do throws(StatusError) {
                let buffer = try map(
                    memory,
                    byteCount: byteCount,
                    alignment: alignment,
                    within: range,
                    boundary: boundary,
                    ownsMemory: true,
                    allocator: allocator
                )
                counts[allocator, default: MemoryStatistics()].add(byteCount, memory.byteCount)
                return buffer
            } catch {
                function.freeMemory(memory)
                throw error
            }
        } catch let error as StatusError {
            counts[allocator, default: MemoryStatistics()].failures += 1
            throw error
        } catch {
            throw StatusError(.unsuccessful, "\(error)")
        }
    }

    /// Makes `count` map registers (one for each page of the greatest transfer through them), for memory that lies in no common
    /// buffer. Throws ``Status/insufficientResources``, and ``Status/invalidDeviceState`` when there are some already.
    public func reserveMapRegisters(_ count: Int) throws(StatusError) {
        guard mapRegisters == nil else {
            throw StatusError(.invalidDeviceState, "\(function.address) has its map registers already")
        }
        mapRegisters = MapRegisterFile(buffer: try allocateCommonBuffer(byteCount: count * Page.size))
    }

    /// Maps memory that outlives this adapter, such as the payload arena of a mount.
    public func mapCommonBuffer(_ memory: DMAMemory, byteCount: Int) throws(StatusError) -> CommonBuffer {
        try map(
            memory,
            byteCount: byteCount,
            alignment: Page.size,
            within: 0...UInt64.max,
            boundary: 0,
            ownsMemory: false,
            allocator: .commonBuffer
        )
    }

    private func map(
        _ memory: DMAMemory,
        byteCount: Int,
        alignment: Int,
        within range: ClosedRange<UInt64>,
        boundary: UInt64,
        ownsMemory: Bool,
        allocator: MemoryAllocator
    ) throws(StatusError) -> CommonBuffer {
        guard
            let logical = addresses.take(
                byteCount: memory.byteCount,
                alignment: UInt64(max(alignment, Page.size)),
                boundary: boundary,
                within: range
            )
        else {
            throw StatusError(
                .insufficientResources,
                "no \(memory.byteCount) bytes of logical addresses are free below bit \(description.addressWidth) of \(function.address)"
            )
        }
        do {
            try function.mapDMA(memory.base, byteCount: memory.byteCount, at: logical, access: [.read, .write])
        } catch {
            _ = addresses.give(logical)
            throw StatusError(.insufficientResources, error.sentence)
        }
        let buffer = CommonBuffer(memory: memory, logicalAddress: logical, byteCount: byteCount)
        buffers.append(Entry(buffer: buffer, ownsMemory: ownsMemory, allocator: allocator))
        return buffer
    }

    /// Unmaps a buffer and gives its memory back (FreeCommonBuffer). Throws ``Status/invalidParameter`` for one that this
    /// adapter did not make or has freed already.
    public func freeCommonBuffer(_ buffer: CommonBuffer) throws(StatusError) {
        try LevelRule.freeCommonBuffer.check()
        guard let index = buffers.firstIndex(where: { $0.buffer.logicalAddress == buffer.logicalAddress }),
            buffers[index].buffer.base == buffer.base, buffers[index].buffer.byteCount == buffer.byteCount
        else {
            throw StatusError(
                .invalidParameter,
                "\(buffer.logicalAddress) is no common buffer of \(function.address)",
                misuse: .commonBufferFreedTwice
            )
        }
        release(buffers.remove(at: index))
    }

    /// Unmaps a buffer that is no longer among ``buffers``, and gives its memory back. Any level: PutDmaAdapter may be called at
    /// dispatch level, and the registers' own buffer goes with the adapter.
    private func release(_ entry: Entry) {
        let buffer = entry.buffer
        // A failure here would mean that the bus lost a mapping it made; the address is then never used again.
        if (try? function.unmapDMA(at: buffer.logicalAddress, byteCount: buffer.memory.byteCount)) != nil {
            _ = addresses.give(buffer.logicalAddress)
        }
        guard entry.ownsMemory else { return }
        counts[entry.allocator, default: MemoryStatistics()].remove(buffer.byteCount, entry.buffer.memory.byteCount)
        function.freeMemory(buffer.memory)
    }

    /// Ends the adapter (PutDmaAdapter). ``Status/invalidDeviceState`` while a common buffer, the channel, map registers or a
    /// scatter/gather list is out.
    public func put() throws(StatusError) {
        try LevelRule.putDMAAdapter.check()
        guard !isPut else {
            throw StatusError(
                .invalidDeviceState,
                "the adapter of \(function.address) is put away twice",
                misuse: .adapterPutTwice
            )
        }
        let held =
            mapRegisters.map { registers in
                registers.heldCount > 0 ? "map registers" : nil
            } ?? nil
        let outstanding =
            channel.isBusy
            ? "the channel"
            : channel.listCount > 0 ? "a scatter/gather list" : held ?? (isOnlyRegisters ? nil : "a common buffer")
        if let outstanding {
            let misuse: Misuse =
                switch outstanding {
                case "the channel": .adapterPutWithChannel
                case "map registers": .adapterPutWithRegisters
                case "a common buffer": .adapterPutWithCommonBuffers
                default: .adapterPutWithLists
                }
            throw StatusError(
                .invalidDeviceState,
                "the adapter of \(function.address) is put away while \(outstanding) is out",
                misuse: misuse
            )
        }
        releaseAll()
        isPut = true
    }

    /// Whether no buffer is left but the one behind the map registers.
    private var isOnlyRegisters: Bool { buffers.count == (mapRegisters == nil ? 0 : 1) }

    /// Unmaps everything, the last first.
    public func releaseAll() {
        mapRegisters = nil
        while let entry = buffers.popLast() { release(entry) }
    }

    /// Common buffers that exist.
    public var commonBufferCount: Int { buffers.count }
}
