import CHardware
import PCIBus

/// What a thread may do now (IRQL): the higher the level, the less may be waited for.
///
/// In user space nothing masks interrupts, so a level is a promise: it belongs to the calling thread, is raised for the
/// length of a closure, and routines refuse to run where a Windows driver would stop the machine.
public enum ExecutionLevel: UInt8, Comparable, CaseIterable, Sendable {
    /// An ordinary thread: may wait, allocate, touch memory that can be paged out.
    case passive = 0
    /// As passive, with asynchronous calls held off.
    case apc = 1
    /// Deferred calls and whoever holds an adapter: must not wait, must not touch paged memory.
    case dispatch = 2
    /// Interrupt service routines.
    case device = 3

    /// The lower level of two.
    @_noLocks public static func < (left: ExecutionLevel, right: ExecutionLevel) -> Bool {
        left.rawValue < right.rawValue
    }

    /// The level of the calling thread (KeGetCurrentIrql).
    public static var current: ExecutionLevel { ExecutionLevel(rawValue: chw_level()) ?? .passive }

    /// Runs a closure at this level, which must not be below the present one (KeRaiseIrql, then KeLowerIrql).
    public func run<Result, Failure: Error>(
        _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let before = enter()
        defer { ExecutionLevel.leave(to: before) }
        return try body()
    }

    /// Raises the calling thread to this level and answers the level to go back to. For the data path, where no closure can
    /// be passed. A level below the present one is a defect of the caller.
    @_noLocks public func enter() -> UInt8 {
        let before = chw_level()
        precondition(rawValue >= before)
        chw_set_level(rawValue)
        return before
    }

    /// Goes back to the level that ``enter()`` answered (KeLowerIrql).
    @_noLocks public static func leave(to level: UInt8) { chw_set_level(level) }

    /// As Windows writes it.
    public var name: String {
        switch self {
        case .passive: "PASSIVE_LEVEL"
        case .apc: "APC_LEVEL"
        case .dispatch: "DISPATCH_LEVEL"
        case .device: "DIRQL"
        }
    }
}

/// A routine of the driver model and the levels at which it may be called: the IRQL line of its reference page.
public struct LevelRule: Sendable {
    /// The routine's name in the Windows documentation.
    public let routine: String
    /// Where it may be called.
    public let levels: ClosedRange<ExecutionLevel>

    init(_ routine: String, _ levels: ClosedRange<ExecutionLevel>) {
        self.routine = routine
        self.levels = levels
    }

    /// Throws ``Status/invalidDeviceState`` when the calling thread is at another level.
    public func check() throws(StatusError) {
        let current = ExecutionLevel.current
        guard !levels.contains(current) else { return }
        let allowed =
            levels.lowerBound == levels.upperBound
            ? levels.lowerBound.name : "at most \(levels.upperBound.name)"
        throw StatusError(
            .invalidDeviceState,
            "\(routine) was called at \(current.name); it is for \(allowed)",
            misuse: levels == .dispatch ... .dispatch ? .levelNotDispatch : .levelTooHigh
        )
    }
}

extension LevelRule {
    // PASSIVE_LEVEL only.
    static let getDMAAdapter = LevelRule("IoGetDmaAdapter", .passive ... .passive)
    static let allocateCommonBuffer = LevelRule("AllocateCommonBuffer", .passive ... .passive)
    static let freeCommonBuffer = LevelRule("FreeCommonBuffer", .passive ... .passive)
    static let createEnabler = LevelRule("WdfDmaEnablerCreate", .passive ... .passive)
    // DISPATCH_LEVEL only.
    static let allocateAdapterChannel = LevelRule("AllocateAdapterChannel", .dispatch ... .dispatch)
    static let freeAdapterChannel = LevelRule("FreeAdapterChannel", .dispatch ... .dispatch)
    static let freeMapRegisters = LevelRule("FreeMapRegisters", .dispatch ... .dispatch)
    static let getScatterGatherList = LevelRule("GetScatterGatherList", .dispatch ... .dispatch)
    static let putScatterGatherList = LevelRule("PutScatterGatherList", .dispatch ... .dispatch)
    // At most DISPATCH_LEVEL.
    static let mapTransfer = LevelRule("MapTransfer", .passive ... .dispatch)
    static let flushAdapterBuffers = LevelRule("FlushAdapterBuffers", .passive ... .dispatch)
    static let readDMACounter = LevelRule("ReadDmaCounter", .passive ... .dispatch)
    static let putDMAAdapter = LevelRule("PutDmaAdapter", .passive ... .dispatch)
    static let allocateMDL = LevelRule("IoAllocateMdl", .passive ... .dispatch)
    static let buildForNonPagedPool = LevelRule("MmBuildMdlForNonPagedPool", .passive ... .dispatch)
    static let unlockPages = LevelRule("MmUnlockPages", .passive ... .dispatch)
    static let systemAddress = LevelRule("MmGetSystemAddressForMdlSafe", .passive ... .dispatch)
    static let allocateContiguous = LevelRule("MmAllocateContiguousMemorySpecifyCache", .passive ... .dispatch)
    static let allocateNonPagedPool = LevelRule("ExAllocatePoolWithTag(NonPagedPool)", .passive ... .dispatch)
    static let executeTransaction = LevelRule("WdfDmaTransactionExecute", .passive ... .dispatch)
    static let completeTransfer = LevelRule("WdfDmaTransactionDmaCompleted", .passive ... .dispatch)
    static let completeTransaction = LevelRule("WdfDmaTransactionDmaCompletedFinal", .passive ... .dispatch)
    // At most APC_LEVEL: what may touch memory that is paged out.
    static let allocateNonCached = LevelRule("MmAllocateNonCachedMemory", .passive ... .apc)
    static let allocatePagedPool = LevelRule("ExAllocatePoolWithTag(PagedPool)", .passive ... .apc)
    static let probeAndLockPages = LevelRule("MmProbeAndLockPages", .passive ... .apc)
}
