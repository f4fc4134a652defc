import CHardware
import PCIBus
import Testing

@testable import DriverCore

/// Each routine of the driver model is called at each level: it is carried out where the IRQL line of its reference page lets
/// it be called, and refused by its name everywhere else.
@Suite struct RoutineLevelTests {
    /// What the routines are called with.
    final class Kit {
        let fixture: PacketFixture
        let memory = SystemMemory()
        let tag = PoolTag("Test")!
        let channel = FakeChannel()
        let lists = Collected<MappedScatterGatherList>()
        let bases = Collected<MapRegisterBase>()

        init() throws {
            fixture = try PacketFixture(registers: 8, scatterGather: false, maximumLength: 4 * Page.size)
        }

        var adapter: DMAAdapter { fixture.adapter }

        /// Resident memory the card reaches through map registers only.
        func mdl() throws -> MDL { try fixture.mdl(fixture.memory(Page.size), Page.size) }

        /// The channel or registers, as an AdapterControl routine keeps them.
        func base(_ action: AllocationAction) throws -> MapRegisterBase {
            _ = atDispatch {
                adapter.allocateAdapterChannel(mapRegisters: 2, for: DMARequester(fixture)) { [bases] base in
                    if let base { bases.add(base) }
                    return action
                }
            }
            return try #require(bases.all.last)
        }

        /// A channel of system DMA that is held, and a buffer for it.
        func system(isMapped: Bool = false) throws -> (adapter: SystemDMAAdapter, mdl: MDL) {
            let system = SystemDMAAdapter(channel: channel.channel, adapter: adapter)
            let common = try adapter.allocateCommonBuffer(byteCount: Page.size)
            let mdl = try fixture.mdl(common.base, Page.size)
            #expect(atDispatch { system.allocateAdapterChannel { .keepObject } } == .success)
            if isMapped { try system.mapTransfer(mdl, direction: .toDevice) }
            return (system, mdl)
        }

        /// A transaction whose transfer the card makes.
        func transaction(isExecuted: Bool) throws -> DMATransaction {
            let transaction = DMATransaction(try DMAEnabler(adapter))
            try transaction.initialize(try mdl(), byteCount: Page.size, .toDevice) { _, _ in }
            if isExecuted { try transaction.execute() }
            return transaction
        }

        func list() throws -> MappedScatterGatherList {
            let mdl = try mdl()
            #expect(
                atDispatch {
                    adapter.getScatterGatherList(mdl, byteCount: Page.size, .toDevice) { [lists] in lists.add($0) }
                } == .success
            )
            return try #require(lists.all.last)
        }
    }

    /// What is to be called at a level, once everything it needs is there.
    typealias Call = () throws(StatusError) -> Void

    struct Routine: Sendable, CustomTestStringConvertible {
        /// As Windows documents it.
        var name: String
        var levels: Set<ExecutionLevel>
        /// Which of ours it is, where there are several.
        var part: String
        /// Makes what is needed, at passive level, and answers the call.
        var prepare: @Sendable (Kit) throws -> Call
        var testDescription: String { part.isEmpty ? name : "\(name), \(part)" }

        init(
            _ name: String,
            _ levels: Set<ExecutionLevel>,
            _ part: String = "",
            _ prepare: @escaping @Sendable (Kit) throws -> Call
        ) {
            (self.name, self.levels, self.part, self.prepare) = (name, levels, part, prepare)
        }
    }

    private static let passive: Set<ExecutionLevel> = [.passive]
    private static let upToAPC: Set<ExecutionLevel> = [.passive, .apc]
    private static let upToDispatch: Set<ExecutionLevel> = [.passive, .apc, .dispatch]
    private static let dispatch: Set<ExecutionLevel> = [.dispatch]

    /// A status that says failure, thrown.
    private static func demand(_ status: Status) throws(StatusError) {
        if !status.isSuccess { throw StatusError(status, "") }
    }

    static let adapterRoutines = [
        Routine("IoGetDmaAdapter", passive) { kit in
            { () throws(StatusError) in
                _ = try DMAAdapter(
                    function: kit.fixture.function,
                    description: DeviceDescription(
                        addressWidth: 32,
                        scatterGather: true,
                        maximumLength: Page.size,
                        alignment: 1
                    )
                )
            }
        },
        Routine("PutDmaAdapter", upToDispatch) { kit in { () throws(StatusError) in try kit.adapter.put() } },
        Routine("AllocateCommonBuffer", passive) { kit in
            { () throws(StatusError) in _ = try kit.adapter.allocateCommonBuffer(byteCount: 1) }
        },
        Routine("FreeCommonBuffer", passive) { kit in
            let buffer = try kit.adapter.allocateCommonBuffer(byteCount: 1)
            return { () throws(StatusError) in try kit.adapter.freeCommonBuffer(buffer) }
        },
        Routine("MmAllocateContiguousMemorySpecifyCache", upToDispatch) { kit in
            { () throws(StatusError) in
                _ = try kit.adapter.allocateContiguousMemory(byteCount: 1, highest: LogicalAddress(0xff_ffff))
            }
        },
        Routine("AllocateAdapterChannel", dispatch) { kit in
            { () throws(StatusError) in
                try demand(
                    kit.adapter.allocateAdapterChannel(mapRegisters: 1, for: DMARequester(kit)) { _ in
                        .deallocateObject
                    }
                )
            }
        },
        Routine("FreeAdapterChannel", dispatch) { kit in
            _ = try kit.base(.keepObject)
            return { () throws(StatusError) in try kit.adapter.freeAdapterChannel() }
        },
        Routine("FreeMapRegisters", dispatch) { kit in
            let base = try kit.base(.deallocateObjectKeepRegisters)
            return { () throws(StatusError) in try kit.adapter.freeMapRegisters(base) }
        },
        Routine("MapTransfer", upToDispatch) { kit in
            let base = try kit.base(.keepObject)
            let mdl = try kit.mdl()
            return { () throws(StatusError) in
                var length = Page.size
                _ = try kit.adapter.mapTransfer(
                    mdl,
                    base: base,
                    at: mdl.virtualAddress,
                    length: &length,
                    direction: .toDevice
                )
            }
        },
        Routine("FlushAdapterBuffers", upToDispatch) { kit in
            let base = try kit.base(.keepObject)
            let mdl = try kit.mdl()
            let start = mdl.virtualAddress
            var length = Page.size
            _ = try kit.adapter.mapTransfer(mdl, base: base, at: start, length: &length, direction: .toDevice)
            return { () throws(StatusError) in
                try kit.adapter.flushAdapterBuffers(mdl, base: base, at: start, length: Page.size)
            }
        },
        Routine("GetScatterGatherList", dispatch) { kit in
            let mdl = try kit.mdl()
            return { () throws(StatusError) in
                try demand(kit.adapter.getScatterGatherList(mdl, byteCount: Page.size, .toDevice) { _ in })
            }
        },
        Routine("PutScatterGatherList", dispatch) { kit in
            let list = try kit.list()
            return { () throws(StatusError) in try kit.adapter.putScatterGatherList(list) }
        },
    ]

    static let systemRoutines = [
        Routine("AllocateAdapterChannel", dispatch, "system DMA") { kit in
            let system = SystemDMAAdapter(channel: kit.channel.channel, adapter: kit.adapter)
            return { () throws(StatusError) in try demand(system.allocateAdapterChannel { .keepObject }) }
        },
        Routine("FreeAdapterChannel", dispatch, "system DMA") { kit in
            let system = try kit.system().adapter
            return { () throws(StatusError) in try system.freeAdapterChannel() }
        },
        Routine("MapTransfer", upToDispatch, "system DMA") { kit in
            let (system, mdl) = try kit.system()
            return { () throws(StatusError) in try system.mapTransfer(mdl, direction: .toDevice) }
        },
        Routine("ReadDmaCounter", upToDispatch) { kit in
            let system = try kit.system(isMapped: true).adapter
            return { () throws(StatusError) in _ = try system.readDMACounter() }
        },
        Routine("FlushAdapterBuffers", upToDispatch, "system DMA") { kit in
            let system = try kit.system(isMapped: true).adapter
            return { () throws(StatusError) in try system.flushAdapterBuffers() }
        },
    ]

    static let memoryRoutines = [
        Routine("ExAllocatePoolWithTag", upToDispatch, "non-paged") { kit in
            { () throws(StatusError) in _ = try kit.memory.allocatePool(1, .nonPaged, tag: kit.tag) }
        },
        Routine("ExAllocatePoolWithTag", upToAPC, "paged") { kit in
            { () throws(StatusError) in _ = try kit.memory.allocatePool(1, .paged, tag: kit.tag) }
        },
        Routine("MmAllocateNonCachedMemory", upToAPC) { kit in
            { () throws(StatusError) in _ = try kit.memory.allocateNonCached(1) }
        },
        Routine("IoAllocateMdl", upToDispatch) { kit in
            let address = VirtualAddress(kit.fixture.memory(1))
            return { () throws(StatusError) in _ = try MDL(virtualAddress: address, byteCount: 1) }
        },
        Routine("MmBuildMdlForNonPagedPool", upToDispatch) { kit in
            let mdl = try MDL(virtualAddress: VirtualAddress(kit.fixture.memory(1)), byteCount: 1)
            return { () throws(StatusError) in try mdl.buildForNonPagedPool() }
        },
        Routine("MmProbeAndLockPages", upToAPC) { kit in
            let mdl = try MDL(virtualAddress: VirtualAddress(kit.fixture.memory(1)), byteCount: 1)
            return { () throws(StatusError) in try mdl.probeAndLockPages(.read) }
        },
        Routine("MmUnlockPages", upToDispatch) { kit in
            let mdl = try MDL(virtualAddress: VirtualAddress(kit.fixture.memory(1)), byteCount: 1)
            try mdl.probeAndLockPages(.read)
            return { () throws(StatusError) in try mdl.unlockPages() }
        },
        Routine("MmGetSystemAddressForMdlSafe", upToDispatch) { kit in
            let mdl = try kit.mdl()
            return { () throws(StatusError) in _ = try mdl.systemAddress() }
        },
    ]

    static let transactionRoutines = [
        Routine("WdfDmaEnablerCreate", passive) { kit in
            { () throws(StatusError) in _ = try DMAEnabler(kit.adapter) }
        },
        Routine("WdfDmaTransactionExecute", upToDispatch) { kit in
            let transaction = try kit.transaction(isExecuted: false)
            return { () throws(StatusError) in try transaction.execute() }
        },
        Routine("WdfDmaTransactionDmaCompleted", upToDispatch) { kit in
            let transaction = try kit.transaction(isExecuted: true)
            return { () throws(StatusError) in _ = try transaction.dmaCompleted() }
        },
        Routine("WdfDmaTransactionDmaCompletedFinal", upToDispatch) { kit in
            let transaction = try kit.transaction(isExecuted: true)
            return { () throws(StatusError) in _ = try transaction.dmaCompletedFinal(length: 1) }
        },
    ]

    @Test(arguments: adapterRoutines + systemRoutines + memoryRoutines + transactionRoutines, ExecutionLevel.allCases)
    func `each routine is carried out at its levels, and refused by its name at the others`(
        routine: Routine,
        level: ExecutionLevel
    ) throws {
        let kit = try Kit()
        let call = try routine.prepare(kit)
        let verifier = Verifier()
        verifier.start()
        let ended = Verifier.$scoped.withValue(verifier) { level.run { status(call) } }
        guard !routine.levels.contains(level) else {
            #expect(ended == .success && verifier.findings.isEmpty)
            return
        }
        #expect(ended == .invalidDeviceState)
        let finding = try #require(verifier.findings.first)
        #expect(finding.misuse == (routine.levels == [.dispatch] ? .levelNotDispatch : .levelTooHigh))
        // The name ends there: one routine's may be the beginning of another's.
        #expect(finding.sentence.hasPrefix(routine.name + " ") || finding.sentence.hasPrefix(routine.name + "("))
        #expect(verifier.findings.count == 1 && ExecutionLevel.current == .passive)
    }

    @Test(arguments: [ExecutionLevel.passive, .apc, .dispatch])
    func `an adapter that is put away at any of its levels leaves no memory behind`(level: ExecutionLevel) throws {
        let fixture = try PacketFixture(registers: 8, scatterGather: false, maximumLength: 4 * Page.size)
        #expect(!fixture.function.memories.isEmpty && !fixture.function.mappings.isEmpty)
        #expect(level.run { status { () throws(StatusError) in try fixture.adapter.put() } } == .success)
        #expect(fixture.function.memories.isEmpty && fixture.function.mappings.isEmpty)
    }

    @Test func `a routine that is refused has done nothing`() throws {
        let kit = try Kit()
        let base = try kit.base(.keepObject)
        let buffer = try kit.adapter.allocateCommonBuffer(byteCount: 1)
        let free = try #require(kit.adapter.mapRegisters).freeCount
        let count = kit.adapter.statistics(.commonBuffer).count
        for level in [ExecutionLevel.passive, .apc, .device] {
            level.run {
                #expect(
                    status { () throws(StatusError) in try kit.adapter.freeAdapterChannel() } == .invalidDeviceState
                )
            }
        }
        ExecutionLevel.apc.run {
            #expect(
                status { () throws(StatusError) in try kit.adapter.freeCommonBuffer(buffer) } == .invalidDeviceState
            )
        }
        #expect(kit.adapter.channel.isBusy && kit.adapter.mapRegisters?.freeCount == free)
        #expect(kit.adapter.statistics(.commonBuffer).count == count)
        try atDispatch { () throws(StatusError) in try kit.adapter.freeAdapterChannel() }
        #expect(kit.adapter.mapRegisters?.freeCount == free + base.count)
        try kit.adapter.freeCommonBuffer(buffer)
    }
}
