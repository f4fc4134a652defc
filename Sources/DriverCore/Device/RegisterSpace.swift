public import CHardware
public import PCIBus
import Synchronization

/// Why a register access was refused or not believed. Each has its errno in the contract of the file tree.
public enum RegisterFault: UInt8, Sendable {
    /// It was carried out.
    case none
    /// Not aligned to its width, or no legal width (EINVAL).
    case misaligned
    /// Outside the BAR (ERANGE).
    case outOfRange
    /// The function has no such BAR (ENOENT).
    case noBAR
    /// The card is not in D0 (EAGAIN).
    case notInD0
    /// The card is gone (ENODEV).
    case gone
    /// Writes to this BAR are not allowed on this mount (EACCES).
    case protectedBAR
    /// The driver owns the register (EBUSY).
    case driverOwned
    /// Memory decoding is off in the command register (EIO).
    case decodingOff
    /// The BAR's register in configuration space does not hold the address the BAR was given (EIO).
    case moved
    /// The power management register says a low-power state that this driver has not asked for (EAGAIN).
    case asleep
}

/// What a register access is in doubt about, as the subject of the question it asks.
enum RegisterDoubt {
    /// Whether the card is there, and if so awake and decoding.
    static var presence: UInt32 { @_noLocks get { 6 } }
    /// Whether a BAR is where it was put, and nothing else; the number of the BAR is added.
    static var placeAlone: UInt32 { @_noLocks get { 8 } }
}

/// The BARs of a card as the file layer reaches them: checked, one bus access for each access.
///
/// Lives at a fixed address as long as the device. The functions are for any thread and do not block; a card that the
/// device stops meanwhile answers ``RegisterFault/notInD0``.
public struct RegisterSpace: ~Copyable {
    /// What may be believed of the card now.
    enum Access {
        static var off: UInt32 { @_noLocks get { 0 } }
        static var on: UInt32 { @_noLocks get { 1 } }
        static var gone: UInt32 { @_noLocks get { 2 } }
    }

    private let windows: UnsafeMutablePointer<RegisterWindow>
    private let access: Atomic<UInt32>
    /// Accesses under way, so that a stop can wait before it unmaps.
    private let inside: Atomic<UInt32>
    /// Stores under way. A load-and-store waits for them, so that none falls between its load and its store.
    private let storing: Atomic<UInt32>
    /// Not 0 while a load-and-store is under way: stores wait for its end.
    private let modifying: Atomic<UInt32>
    /// Held for a load-and-store: there is one at a time for the whole card, whichever file it comes through.
    private let modifyLock = Lock()
    private let owned: UnsafeMutablePointer<UInt64>
    private let ownedCount: Int
    private var protectedMask: UInt32 = 0
    private var expert = false
    private let presence: UInt64
    private let carriedOutByDriver: UInt64
    private var storeRoutine: (context: UnsafeMutableRawPointer, routine: chw_store_routine)?
    private let doubt: chw_question_about
    private let doubtContext: UnsafeMutableRawPointer

    /// `doubt` is called when a value is all ones or zero, and after writes that nothing else tells of; it asks the card for its
    /// vendor ID and answers the raw value of a ``RegisterFault``. Its subject is a BAR that may have been moved, since nobody
    /// answered there, or one of ``RegisterDoubt``.
    init(
        map: RegisterMap,
        doubtContext: UnsafeMutableRawPointer,
        doubt: @escaping chw_question_about
    ) {
        windows = .allocate(capacity: 6)
        windows.initialize(repeating: .none, count: 6)
        access = Atomic(Access.off)
        inside = Atomic(0)
        storing = Atomic(0)
        modifying = Atomic(0)
        let offsets = map.registers.filter(\.isDriverOwned).map(\.offset)
        owned = .allocate(capacity: max(1, offsets.count))
        for (index, offset) in offsets.enumerated() { owned[index] = offset }
        ownedCount = offsets.count
        presence = map.presence ?? .max
        carriedOutByDriver = map.carriedOutByDriver
        for bar in map.protectedBARs { protectedMask |= 1 << UInt32(bar) }
        self.doubtContext = doubtContext
        self.doubt = doubt
    }

    deinit {
        windows.deallocate()
        owned.deallocate()
        modifyLock.destroy()
    }

    /// Mount options: lets writes through to protected BARs, and to registers the driver owns.
    public mutating func allow(protectedBARs: Bool, driverOwned: Bool) {
        if protectedBARs { protectedMask = 0 }
        expert = driverOwned
    }

    /// Names what carries out stores to the registers of ``RegisterMap/carriedOutByDriver``. Before the device starts. The
    /// routine is called by any thread, while the BAR is mapped, and does not block.
    public mutating func setStoreRoutine(context: UnsafeMutableRawPointer, _ routine: @escaping chw_store_routine) {
        storeRoutine = (context, routine)
    }

    /// Bytes of a BAR that is mapped now; 0 for none.
    @_noLocks public func byteCount(bar: Int) -> UInt64 { windows[bar].byteCount }

    /// One read of `width` at `offset` of a BAR.
    @_noLocks public func read(
        bar: Int,
        offset: UInt64,
        width: AccessWidth,
        into value: inout UInt64
    ) -> RegisterFault {
        let fault = check(bar, offset, width)
        guard fault == .none else { return fault }
        guard enter() else { return absence() }
        value = windows[bar].load(offset, width)
        leave()
        // All ones is what a bus returns for nobody; zero is what a slot without power reads as. Both are also data.
        if value == width.allOnes { return verify(UInt32(truncatingIfNeeded: bar)) }
        return value == 0 ? verify(RegisterDoubt.presence) : .none
    }

    /// One write of `width` at `offset` of a BAR.
    @_noLocks public func write(bar: Int, offset: UInt64, width: AccessWidth, _ value: UInt64) -> RegisterFault {
        let fault = checkWrite(bar, offset, width.rawValue)
        guard fault == .none else { return fault }
        guard enter() else { return absence() }
        beginStore()
        store(bar, offset, width, value)
        endStore()
        return leaveAfterWrite(bar)
    }

    /// One read and one write of `width`, changing the bits of `mask` only. Two accesses, not atomic for the card; no other
    /// access of this space stores in between.
    @_noLocks public func modify(
        bar: Int,
        offset: UInt64,
        width: AccessWidth,
        _ value: UInt64,
        mask: UInt64
    ) -> RegisterFault {
        let refused = checkWrite(bar, offset, width.rawValue)
        guard refused == .none else { return refused }
        var old: UInt64 = 0
        beginModify()
        let fault = read(bar: bar, offset: offset, width: width, into: &old)
        guard fault == .none, enter() else {
            endModify()
            return fault == .none ? absence() : fault
        }
        store(bar, offset, width, (old & ~mask) | (value & mask))
        endModify()
        return leaveAfterWrite(bar)
    }

    /// Reads `byteCount` bytes, which must be one natural access or a longer multiple of 4: ascending 32-bit accesses.
    @_noLocks public func read(
        bar: Int,
        offset: UInt64,
        into bytes: UnsafeMutableRawPointer,
        byteCount: Int
    ) -> RegisterFault {
        if let width = AccessWidth(natural: byteCount) {
            var value: UInt64 = 0
            let fault = read(bar: bar, offset: offset, width: width, into: &value)
            guard fault == .none else { return fault }
            withUnsafePointer(to: value) { chw_copy(bytes, $0, byteCount) }
            return .none
        }
        let fault = checkRun(bar, offset, byteCount)
        guard fault == .none else { return fault }
        var hasZeros = false
        var hasOnes = false
        guard enter() else { return absence() }
        var at = 0
        while at < byteCount {
            let value = windows[bar].load32(offset &+ UInt64(at))
            if value == 0 { hasZeros = true }
            if value == .max { hasOnes = true }
            bytes.storeBytes(of: value, toByteOffset: at, as: UInt32.self)
            at &+= 4
        }
        leave()
        if hasOnes { return verify(UInt32(truncatingIfNeeded: bar)) }
        return hasZeros ? verify(RegisterDoubt.presence) : .none
    }

    /// Writes `byteCount` bytes, which must be one natural access or a longer multiple of 4: ascending 32-bit accesses.
    @_noLocks public func write(
        bar: Int,
        offset: UInt64,
        from bytes: UnsafeRawPointer,
        byteCount: Int
    ) -> RegisterFault {
        if let width = AccessWidth(natural: byteCount) {
            var value: UInt64 = 0
            withUnsafeMutablePointer(to: &value) { chw_copy($0, bytes, byteCount) }
            return write(bar: bar, offset: offset, width: width, value)
        }
        var fault = checkRun(bar, offset, byteCount)
        guard fault == .none else { return fault }
        fault = permission(bar, offset, UInt64(byteCount))
        guard fault == .none else { return fault }
        guard enter() else { return absence() }
        var at = 0
        while at < byteCount {
            // In short runs: a load-and-store waits for the end of one.
            let end = byteCount &- at < Self.runByteCount ? byteCount : at &+ Self.runByteCount
            beginStore()
            while at < end {
                let word = bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self)
                store(bar, offset &+ UInt64(at), .long, UInt64(word))
                at &+= 4
            }
            endStore()
        }
        return leaveAfterWrite(bar)
    }

    /// What is wrong with an access, without making it.
    @_noLocks public func check(_ bar: Int, _ offset: UInt64, _ width: AccessWidth) -> RegisterFault {
        guard bar >= 0, bar < 6 else { return .noBAR }
        let size = windows[bar].byteCount
        let bytes = UInt64(width.rawValue)
        if size == 0 { return access.load(ordering: .acquiring) == Access.on ? .noBAR : absence() }
        if offset & (bytes &- 1) != 0 { return .misaligned }
        return offset < size && bytes <= size &- offset ? .none : .outOfRange
    }

    @_noLocks private func checkWrite(_ bar: Int, _ offset: UInt64, _ bytes: UInt32) -> RegisterFault {
        guard let width = AccessWidth(rawValue: bytes) else { return .misaligned }
        let fault = check(bar, offset, width)
        return fault == .none ? permission(bar, offset, UInt64(bytes)) : fault
    }

    @_noLocks private func checkRun(_ bar: Int, _ offset: UInt64, _ byteCount: Int) -> RegisterFault {
        guard byteCount > 0, byteCount & 3 == 0 else { return .misaligned }
        let fault = check(bar, offset, .long)
        guard fault == .none else { return fault }
        return UInt64(byteCount) <= windows[bar].byteCount &- offset ? .none : .outOfRange
    }

    @_noLocks private func permission(_ bar: Int, _ offset: UInt64, _ byteCount: UInt64) -> RegisterFault {
        if protectedMask & (1 &<< UInt32(bar)) != 0 { return .protectedBAR }
        if expert || bar != 0 { return .none }
        var index = 0
        while index < ownedCount {
            if owned[index] < offset &+ byteCount && offset < owned[index] &+ 4 { return .driverOwned }
            index &+= 1
        }
        return .none
    }

    /// One store, by the driver where it wants to know of it.
    @_noLocks private func store(_ bar: Int, _ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
        if bar == 0, offset < carriedOutByDriver, let storeRoutine {
            chw_store(storeRoutine.routine, storeRoutine.context, offset, width.rawValue, value)
        } else {
            windows[bar].store(value, offset, width)
        }
    }

    @_noLocks private func enter() -> Bool {
        inside.wrappingAdd(1, ordering: .sequentiallyConsistent)
        if access.load(ordering: .sequentiallyConsistent) == Access.on { return true }
        leave()
        return false
    }

    private static var runByteCount: Int { @_noLocks get { 256 } }

    /// Before a store. Takes no lock but while a load-and-store is under way.
    @_noLocks private func beginStore() {
        storing.wrappingAdd(1, ordering: .sequentiallyConsistent)
        if modifying.load(ordering: .sequentiallyConsistent) == 0 { return }
        storing.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        modifyLock.lock()
        storing.wrappingAdd(1, ordering: .sequentiallyConsistent)
        modifyLock.unlock()
    }

    @_noLocks private func endStore() { storing.wrappingSubtract(1, ordering: .sequentiallyConsistent) }

    /// Before a load-and-store: keeps others out, and waits for the stores under way, each of which takes a few bus accesses.
    @_noLocks private func beginModify() {
        modifyLock.lock()
        modifying.store(1, ordering: .sequentiallyConsistent)
        while storing.load(ordering: .sequentiallyConsistent) != 0 { chw_pause() }
    }

    @_noLocks private func endModify() {
        modifying.store(0, ordering: .sequentiallyConsistent)
        modifyLock.unlock()
    }

    @_noLocks private func leave() { inside.wrappingSubtract(1, ordering: .sequentiallyConsistent) }

    /// A write is posted: it tells nothing of a card that has left or sleeps. A read behind it does, and comes back only when
    /// the write has reached the card. It is a read of BAR0: for another BAR its place is looked at too.
    @_noLocks private func leaveAfterWrite(_ bar: Int) -> RegisterFault {
        let number = UInt32(truncatingIfNeeded: bar)
        guard presence < windows[0].byteCount else {
            leave()
            return verify(number)
        }
        let value = windows[0].load32(presence)
        leave()
        if value == .max || value == 0 {
            let fault = verify(value == 0 ? RegisterDoubt.presence : 0)
            guard fault == .none else { return fault }
        }
        return bar == 0 ? .none : verify(RegisterDoubt.placeAlone &+ number)
    }

    /// Whether the card is there, for somebody who waits for it.
    @_noLocks public func look() -> RegisterFault {
        guard enter() else { return absence() }
        return leaveAfterWrite(0)
    }

    @_noLocks private func absence() -> RegisterFault {
        access.load(ordering: .acquiring) == Access.gone ? .gone : .notInD0
    }

    @_noLocks private func verify(_ subject: UInt32) -> RegisterFault {
        RegisterFault(rawValue: UInt8(truncatingIfNeeded: chw_ask_about(doubt, doubtContext, subject))) ?? .gone
    }

    // MARK: What the device does

    mutating func setWindow(_ bar: Int, _ window: RegisterWindow) { windows[bar] = window }

    func open() { access.store(Access.on, ordering: .sequentiallyConsistent) }

    /// Refuses new accesses and waits for those under way, each of which takes one bus access.
    func close(gone: Bool) {
        access.store(gone ? Access.gone : Access.off, ordering: .sequentiallyConsistent)
        while inside.load(ordering: .sequentiallyConsistent) != 0 { chw_pause() }
    }
}

extension AccessWidth {
    /// The width of an access of `byteCount` bytes; nil if no single access moves that many.
    @_noLocks public init?(natural byteCount: Int) {
        switch byteCount {
        case 1: self = .byte
        case 2: self = .word
        case 4: self = .long
        case 8: self = .quad
        default: return nil
        }
    }
}
