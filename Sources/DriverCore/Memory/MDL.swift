import CHardware
import Glibc
public import PCIBus

/// A memory descriptor list with a life of its own (MDL): says which pages a buffer lies on, and that they stay there.
///
/// On the data path, where all memory is resident for the life of the card, the trivial ``MemoryDescriptorList`` does. This
/// one is for the other cases: memory of a caller that must be locked first, a part of another list, a chain of buffers that
/// are one transfer. Used by one thread at a time.
public final class MDL {
    /// What has been done to the pages.
    public enum State: Sendable {
        /// Only the range is known (IoAllocateMdl): a device must not touch it.
        case allocated
        /// The memory was resident before (MmBuildMdlForNonPagedPool).
        case nonPaged
        /// The pages were made resident for this list (MmProbeAndLockPages).
        case locked
        /// Describes a part of another list, which keeps the pages (IoBuildPartialMdl).
        case partial
    }

    /// What a caller lets be done to its memory (LOCK_OPERATION): a device that writes memory needs write access.
    public enum Access: Sendable {
        /// The device only reads the memory.
        case read
        /// The device writes it.
        case write
    }

    /// The range described.
    public let descriptor: MemoryDescriptorList
    /// What has been done to the pages.
    public private(set) var state = State.allocated
    /// The next buffer of the transfer (Mdl->Next).
    public private(set) var next: MDL?
    /// The page frame of each page; nil where the platform does not tell, as for locked memory of a process.
    public private(set) var frames: [PageFrameNumber]?
    /// Whether ``systemAddress()`` has been asked for (MDL_MAPPED_TO_SYSTEM_VA).
    public private(set) var isMapped = false
    private var source: MDL?

    /// The most bytes of one list: 4 GiB less a page.
    public static let maximumByteCount = 1 << 32 - Page.size

    /// Describes a range (IoAllocateMdl). ``Status/invalidParameter`` for no bytes or a range that does not exist,
    /// ``Status/insufficientResources`` for more than ``maximumByteCount``.
    public init(virtualAddress: VirtualAddress, byteCount: Int) throws(StatusError) {
        try LevelRule.allocateMDL.check()
        guard byteCount > 0, virtualAddress.pointer != nil,
            !virtualAddress.value.addingReportingOverflow(UInt(byteCount)).overflow
        else { throw StatusError(.invalidParameter, "an MDL of \(byteCount) bytes at \(virtualAddress)") }
        guard byteCount <= Self.maximumByteCount else {
            throw StatusError(.insufficientResources, "an MDL of \(byteCount) bytes: at most \(Self.maximumByteCount)")
        }
        descriptor = MemoryDescriptorList(virtualAddress: virtualAddress, byteCount: byteCount)
    }

    deinit { if state == .locked { unpin() } }

    /// First byte (MmGetMdlVirtualAddress): an index into the list, not a pointer to use.
    public var virtualAddress: VirtualAddress { descriptor.virtualAddress }
    /// Bytes (MmGetMdlByteCount).
    public var byteCount: Int { descriptor.byteCount }
    /// Bytes before the first in its page (MmGetMdlByteOffset).
    public var byteOffset: Int { descriptor.byteOffset }
    /// Pages touched.
    public var pageCount: Int { descriptor.pageCount }
    /// Whether a device may be given the pages.
    public var isResident: Bool { state != .allocated }

    // MARK: Pages

    /// Says that the memory is resident already (MmBuildMdlForNonPagedPool). `memory` tells the frames, where it is known
    /// which DMA memory the range lies in. ``Status/invalidDeviceState`` for a list whose pages are known already.
    public func buildForNonPagedPool(in memory: DMAMemory? = nil) throws(StatusError) {
        try LevelRule.buildForNonPagedPool.check()
        guard state == .allocated else { throw wrongState("built for non-paged memory") }
        if let memory {
            let start = UInt(bitPattern: memory.base)
            guard virtualAddress.value >= start, byteCount <= memory.byteCount,
                virtualAddress.value - start <= UInt(memory.byteCount - byteCount)
            else { throw StatusError(.invalidParameter, "\(virtualAddress) does not lie in that memory") }
            let first = Int(virtualAddress.value - start) / Page.size
            frames = memory.frames.map { frames in
                (first..<first + pageCount).map { PageFrameNumber(frames[$0]) }
            }
        }
        state = .nonPaged
    }

    /// Makes the pages resident and keeps them so (MmProbeAndLockPages): passive level up to APC level.
    ///
    /// ``Status/accessViolation`` for memory that is not there or may not be used so, ``Status/insufficientResources`` when
    /// RLIMIT_MEMLOCK is too small, ``Status/invalidDeviceState`` for a list whose pages are known already; nothing is
    /// locked then.
    public func probeAndLockPages(_ access: Access) throws(StatusError) {
        try LevelRule.probeAndLockPages.check()
        guard state == .allocated else { throw wrongState("locked") }
        let (start, length) = pageRange
        let advice: CInt = access == .write ? 23 : 22  // MADV_POPULATE_WRITE, MADV_POPULATE_READ
        guard madvise(start, length, advice) == 0 else {
            throw StatusError(
                .accessViolation,
                "\(byteCount) bytes at \(virtualAddress) cannot be \(access == .write ? "written" : "read")"
            )
        }
        guard PageLocks.shared.lock(start, length) else {
            throw StatusError(
                .insufficientResources,
                "\(length) bytes cannot be locked: raise RLIMIT_MEMLOCK (ulimit -l)"
            )
        }
        state = .locked
    }

    /// Ends ``probeAndLockPages(_:)``, and the mapping with it (MmUnlockPages). ``Status/invalidDeviceState`` for a list
    /// whose pages this one did not lock.
    public func unlockPages() throws(StatusError) {
        try LevelRule.unlockPages.check()
        guard state == .locked else { throw wrongState("unlocked") }
        unpin()
        state = .allocated
        isMapped = false
    }

    private func unpin() {
        let (start, length) = pageRange
        PageLocks.shared.unlock(start, length)
    }

    private var pageRange: (UnsafeMutableRawPointer, Int) {
        (virtualAddress.pointer! - byteOffset, pageCount * Page.size)
    }

    /// Where this process reaches the pages, byte offset included (MmGetSystemAddressForMdlSafe); the same each time. nil for
    /// pages that may not be there.
    public func systemAddress() throws(StatusError) -> UnsafeMutableRawPointer? {
        try LevelRule.systemAddress.check()
        guard isResident else { return nil }
        // Non-paged memory has an address already; other memory gets one when it is asked for.
        if state != .nonPaged { isMapped = true }
        return virtualAddress.pointer
    }

    // MARK: Parts and chains

    /// Describes a part of this list, which keeps the pages (IoBuildPartialMdl). ``Status/invalidParameter`` for bytes
    /// outside, ``Status/invalidDeviceState`` while the pages are not resident.
    public func partial(at address: VirtualAddress, byteCount: Int) throws(StatusError) -> MDL {
        guard isResident else { throw wrongState("taken a part of") }
        guard contains(address, byteCount: byteCount) else {
            throw StatusError(.invalidParameter, "\(byteCount) bytes at \(address) do not lie in the MDL")
        }
        let part = try MDL(virtualAddress: address, byteCount: byteCount)
        part.state = .partial
        part.source = self
        let skipped = Int(address.value / UInt(Page.size) - virtualAddress.value / UInt(Page.size))
        part.frames = frames.map { Array($0[skipped..<skipped + part.pageCount]) }
        return part
    }

    /// Puts a buffer behind the last of the chain (IoAllocateMdl with SecondaryBuffer). ``Status/invalidParameter`` for a list
    /// that is in the chain already.
    public func append(_ mdl: MDL) throws(StatusError) {
        var last = self
        while true {
            guard last !== mdl else { throw StatusError(.invalidParameter, "an MDL cannot be in a chain twice") }
            guard let following = last.next else { break }
            last = following
        }
        last.next = mdl
    }

    /// Whether a range lies in this list, the chain not counted.
    public func contains(_ address: VirtualAddress, byteCount: Int) -> Bool {
        byteCount > 0 && byteCount <= self.byteCount && address >= virtualAddress
            && address.value - virtualAddress.value <= UInt(self.byteCount - byteCount)
    }

    /// The buffers of the chain, in order.
    public var chain: [MDL] {
        var result = [self]
        while let following = result[result.count - 1].next { result.append(following) }
        return result
    }

    private func wrongState(_ what: String) -> StatusError {
        StatusError(.invalidDeviceState, "an MDL that is \(state) cannot be \(what)")
    }
}

/// How many lists hold each page: mlock(2) does not count, so that the first munlock would let go of a page another list holds.
private final class PageLocks: @unchecked Sendable {  // guarded by `guardian`
    static let shared = PageLocks()
    private let guardian = Lock()
    private var holders: [UInt: Int] = [:]

    func lock(_ start: UnsafeMutableRawPointer, _ byteCount: Int) -> Bool {
        guardian.locked {
            guard mlock(start, byteCount) == 0 else {
                // What it locked before it failed, and nobody holds.
                for page in pages(start, byteCount) where holders[page] == nil { release(page) }
                return false
            }
            for page in pages(start, byteCount) { holders[page, default: 0] += 1 }
            return true
        }
    }

    func unlock(_ start: UnsafeMutableRawPointer, _ byteCount: Int) {
        guardian.locked {
            for page in pages(start, byteCount) {
                let left = (holders[page] ?? 1) - 1
                holders[page] = left == 0 ? nil : left
                if left == 0 { release(page) }
            }
        }
    }

    private func pages(_ start: UnsafeMutableRawPointer, _ byteCount: Int) -> StrideTo<UInt> {
        let first = UInt(bitPattern: start)
        return stride(from: first, to: first + UInt(byteCount), by: Page.size)
    }

    private func release(_ page: UInt) { munlock(UnsafeMutableRawPointer(bitPattern: page)!, Page.size) }
}
