import CHardware
import PCIBus

/// All payload memory of a card: one common buffer, cut into receive buffers and system buffers.
///
/// A *receive buffer* is what a FUSE request is received into: a message begins ``headerByteCount`` bytes before the payload
/// area, so that the data of a write lies at the start of a page of DMA memory. A *system buffer* is the copy of buffered
/// I/O. Buffers are handed out last-in first-out, because the one used last is still in the processor's cache.
public struct PayloadArena: ~Copyable {
    /// Bytes of a FUSE write request before its data: fuse_in_header and fuse_write_in.
    public static var headerByteCount: Int { @_noLocks get { 80 } }
    /// The most payload one request carries.
    public static var payloadByteCount: Int { @_noLocks get { 1 << 20 } }
    /// Bytes of one system buffer.
    public static var systemByteCount: Int { @_noLocks get { 16 << 10 } }
    /// A page in front for the header, the payload, and a page behind, since libfuse reads up to a page more.
    static var receiveStride: Int { @_noLocks get { (1 << 20) + 2 * 4096 } }

    /// First byte of the arena.
    public let base: UnsafeMutableRawPointer
    /// Bytes a given number of buffers takes.
    public static func byteCount(receiveBuffers: Int, systemBuffers: Int) -> Int {
        receiveBuffers * receiveStride + systemBuffers * systemByteCount
    }

    private let receive: IndexStack
    private let system: IndexStack
    private let systemBase: UnsafeMutableRawPointer

    /// Cuts memory of ``byteCount(receiveBuffers:systemBuffers:)`` bytes.
    public init(base: UnsafeMutableRawPointer, receiveBuffers: Int, systemBuffers: Int) {
        self.base = base
        receive = IndexStack(count: receiveBuffers)
        system = IndexStack(count: systemBuffers)
        systemBase = base + receiveBuffers * Self.receiveStride
    }

    /// Index of a free receive buffer; nil when only `reserve` are left. Does not block.
    @_noLocks public func takeReceiveBuffer(leaving reserve: Int = 0) -> UInt32? {
        receive.pop(leaving: reserve)
    }

    /// Index of a free system buffer, or nil. Does not block.
    @_noLocks public func takeSystemBuffer() -> UInt32? { system.pop(leaving: 0) }

    /// Gives a buffer back.
    @_noLocks public func give(_ storage: PayloadStorage, _ index: UInt32) {
        switch storage {
        case .none: break
        case .receiveBuffer: receive.push(index)
        case .systemBuffer: system.push(index)
        }
    }

    /// Where a FUSE message is received.
    @_noLocks public func message(_ index: UInt32) -> UnsafeMutableRawPointer {
        payload(index) - Self.headerByteCount
    }

    /// The page-aligned payload area of a receive buffer.
    @_noLocks public func payload(_ index: UInt32) -> UnsafeMutableRawPointer {
        base + (Int(index) &* Self.receiveStride &+ 4096)
    }

    /// The system buffer with an index.
    @_noLocks public func systemBuffer(_ index: UInt32) -> UnsafeMutableRawPointer {
        systemBase + (Int(index) &* Self.systemByteCount)
    }

    /// The receive buffer an address lies in.
    @_noLocks public func receiveBuffer(containing address: UnsafeRawPointer) -> UInt32 {
        UInt32(truncatingIfNeeded: (address - UnsafeRawPointer(base)) / Self.receiveStride)
    }

    /// Receive buffers nobody has now.
    public var freeReceiveBuffers: Int { receive.count }
}

/// Indices that are free, the one freed last on top. The shared words lie behind pointers, so that threads meet only at the
/// lock.
struct IndexStack: ~Copyable {
    private let lock: Lock
    private let entries: UnsafeMutablePointer<UInt32>
    private let top: UnsafeMutablePointer<Int>

    init(count: Int) {
        lock = Lock()
        entries = .allocate(capacity: count)
        for index in 0..<count { entries[index] = UInt32(count - 1 - index) }
        top = .allocate(capacity: 1)
        top.initialize(to: count)
    }

    deinit {
        entries.deallocate()
        top.deallocate()
        lock.destroy()
    }

    var count: Int { lock.locked { top.pointee } }

    @_noLocks func pop(leaving reserve: Int) -> UInt32? {
        lock.lock()
        guard top.pointee > reserve else {
            lock.unlock()
            return nil
        }
        top.pointee &-= 1
        let index = entries[top.pointee]
        lock.unlock()
        return index
    }

    @_noLocks func push(_ index: UInt32) {
        lock.lock()
        entries[top.pointee] = index
        top.pointee &+= 1
        lock.unlock()
    }
}
