public import CHardware

/// How many bytes one bus access moves.
public enum AccessWidth: UInt32, CaseIterable, Sendable {
    /// 8 bits.
    case byte = 1
    /// 16 bits.
    case word = 2
    /// 32 bits.
    case long = 4
    /// 64 bits.
    case quad = 8

    /// Bytes moved.
    @inlinable public var byteCount: Int { Int(rawValue) }

    /// The largest value that fits, which is also what a read of this width returns when nobody answers.
    @inlinable public var allOnes: UInt64 { self == .quad ? .max : (1 << (UInt64(rawValue) * 8)) &- 1 }
}

/// A mapped BAR (MmMapIoSpace): each access is one bus access of exactly the width asked for.
///
/// A window is a trivial value and may be copied to any thread; it is valid from ``PCIFunction/map(bar:)`` until
/// ``PCIFunction/unmap(bar:)``. Callers check bounds and natural alignment first: the window does not.
/// The unchecked conformance is sound because the context is the bus's own state, which the bus keeps thread-safe.
public struct RegisterWindow: @unchecked Sendable {
    @usableFromInline var raw: chw_window

    /// Wraps a mapping, or a pair of functions that perform the access.
    public init(_ raw: chw_window) { self.raw = raw }

    /// A window of nothing, for before a BAR is mapped.
    public static var none: RegisterWindow { RegisterWindow(chw_window()) }

    /// Whether an access is a load or a store of this processor, rather than a call into the bus.
    public var isMapped: Bool { raw.base != nil }

    /// Bytes in the window.
    @inlinable public var byteCount: UInt64 { raw.byte_count }

    /// One read. Any level; does not block.
    @inlinable @_noLocks public func load(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
        withUnsafePointer(to: raw) { chw_window_load($0, offset, width.rawValue) }
    }

    /// One write, which the bus may post. Any level; does not block.
    @inlinable @_noLocks public func store(_ value: UInt64, _ offset: UInt64, _ width: AccessWidth) {
        withUnsafePointer(to: raw) { chw_window_store($0, offset, width.rawValue, value) }
    }

    /// One 32-bit read (READ_REGISTER_ULONG).
    @inlinable @_noLocks public func load32(_ offset: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: load(offset, .long))
    }

    /// One 32-bit write (WRITE_REGISTER_ULONG).
    @inlinable @_noLocks public func store32(_ value: UInt32, _ offset: UInt64) { store(UInt64(value), offset, .long) }
}
