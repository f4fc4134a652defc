import CHardware
import CVFIO
import Glibc

/// The system calls this bus makes, so that a test can answer them in the kernel's place.
///
/// A result below zero is an errno made negative, as inside the kernel. Any thread.
protocol VFIOKernel: Sendable {
    /// open(2) for reading and writing; the descriptor.
    func open(_ path: String) -> CInt
    /// close(2).
    func close(_ descriptor: CInt)
    /// ioctl(2) with a structure.
    func control(_ descriptor: CInt, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> CInt
    /// ioctl(2) with a number.
    func control(_ descriptor: CInt, _ request: UInt, number: UInt) -> CInt
    /// pread(2).
    func read(_ descriptor: CInt, _ buffer: UnsafeMutableRawPointer, _ byteCount: Int, at offset: UInt64) -> Int
    /// pwrite(2).
    func write(_ descriptor: CInt, _ buffer: UnsafeRawPointer, _ byteCount: Int, at offset: UInt64) -> Int
    /// mmap(2) of device memory, shared, readable and writable; at `place` instead of what is mapped there, if it is given.
    func map(_ descriptor: CInt, byteCount: Int, offset: UInt64, place: UnsafeMutableRawPointer?) -> MappingResult
    /// mmap(2) of zeroed memory, from huge pages or from ordinary ones.
    func allocate(byteCount: Int, hugePages: Bool) -> MappingResult
    /// munmap(2).
    func unmap(_ base: UnsafeMutableRawPointer, byteCount: Int)
    /// The text of a small file; nil when it cannot be read.
    func text(_ path: String) -> String?
    /// What a symbolic link holds; nil when there is none.
    func link(_ path: String) -> String?
    /// Soft limit of RLIMIT_MEMLOCK in bytes; nil for none.
    func lockedMemoryLimit() -> UInt64?
}

/// What mmap(2) answers.
enum MappingResult {
    /// The first byte.
    case mapped(UnsafeMutableRawPointer)
    /// The errno.
    case failed(CInt)
}

/// The kernel this process runs on.
struct LinuxKernel: VFIOKernel {
    func open(_ path: String) -> CInt {
        let descriptor = Glibc.open(path, O_RDWR | O_CLOEXEC)
        return descriptor < 0 ? -errno : descriptor
    }

    func close(_ descriptor: CInt) { _ = Glibc.close(descriptor) }

    func control(_ descriptor: CInt, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> CInt {
        cvfio_ioctl(descriptor, request, argument)
    }

    func control(_ descriptor: CInt, _ request: UInt, number: UInt) -> CInt {
        cvfio_ioctl_number(descriptor, request, number)
    }

    func read(_ descriptor: CInt, _ buffer: UnsafeMutableRawPointer, _ byteCount: Int, at offset: UInt64) -> Int {
        let done = pread(descriptor, buffer, byteCount, off_t(truncatingIfNeeded: offset))
        return done < 0 ? -Int(errno) : done
    }

    func write(_ descriptor: CInt, _ buffer: UnsafeRawPointer, _ byteCount: Int, at offset: UInt64) -> Int {
        let done = pwrite(descriptor, buffer, byteCount, off_t(truncatingIfNeeded: offset))
        return done < 0 ? -Int(errno) : done
    }

    func map(_ descriptor: CInt, byteCount: Int, offset: UInt64, place: UnsafeMutableRawPointer?) -> MappingResult {
        let flags = MAP_SHARED | (place == nil ? 0 : MAP_FIXED)
        return result(
            mmap(place, byteCount, PROT_READ | PROT_WRITE, flags, descriptor, off_t(truncatingIfNeeded: offset))
        )
    }

    func allocate(byteCount: Int, hugePages: Bool) -> MappingResult {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | (hugePages ? CInt(MAP_HUGETLB) : 0)
        // Ordinary pages are placed so that the kernel may merge them to huge ones: the IOMMU then needs fewer entries.
        let huge = 2 << 20
        let slack = hugePages || byteCount < huge ? 0 : huge
        let mapping = result(mmap(nil, byteCount + slack, PROT_READ | PROT_WRITE, flags, -1, 0))
        guard case .mapped(let start) = mapping else { return mapping }
        let before = slack == 0 ? 0 : (huge - Int(bitPattern: start) % huge) % huge
        if before > 0 { munmap(start, before) }
        if slack - before > 0 { munmap(start + before + byteCount, slack - before) }
        let base = start + before
        if slack > 0 { madvise(base, byteCount, CInt(MADV_HUGEPAGE)) }
        // A child must not come to share pages the card writes: a copy-on-write would part this process from the card.
        madvise(base, byteCount, CInt(MADV_DONTFORK))
        return .mapped(base)
    }

    private func result(_ base: UnsafeMutableRawPointer?) -> MappingResult {
        guard let base, Int(bitPattern: base) != -1 else { return .failed(errno) }
        return .mapped(base)
    }

    func unmap(_ base: UnsafeMutableRawPointer, byteCount: Int) { munmap(base, byteCount) }

    func text(_ path: String) -> String? {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { _ = Glibc.close(descriptor) }
        var failed = false
        let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
            let done = pread(descriptor, buffer.baseAddress, buffer.count, 0)
            failed = done < 0
            count = max(0, done)
        }
        return failed ? nil : String(decoding: bytes, as: UTF8.self)
    }

    func link(_ path: String) -> String? {
        let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
            count = buffer.withMemoryRebound(to: CChar.self) { text in
                text.baseAddress.map { max(0, readlink(path, $0, text.count)) } ?? 0
            }
        }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    func lockedMemoryLimit() -> UInt64? {
        var limit: UInt64 = 0
        return cvfio_locked_memory_limit(&limit) ? limit : nil
    }
}
