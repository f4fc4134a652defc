import CHardware
import Glibc
import PCIBus

/// Pages of this process that stand for memory of the simulated machine and of the card; all go back together.
///
/// Made and filled by the thread that makes the card, constant afterwards.
final class HostPages: @unchecked Sendable {  // filled before it is shared
    private static let hugePage = 2 << 20
    private var mappings: [(base: UnsafeMutableRawPointer, byteCount: Int)] = []

    deinit {
        for mapping in mappings { munmap(mapping.base, mapping.byteCount) }
    }

    /// Zeroed pages that cost nothing until they are touched, and stay as long as this object.
    func map(_ byteCount: Int, isDense: Bool = false) throws(BusError) -> UnsafeMutableRawPointer {
        let base = try Self.take(byteCount, isDense: isDense)
        mappings.append((base, byteCount))
        return base
    }

    /// Zeroed pages, which the caller unmaps.
    ///
    /// - Parameter isDense: Most of it will be used. It then lies in huge pages where the kernel has them, as pinned memory of
    ///   VFIO does, so that data do not wait for page tables; where it has none, or none left, in ordinary ones.
    static func take(_ byteCount: Int, isDense: Bool) throws(BusError) -> UnsafeMutableRawPointer {
        let slack = isDense && byteCount >= hugePage ? hugePage : 0
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        let result = mmap(nil, byteCount + slack, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let result, result != UnsafeMutableRawPointer(bitPattern: -1) else { throw failure(byteCount, errno) }
        guard slack > 0 else { return result }
        let before = -Int(bitPattern: result) & (hugePage - 1)
        if before > 0 { munmap(result, before) }
        munmap(result + before + byteCount, slack - before)
        // A kernel without huge pages refuses the advice and nothing else.
        madvise(result + before, byteCount, CInt(MADV_HUGEPAGE))
        return result + before
    }

    static func failure(_ byteCount: Int, _ code: CInt) -> BusError {
        BusError(code, "the host gives no \(byteCount) bytes of memory")
    }
}
