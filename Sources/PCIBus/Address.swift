/// An address as this process sees memory.
///
/// The three address spaces of a DMA transfer are three types that do not convert into each other: a number that is right
/// in one of them is wrong in the others.
public struct VirtualAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The address as a number.
    public var value: UInt

    /// Wraps a number.
    @inlinable public init(_ value: UInt) { self.value = value }

    /// The address a pointer holds.
    @inlinable public init(_ pointer: UnsafeRawPointer) { value = UInt(bitPattern: pointer) }

    /// The pointer to this address; nil for address 0.
    @inlinable public var pointer: UnsafeMutableRawPointer? { UnsafeMutableRawPointer(bitPattern: value) }

    /// The address `bytes` further on.
    @inlinable public func advanced(by bytes: Int) -> VirtualAddress {
        VirtualAddress(value &+ UInt(bitPattern: bytes))
    }

    /// Compares as numbers.
    @inlinable public static func < (left: VirtualAddress, right: VirtualAddress) -> Bool { left.value < right.value }

    /// `va 0x…`.
    public var description: String { "va 0x" + String(value, radix: 16) }
}

/// An address as the memory controller sees it, and as BARs are placed.
public struct PhysicalAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The address as a number.
    public var value: UInt64

    /// Wraps a number.
    @inlinable public init(_ value: UInt64) { self.value = value }

    /// The address `bytes` further on.
    @inlinable public func advanced(by bytes: UInt64) -> PhysicalAddress { PhysicalAddress(value &+ bytes) }

    /// The page frame this address lies in.
    @inlinable public var frame: PageFrameNumber { PageFrameNumber(value >> 12) }

    /// Compares as numbers.
    @inlinable public static func < (left: PhysicalAddress, right: PhysicalAddress) -> Bool { left.value < right.value }

    /// `pa 0x…`.
    public var description: String { "pa 0x" + String(value, radix: 16) }
}

/// An address as the card puts it on the bus: what an IOMMU translates (an IOVA), what a descriptor holds.
public struct LogicalAddress: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The address as a number.
    public var value: UInt64

    /// Wraps a number.
    @inlinable public init(_ value: UInt64) { self.value = value }

    /// The address `bytes` further on.
    @inlinable public func advanced(by bytes: UInt64) -> LogicalAddress { LogicalAddress(value &+ bytes) }

    /// Compares as numbers.
    @inlinable public static func < (left: LogicalAddress, right: LogicalAddress) -> Bool { left.value < right.value }

    /// `la 0x…`.
    public var description: String { "la 0x" + String(value, radix: 16) }
}

/// The number of a page of physical memory: its address divided by ``Page/size``.
public struct PageFrameNumber: Hashable, Comparable, Sendable {
    /// The frame as a number.
    public var value: UInt64

    /// Wraps a number.
    @inlinable public init(_ value: UInt64) { self.value = value }

    /// The first address of the frame.
    @inlinable public var address: PhysicalAddress { PhysicalAddress(value << 12) }

    /// Compares as numbers.
    @inlinable public static func < (left: PageFrameNumber, right: PageFrameNumber) -> Bool { left.value < right.value }
}

/// The page arithmetic of a DMA transfer (PAGE_SIZE, ADDRESS_AND_SIZE_TO_SPAN_PAGES).
public enum Page {
    /// Bytes in a page.
    public static let size = 4096

    /// Pages that `byteCount` bytes touch when they begin at `address`; 0 for no bytes.
    @inlinable public static func span(of address: UInt, byteCount: Int) -> Int {
        byteCount <= 0 ? 0 : (Int(address & 0xfff) &+ byteCount &+ 0xfff) >> 12
    }

    /// `byteCount` rounded up to whole pages.
    @inlinable public static func roundedUp(_ byteCount: Int) -> Int { (byteCount &+ 0xfff) & ~0xfff }
}
