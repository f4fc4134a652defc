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
/// ``CommonBuffer/scatterGatherList(of:)`` is used, which is arithmetic.
public final class DMAAdapter {
    private let function: any PCIFunction
    /// What the card can do.
    public let description: DeviceDescription
    private var addresses: LogicalAddressSpace
    private var buffers: [(buffer: CommonBuffer, ownsMemory: Bool)] = []

    /// The map registers one transfer of the greatest length needs: one for each page it can touch.
    public let mapRegisterCount: Int
    /// The registers themselves, once ``reserveMapRegisters(_:)`` has made them.
    public private(set) var mapRegisters: MapRegisterFile?

    /// Makes an adapter (IoGetDmaAdapter). Throws ``Status/invalidParameter`` for an address width outside 1…64, an empty
    /// maximum length or an alignment that is no power of two.
    public init(function: any PCIFunction, description: DeviceDescription) throws(StatusError) {
        guard (1...64).contains(description.addressWidth), description.maximumLength > 0,
            description.alignment > 0, description.alignment & (description.alignment - 1) == 0
        else {
            throw StatusError(.invalidParameter, "a DMA adapter cannot be made of \(description)")
        }
        self.function = function
        self.description = description
        mapRegisterCount = Page.span(of: 1, byteCount: description.maximumLength)
        let limit = description.addressWidth == 64 ? UInt64.max : (1 << UInt64(description.addressWidth)) - 1
        addresses = LogicalAddressSpace(ranges: function.logicalAddressRanges, limit: limit)
    }

    /// Takes memory and maps it for the card (AllocateCommonBuffer). At least one page is used, and bytes past `byteCount`
    /// belong to nobody. The logical address is a multiple of `alignment`.
    ///
    /// Throws ``Status/insufficientResources``; nothing is kept then. Passive level.
    public func allocateCommonBuffer(byteCount: Int, alignment: Int = Page.size) throws(StatusError) -> CommonBuffer {
        guard byteCount > 0 else { throw StatusError(.invalidParameter, "a common buffer of no bytes") }
        let memory: DMAMemory
        do {
            memory = try function.allocateMemory(byteCount: byteCount)
        } catch {
            throw StatusError(.insufficientResources, error.sentence)
        }
        do {
            return try map(memory, byteCount: byteCount, alignment: alignment, ownsMemory: true)
        } catch {
            function.freeMemory(memory)
            throw error
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

    /// The runs of a buffer that lies in one of the common buffers; nil if it does not.
    func commonBufferList(of mdl: MemoryDescriptorList) -> ScatterGatherList? {
        for entry in buffers {
            if let list = entry.buffer.scatterGatherList(of: mdl) { return list }
        }
        return nil
    }

    /// Maps memory that outlives this adapter, such as the payload arena of a mount.
    public func mapCommonBuffer(_ memory: DMAMemory, byteCount: Int) throws(StatusError) -> CommonBuffer {
        try map(memory, byteCount: byteCount, alignment: Page.size, ownsMemory: false)
    }

    private func map(
        _ memory: DMAMemory,
        byteCount: Int,
        alignment: Int,
        ownsMemory: Bool
    ) throws(StatusError) -> CommonBuffer {
        guard
            let logical = addresses.take(byteCount: memory.byteCount, alignment: UInt64(max(alignment, Page.size)))
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
        buffers.append((buffer, ownsMemory))
        return buffer
    }

    /// Unmaps a buffer and gives its memory back (FreeCommonBuffer). Throws ``Status/invalidParameter`` for one that this
    /// adapter did not make or has freed already.
    public func freeCommonBuffer(_ buffer: CommonBuffer) throws(StatusError) {
        guard let index = buffers.firstIndex(where: { $0.buffer.logicalAddress == buffer.logicalAddress }),
            buffers[index].buffer.base == buffer.base, buffers[index].buffer.byteCount == buffer.byteCount
        else {
            throw StatusError(.invalidParameter, "\(buffer.logicalAddress) is no common buffer of \(function.address)")
        }
        let entry = buffers.remove(at: index)
        // A failure here would mean that the bus lost a mapping it made; the address is then never used again.
        if (try? function.unmapDMA(at: buffer.logicalAddress, byteCount: buffer.memory.byteCount)) != nil {
            _ = addresses.give(buffer.logicalAddress)
        }
        if entry.ownsMemory { function.freeMemory(buffer.memory) }
    }

    /// Unmaps everything, the last first (PutDmaAdapter after the buffers are freed).
    public func releaseAll() {
        mapRegisters = nil
        for entry in buffers.reversed() { try? freeCommonBuffer(entry.buffer) }
    }

    /// Common buffers that exist.
    public var commonBufferCount: Int { buffers.count }
}
