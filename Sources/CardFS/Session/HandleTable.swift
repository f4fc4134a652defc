import CHardware
import DriverCore
import PCIBus
import Synchronization

/// What is kept of an open file, at a fixed address until it is released.
struct Handle {
    /// The node's number towards the kernel.
    var node: UInt64 = 0
    var kind = FileKind.directory
    var isOpen = false
    /// The flags of open(2). What a read or write is to do about waiting stands in its own flags, which fcntl(2) changes.
    var flags: CInt = 0
    var bar = 0
    var offset: UInt64 = 0
    var width = AccessWidth.long
    /// In whose account the open file is counted; nil for root and the owner of the mount.
    var account: UnsafeMutablePointer<UserShares.Account>?
    /// How often the card had been removed when the file was opened.
    var removals: UInt64 = 0
    /// The open stream.
    var stream: UnsafeMutablePointer<StreamRecord>?
    /// The sample of a short file, which the read at offset 0 took.
    var sample: (UInt64, UInt64, UInt64) = (0, 0, 0)
    var sampleLength = 0
    /// The text a file served last, which other files may serve too; retained.
    var shared: Unmanaged<TextSample>?
    /// Lines that were taken and not yet read, from malloc.
    var text: UnsafeMutableRawPointer?
    var textLength = 0
    /// The next interrupt for a reader of the log; the last state a reader of `state` has seen; where a reader of `last_error`
    /// goes on.
    var cursor: UInt64 = 0
    /// Behind the last value that was accepted without a newline: what is written there belongs to it. 0 after a newline.
    var lineEnd = 0
}

/// What requests of an open file note side by side.
struct FileMarks: ~Copyable {
    /// The kernel can be notified of the file: it was polled by somebody who waits.
    let isPolled = Atomic<Bool>(false)
    /// The lock owners that have written, 0 for none: the threads of a process have one, a child has its own.
    private let first = Atomic<UInt64>(0)
    private let second = Atomic<UInt64>(0)
    private let third = Atomic<UInt64>(0)
    /// More have written than there is room for, or somebody whom the kernel did not name.
    private let isCrowded = Atomic<Bool>(false)

    /// Forgets the file before.
    func reset() {
        isPolled.store(false, ordering: .relaxed)
        first.store(0, ordering: .relaxed)
        second.store(0, ordering: .relaxed)
        third.store(0, ordering: .relaxed)
        isCrowded.store(false, ordering: .relaxed)
    }

    /// Notes that `owner` writes.
    @_noLocks func noteWriter(_ owner: UInt64) {
        if owner != 0, first.load(ordering: .relaxed) == owner { return }
        noteAnother(owner)
    }

    @_noLocks private func noteAnother(_ owner: UInt64) {
        if owner != 0 {
            if Self.takes(first, owner) || Self.takes(second, owner) || Self.takes(third, owner) { return }
        }
        isCrowded.store(true, ordering: .relaxed)
    }

    @_noLocks private static func takes(_ place: borrowing Atomic<UInt64>, _ owner: UInt64) -> Bool {
        let found = place.compareExchange(expected: 0, desired: owner, ordering: .relaxed)
        return found.exchanged || found.original == owner
    }

    /// Whether `owner` may have written.
    @_noLocks func mayHaveWritten(_ owner: UInt64) -> Bool {
        owner == 0 || isCrowded.load(ordering: .relaxed) || first.load(ordering: .relaxed) == owner
            || second.load(ordering: .relaxed) == owner || third.load(ordering: .relaxed) == owner
    }
}

/// The open files of a mount. A file's number is an index; the kernel gives back only numbers it was given.
///
/// Handles are used without a lock by the requests of their own file. Only the samples and the place in a line can be reached by
/// two requests at a time, which ``lock(for:)`` keeps apart.
struct HandleTable: ~Copyable {
    /// The most open files.
    static var capacity: Int { chunkCount * chunkSize }

    private static var chunkCount: Int { @_noLocks get { 1024 } }
    private static var chunkSize: Int { @_noLocks get { 256 } }
    private static var lockCount: Int { @_noLocks get { 64 } }

    private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<Handle>?>
    private let marks: UnsafeMutablePointer<UnsafeMutablePointer<FileMarks>?>
    private let locks: UnsafeMutablePointer<Lock>
    private let guardian = Lock()
    private let free: UnsafeMutablePointer<[UInt32]>
    private let used: UnsafeMutablePointer<Int>
    private let openCount = Atomic<Int>(0)
    /// The most files that were open since memory was given back last.
    private let mostOpen = Atomic<Int>(0)

    init() {
        chunks = .allocate(capacity: Self.chunkCount)
        chunks.initialize(repeating: nil, count: Self.chunkCount)
        marks = .allocate(capacity: Self.chunkCount)
        marks.initialize(repeating: nil, count: Self.chunkCount)
        locks = .allocate(capacity: Self.lockCount)
        for index in 0..<Self.lockCount { (locks + index).initialize(to: Lock()) }
        free = .allocate(capacity: 1)
        free.initialize(to: [])
        used = .allocate(capacity: 1)
        used.initialize(to: 0)
    }

    deinit {
        // A session that ends is not told of the files that are still open.
        for index in 0..<used.pointee {
            if let text = self[UInt64(index)].pointee.text { chw_free(text) }
            self[UInt64(index)].pointee.shared?.release()
        }
        for index in 0..<Self.chunkCount {
            chunks[index]?.deallocate()
            marks[index]?.deinitialize(count: Self.chunkSize)
            marks[index]?.deallocate()
        }
        chunks.deallocate()
        marks.deallocate()
        for index in 0..<Self.lockCount { locks[index].destroy() }
        locks.deallocate()
        free.deinitialize(count: 1)
        free.deallocate()
        used.deallocate()
        guardian.destroy()
    }

    /// A number for a file that is being opened; nil when a quarter of a million files are open.
    func open() -> UInt64? {
        let index: UInt32? = guardian.locked {
            if let index = free.pointee.popLast() { return index }
            let index = used.pointee
            guard index < Self.capacity else { return nil }
            if index % Self.chunkSize == 0 {
                let chunk = UnsafeMutablePointer<Handle>.allocate(capacity: Self.chunkSize)
                chunk.initialize(repeating: Handle(), count: Self.chunkSize)
                chunks[index / Self.chunkSize] = chunk
                let marks = UnsafeMutablePointer<FileMarks>.allocate(capacity: Self.chunkSize)
                for offset in 0..<Self.chunkSize { (marks + offset).initialize(to: FileMarks()) }
                self.marks[index / Self.chunkSize] = marks
            }
            used.pointee = index + 1
            return UInt32(index)
        }
        guard let index else { return nil }
        let count = openCount.wrappingAdd(1, ordering: .relaxed).newValue
        if count > mostOpen.load(ordering: .relaxed) { mostOpen.store(count, ordering: .relaxed) }
        let number = UInt64(index)
        self[number].pointee = Handle()
        self[number].pointee.isOpen = true
        marks(of: number).pointee.reset()
        return number
    }

    /// Takes the number of a released file back.
    func close(_ number: UInt64) {
        if let text = self[number].pointee.text { chw_free(text) }
        self[number].pointee.text = nil
        self[number].pointee.shared?.release()
        self[number].pointee.shared = nil
        self[number].pointee.isOpen = false
        let count = openCount.wrappingSubtract(1, ordering: .relaxed).newValue
        guardian.locked { free.pointee.append(UInt32(number)) }
        let most = mostOpen.load(ordering: .relaxed)
        guard most > 512, count < most / 4 else { return }
        // Hundreds of files were open and are closed: the C library would keep the memory of their texts for good.
        mostOpen.store(count, ordering: .relaxed)
        chw_trim()
    }

    /// The handle with a number the kernel gave back.
    subscript(_ number: UInt64) -> UnsafeMutablePointer<Handle> {
        @_noLocks get {
            let index = Int(truncatingIfNeeded: number)
            precondition(index < Self.chunkCount &* Self.chunkSize)
            return chunks[index / Self.chunkSize].unsafelyUnwrapped + index % Self.chunkSize
        }
    }

    /// What requests of the file note side by side.
    @_noLocks func marks(of number: UInt64) -> UnsafeMutablePointer<FileMarks> {
        let index = Int(truncatingIfNeeded: number)
        precondition(index < Self.chunkCount &* Self.chunkSize)
        return marks[index / Self.chunkSize].unsafelyUnwrapped + index % Self.chunkSize
    }

    /// The lock that guards the sample of a handle.
    @_noLocks func lock(for number: UInt64) -> Lock { locks[Int(truncatingIfNeeded: number) & (Self.lockCount &- 1)] }

    /// Files that are open.
    var count: Int { openCount.load(ordering: .relaxed) }
}
