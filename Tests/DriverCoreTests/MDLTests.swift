import CHardware
import Glibc
import PCIBus
import Testing

@testable import DriverCore

@Suite struct MDLTests {
    /// Pages of this process, the last `without` of them not accessible.
    private func pages(_ count: Int, without: Int = 0) -> UnsafeMutableRawPointer {
        let base = mmap(nil, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        if without > 0 { mprotect(base + (count - without) * 4096, without * 4096, PROT_NONE) }
        return base
    }

    /// The sanitizers take mlock(2) for themselves, and lock nothing.
    static let locksAreReal: Bool = {
        let page = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        defer { munmap(page, 4096) }
        return mlock(page, 4096) == 0 && madvise(page, 4096, 4) != 0
    }()

    private func lockedPages(_ base: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        // An mlocked page has no pages to be reclaimed: MADV_DONTNEED is refused for it.
        madvise(base, count * 4096, 4) != 0
    }

    @Test func `a list describes a range, and knows nothing of its pages`() throws {
        let base = pages(3)
        defer { munmap(base, 3 * 4096) }
        let mdl = try MDL(virtualAddress: VirtualAddress(base + 0x10), byteCount: 2 * 4096 + 184)
        #expect(mdl.next == nil && mdl.byteCount == 8376 && mdl.byteOffset == 0x10 && mdl.pageCount == 3)
        #expect(try mdl.systemAddress() == nil)
        #expect(!mdl.isResident && mdl.frames == nil)
    }

    @Test(arguments: [
        (1, 0, Status.invalidParameter), (1, -1, .invalidParameter), (0, 1, .invalidParameter),
        (UInt.max, 2, .invalidParameter), (4096, 1 << 32, .insufficientResources),
        (4096, (1 << 32) - 4096, .success),
    ])
    func `what cannot be described is refused`(address: UInt, byteCount: Int, expected: Status) {
        #expect(
            status { () throws(StatusError) in
                _ = try MDL(virtualAddress: VirtualAddress(address), byteCount: byteCount)
            } == expected
        )
    }

    @Test func `a list of non-paged memory knows the frames, has an address, and is never locked`() throws {
        let function = FakeFunction()
        let memory = try function.allocateMemory(byteCount: 4 * 4096)
        let mdl = try MDL(virtualAddress: VirtualAddress(memory.base + 5000), byteCount: 5000)
        try mdl.buildForNonPagedPool(in: memory)
        #expect(mdl.state == .nonPaged && mdl.pageCount == 2)
        if let frames = memory.frames {
            #expect(mdl.frames?.map(\.value) == [frames[1], frames[2]])
        }
        #expect(try mdl.systemAddress() == memory.base + 5000)
        #expect(!mdl.isMapped)
        #expect(status { () throws(StatusError) in try mdl.probeAndLockPages(.write) } == .invalidDeviceState)
        #expect(status { () throws(StatusError) in try mdl.unlockPages() } == .invalidDeviceState)
        #expect(status { () throws(StatusError) in try mdl.buildForNonPagedPool() } == .invalidDeviceState)
        #expect(mdl.state == .nonPaged)
        let outside = try MDL(virtualAddress: VirtualAddress(memory.base + 5000), byteCount: 4 * 4096)
        #expect(status { () throws(StatusError) in try outside.buildForNonPagedPool(in: memory) } == .invalidParameter)
        function.freeMemory(memory)
    }

    @Test(.enabled(if: locksAreReal))
    func `pages are locked for a list, have an address on demand, and are let go with it`() throws {
        let base = pages(2)
        defer { munmap(base, 2 * 4096) }
        do {
            let mdl = try MDL(virtualAddress: VirtualAddress(base + 100), byteCount: 5000)
            try mdl.probeAndLockPages(.write)
            #expect(mdl.state == .locked && !mdl.isMapped && lockedPages(base, 1))
            #expect(try mdl.systemAddress() == base + 100)
            #expect(try mdl.systemAddress() == base + 100)
            #expect(mdl.isMapped)
            #expect(status { () throws(StatusError) in try mdl.probeAndLockPages(.read) } == .invalidDeviceState)
            try mdl.unlockPages()
            #expect(mdl.state == .allocated && !mdl.isMapped && !lockedPages(base, 2))
            #expect(status { () throws(StatusError) in try mdl.unlockPages() } == .invalidDeviceState)
            try mdl.probeAndLockPages(.read)
            #expect(lockedPages(base, 1))
        }
        #expect(!lockedPages(base, 2))
    }

    @Test(.enabled(if: locksAreReal))
    func `a page two lists lock is let go by the second`() throws {
        let base = pages(1)
        defer { munmap(base, 4096) }
        let first = try MDL(virtualAddress: VirtualAddress(base), byteCount: 100)
        let second = try MDL(virtualAddress: VirtualAddress(base + 200), byteCount: 100)
        try first.probeAndLockPages(.read)
        try second.probeAndLockPages(.write)
        try first.unlockPages()
        #expect(lockedPages(base, 1))
        try second.unlockPages()
        #expect(!lockedPages(base, 1))
    }

    @Test func `memory that is not there, or is not to be written, is not locked`() throws {
        let base = pages(3, without: 1)
        defer { munmap(base, 3 * 4096) }
        mprotect(base + 4096, 4096, PROT_READ)
        let beyond = try MDL(virtualAddress: VirtualAddress(base), byteCount: 8193)
        #expect(status { () throws(StatusError) in try beyond.probeAndLockPages(.read) } == .accessViolation)
        let constant = try MDL(virtualAddress: VirtualAddress(base), byteCount: 8192)
        #expect(status { () throws(StatusError) in try constant.probeAndLockPages(.write) } == .accessViolation)
        #expect(constant.state == .allocated && !lockedPages(base, 1))
        #expect(status { () throws(StatusError) in try constant.probeAndLockPages(.read) } == .success)
    }

    @Test func `locking waits for memory, so that it is not for dispatch level`() throws {
        let base = pages(1)
        defer { munmap(base, 4096) }
        let mdl = try MDL(virtualAddress: VirtualAddress(base), byteCount: 1)
        ExecutionLevel.dispatch.run {
            #expect(status { () throws(StatusError) in try mdl.probeAndLockPages(.read) } == .invalidDeviceState)
        }
        #expect(mdl.state == .allocated)
    }

    @Test func `a part of a list has the pages of its source`() throws {
        let function = FakeFunction()
        let memory = try function.allocateMemory(byteCount: 4 * 4096)
        let mdl = try MDL(virtualAddress: VirtualAddress(memory.base), byteCount: 4 * 4096)
        #expect(
            status { () throws(StatusError) in _ = try mdl.partial(at: mdl.virtualAddress, byteCount: 1) }
                == .invalidDeviceState
        )
        try mdl.buildForNonPagedPool(in: memory)
        let part = try mdl.partial(at: VirtualAddress(memory.base + 5000), byteCount: 8000)
        #expect(part.state == .partial && part.isResident && part.pageCount == 3)
        #expect(part.frames == mdl.frames.map { Array($0[1...3]) })
        #expect(status { () throws(StatusError) in try part.unlockPages() } == .invalidDeviceState)
        for (offset, count) in [(4 * 4096 - 1, 2), (0, 0), (-1, 2), (0, 4 * 4096 + 1)] {
            #expect(
                status { () throws(StatusError) in
                    _ = try mdl.partial(at: VirtualAddress(memory.base + offset), byteCount: count)
                } == .invalidParameter
            )
        }
        function.freeMemory(memory)
    }

    @Test func `a chain keeps its order and no list twice`() throws {
        let base = pages(1)
        defer { munmap(base, 4096) }
        let parts = try (0..<3).map { try MDL(virtualAddress: VirtualAddress(base + 100 * $0), byteCount: 100) }
        try parts[0].append(parts[1])
        try parts[0].append(parts[2])
        #expect(parts[0].chain.map(\.virtualAddress) == parts.map(\.virtualAddress))
        #expect(status { () throws(StatusError) in try parts[0].append(parts[1]) } == .invalidParameter)
        #expect(parts[0].chain.count == 3 && parts[1].chain.count == 2)
    }
}
