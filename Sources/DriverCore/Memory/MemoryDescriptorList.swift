public import PCIBus

/// Describes a buffer that a device may touch: a virtual range and the page frames it lies on (MDL).
///
/// A trivial value made on the data path from memory that is resident for the life of the card
/// (MmBuildMdlForNonPagedPool), so it owns nothing and is never freed.
public struct MemoryDescriptorList: Sendable {
    /// The first byte (MmGetMdlVirtualAddress).
    public let virtualAddress: VirtualAddress
    /// Bytes described (MmGetMdlByteCount).
    public let byteCount: Int

    /// Describes `byteCount` bytes of resident memory.
    @_noLocks public init(virtualAddress: VirtualAddress, byteCount: Int) {
        self.virtualAddress = virtualAddress
        self.byteCount = byteCount
    }

    /// Bytes before the first one in its page (MmGetMdlByteOffset).
    public var byteOffset: Int { @_noLocks get { Int(virtualAddress.value & 0xfff) } }

    /// Pages the buffer touches (ADDRESS_AND_SIZE_TO_SPAN_PAGES).
    public var pageCount: Int { @_noLocks get { (byteOffset &+ byteCount &+ 0xfff) &>> 12 } }
}
