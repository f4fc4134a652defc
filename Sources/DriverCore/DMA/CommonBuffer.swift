public import PCIBus

/// Memory that the processor and the card reach at the same time, mapped for the life of the buffer (AllocateCommonBuffer).
///
/// A trivial handle; the adapter that made it owns the memory and takes it back.
public struct CommonBuffer: Sendable {
    /// The bytes as this process sees them.
    public let memory: DMAMemory
    /// The same bytes as the card sees them, contiguous.
    public let logicalAddress: LogicalAddress
    /// Bytes asked for; the rest of the last page belongs to nobody.
    public let byteCount: Int

    /// First byte.
    public var base: UnsafeMutableRawPointer { @_noLocks get { memory.base } }

    /// The logical address of a byte, which the caller knows to lie in the buffer.
    @_noLocks public func logical(_ address: UnsafeRawPointer) -> LogicalAddress {
        LogicalAddress(logicalAddress.value &+ UInt64(UInt(bitPattern: address) &- UInt(bitPattern: memory.base)))
    }

    /// Whether a range lies in the buffer.
    @_noLocks public func contains(_ address: VirtualAddress, byteCount: Int) -> Bool {
        let start = UInt(bitPattern: memory.base)
        return address.value >= start && byteCount <= memory.byteCount
            && address.value &- start <= UInt(memory.byteCount &- byteCount)
    }

    /// The runs of a buffer that lies in this one; nil if it does not (GetScatterGatherList). Memory that is mapped
    /// already needs no map register.
    @_noLocks public func scatterGatherList(of mdl: MemoryDescriptorList) -> ScatterGatherList? {
        guard mdl.byteCount > 0, contains(mdl.virtualAddress, byteCount: mdl.byteCount),
            let address = mdl.virtualAddress.pointer
        else { return nil }
        return ScatterGatherList(start: logical(address), byteCount: mdl.byteCount)
    }

    /// Bytes of the last page that nobody can use.
    public var slackBytes: Int { memory.byteCount - byteCount }
}

/// One run of memory that is contiguous for the card (SCATTER_GATHER_ELEMENT).
public struct ScatterGatherElement: Equatable, Sendable {
    /// Where the run begins, as the card sees it.
    public var address: LogicalAddress
    /// Bytes in the run.
    public var byteCount: Int

    /// Describes a run.
    @_noLocks public init(address: LogicalAddress, byteCount: Int) {
        self.address = address
        self.byteCount = byteCount
    }
}

/// The runs of a buffer, one after the other (SCATTER_GATHER_LIST), none longer than the card can take in one descriptor.
///
/// The list is produced while it is written into the descriptor table, so it needs no memory of its own.
public struct ScatterGatherList: Sendable {
    private var next: LogicalAddress
    /// Bytes not yet handed out.
    public private(set) var remaining: Int

    @_noLocks init(start: LogicalAddress, byteCount: Int) {
        next = start
        remaining = byteCount
    }

    /// The next run of at most `maximum` bytes; nil at the end.
    @_noLocks public mutating func element(maximum: Int) -> ScatterGatherElement? {
        guard remaining > 0 else { return nil }
        let count = remaining < maximum ? remaining : maximum
        let element = ScatterGatherElement(address: next, byteCount: count)
        next = LogicalAddress(next.value &+ UInt64(count))
        remaining &-= count
        return element
    }
}
