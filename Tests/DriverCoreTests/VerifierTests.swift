import CHardware
import PCIBus
import Testing

@testable import DriverCore

/// Every misuse the verifier knows, done on purpose: it is refused, told with its code, and told only while somebody checks.
@Suite struct VerifierTests {
    private final class DeviceObject {}

    /// Runs something that is wrong, and whatever it throws.
    private func attempt(_ body: () throws(StatusError) -> Void) { try? body() }

    /// Registers kept for a test.
    private func base(_ fixture: PacketFixture, _ count: Int) throws -> MapRegisterBase {
        let bases = Collected<MapRegisterBase>()
        _ = atDispatch {
            fixture.adapter.allocateAdapterChannel(mapRegisters: count, for: DMARequester(fixture)) { base in
                if let base { bases.add(base) }
                return .deallocateObjectKeepRegisters
            }
        }
        return try #require(bases.all.first)
    }

    private func provokeRegisters(_ misuse: Misuse, _ fixture: PacketFixture) throws {
        let adapter = fixture.adapter
        let memory = fixture.memory(8 * 4096)
        let mdl = try fixture.mdl(memory, 8 * 4096)
        let base = try base(fixture, 2)
        var length = 4096
        func map(at offset: Int = 0) throws {
            _ = try adapter.mapTransfer(
                mdl,
                base: base,
                at: mdl.virtualAddress.advanced(by: offset),
                length: &length,
                direction: .fromDevice
            )
        }
        func flush(_ byteCount: Int, _ base: MapRegisterBase?, at offset: Int = 0) {
            attempt { () throws(StatusError) in
                try adapter.flushAdapterBuffers(
                    mdl,
                    base: base,
                    at: mdl.virtualAddress.advanced(by: offset),
                    length: byteCount
                )
            }
        }
        switch misuse {
        case .flushPastRegisters: flush(3 * 4096, base, at: 4 * 4096)
        case .outOfRegisters:
            length = 3 * 4096
            try? map()
        case .registersFreedTwice:
            for _ in 0..<2 {
                attempt { () throws(StatusError) in
                    try atDispatch { () throws(StatusError) in try adapter.freeMapRegisters(base) }
                }
            }
        case .registersFreedWhileMapped:
            try map()
            attempt { () throws(StatusError) in
                try atDispatch { () throws(StatusError) in try adapter.freeMapRegisters(base) }
            }
        case .overrun:
            try map(at: 100)
            // The card writes a byte too many.
            let registers = try #require(adapter.mapRegisters)
            registers.memory(base).storeBytes(of: 7, toByteOffset: 100 + 4096, as: UInt8.self)
            flush(4096, base, at: 100)
        case .flushOfUnmappedRegisters: flush(4096, base)
        case .flushOfUnmappedBuffer: flush(4096, nil)
        case .alreadyMapped:
            try map()
            try? map()
        case .addressNotInMDL: try? map(at: 9 * 4096)
        case .rangePastMDL:
            length = 9 * 4096
            try? map()
        case .zeroLength:
            length = 0
            try? map()
        case .notAligned: try? map(at: 2)
        case .notLocked:
            let unlocked = try MDL(virtualAddress: VirtualAddress(memory), byteCount: 4096)
            _ = try? adapter.mapTransfer(
                unlocked,
                base: base,
                at: unlocked.virtualAddress,
                length: &length,
                direction: .toDevice
            )
        default: Issue.record("\(misuse) is none of these")
        }
    }

    private func provokeChannel(_ misuse: Misuse, _ fixture: PacketFixture) throws {
        let adapter = fixture.adapter
        let requester = DMARequester(fixture)
        func ask(_ count: Int, _ action: AllocationAction) {
            _ = atDispatch {
                adapter.allocateAdapterChannel(mapRegisters: count, for: requester) { _ in action }
            }
        }
        func free() {
            attempt { () throws(StatusError) in
                try atDispatch { () throws(StatusError) in try adapter.freeAdapterChannel() }
            }
        }
        switch misuse {
        case .channelFreedTwice:
            ask(1, .keepObject)
            for _ in 0..<2 { free() }
        case .secondChannel:
            ask(1, .keepObject)
            for _ in 0..<2 { ask(1, .deallocateObject) }
        case .tooManyRegisters: ask(100, .deallocateObject)
        case .levelNotDispatch:
            _ = adapter.allocateAdapterChannel(mapRegisters: 1, for: requester) { _ in .deallocateObject }
        case .notFlushed:
            let mdl = try fixture.mdl(fixture.memory(4096), 4096)
            let adapters = Collected<DMAAdapter>()
            adapters.add(adapter)
            let address = mdl.virtualAddress
            nonisolated(unsafe) let list = mdl
            _ = atDispatch {
                adapter.allocateAdapterChannel(mapRegisters: 1, for: requester) { base in
                    var length = 4096
                    _ = try? adapters.all[0].mapTransfer(
                        list,
                        base: base,
                        at: address,
                        length: &length,
                        direction: .toDevice
                    )
                    return .keepObject
                }
            }
            free()
        default: Issue.record("\(misuse) is none of these")
        }
    }

    private func provokeAdapter(_ misuse: Misuse, _ fixture: PacketFixture) throws {
        let adapter = fixture.adapter
        func put() { attempt { () throws(StatusError) in try adapter.put() } }
        let lists = Collected<MappedScatterGatherList>()
        func list(_ byteCount: Int, offset: Int = 0) throws -> Status {
            let mdl = try fixture.mdl(fixture.memory(20 * 4096), 20 * 4096)
            return atDispatch {
                adapter.getScatterGatherList(mdl, from: offset, byteCount: byteCount, .toDevice) { lists.add($0) }
            }
        }
        func putList(_ adapter: DMAAdapter) {
            attempt { () throws(StatusError) in
                try atDispatch { () throws(StatusError) in try adapter.putScatterGatherList(lists.all[0]) }
            }
        }
        switch misuse {
        case .commonBufferFreedTwice:
            let buffer = try adapter.allocateCommonBuffer(byteCount: 4096)
            for _ in 0..<2 { attempt { () throws(StatusError) in try adapter.freeCommonBuffer(buffer) } }
        case .adapterPutWithCommonBuffers:
            _ = try adapter.allocateCommonBuffer(byteCount: 4096)
            put()
        case .adapterPutWithChannel:
            _ = atDispatch {
                adapter.allocateAdapterChannel(mapRegisters: 1, for: DMARequester(fixture)) { _ in .keepObject }
            }
            put()
        case .adapterPutWithRegisters:
            _ = try base(fixture, 1)
            put()
        case .adapterPutWithLists:
            #expect(try list(4096) == .success)
            put()
        case .adapterPutTwice: for _ in 0..<2 { put() }
        case .adapterGone:
            put()
            _ = try? adapter.allocateCommonBuffer(byteCount: 4096)
        case .listFreedTwice:
            #expect(try list(4096) == .success)
            for _ in 0..<2 { putList(adapter) }
        case .tooManyRegistersForList: _ = try list(10 * 4096)
        case .wrongHandle:
            #expect(try list(4096) == .success)
            putList(try PacketFixture(registers: 1).adapter)
        case .bufferTooSmall:
            #expect(try list(4096) == .success)
            let table = try adapter.allocateCommonBuffer(byteCount: 4)
            attempt { () throws(StatusError) in try lists.all[0].write(into: table, stride: 8) { _, _, _ in } }
        case .levelTooHigh:
            attempt { () throws(StatusError) in
                try atDispatch { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 4096) }
            }
        case .transactionState:
            let transaction = DMATransaction(try DMAEnabler(adapter))
            attempt { () throws(StatusError) in try transaction.execute() }
        default: Issue.record("\(misuse) is none of these")
        }
    }

    private func provokeRequest(_ misuse: Misuse) {
        let rig = PoolRig()
        let record = rig.pool.pointee.allocate(.read, flags: [], length: 10)!
        switch misuse {
        case .informationTooLarge:
            IORequest(taking: record, of: rig.pool).complete(.success, information: 11)
            #expect(rig.ended.first?.status == .internalError && rig.ended.first?.information == 0)
        case .completedWhileQueued:
            var list = RequestList()
            list.append(record)
            IORequest(taking: record, of: rig.pool).complete(.success)
            list.remove(record)
        case .requestDropped: _ = IORequest(taking: record, of: rig.pool)
        default: Issue.record("\(misuse) is none of these")
        }
    }

    private func provoke(_ misuse: Misuse) throws {
        // As much as the card transfers fits into four registers and one more.
        let fixture = try PacketFixture(registers: 5, scatterGather: false, maximumLength: 4 * 4096, alignment: 4)
        switch misuse {
        case .flushPastRegisters, .outOfRegisters, .registersFreedTwice, .registersFreedWhileMapped, .overrun,
            .flushOfUnmappedRegisters, .flushOfUnmappedBuffer, .alreadyMapped, .addressNotInMDL, .rangePastMDL,
            .zeroLength, .notAligned, .notLocked:
            try provokeRegisters(misuse, fixture)
        case .channelFreedTwice, .secondChannel, .tooManyRegisters, .levelNotDispatch, .notFlushed:
            try provokeChannel(misuse, fixture)
        case .informationTooLarge, .completedWhileQueued, .requestDropped: provokeRequest(misuse)
        case .levelNotRestored:
            let level = UnsafeMutableRawPointer(bitPattern: 8)!
            DeferredThread.perform({ _ in ExecutionLevel.leave(to: ExecutionLevel.passive.rawValue) }, level)
        case .iommuFault: Verifier.report(.iommuFault, "the card met an address that is not mapped")
        default: try provokeAdapter(misuse, fixture)
        }
    }

    @Test(arguments: Misuse.allCases.filter { $0.ruledOut == nil })
    func `each misuse is found by its code`(misuse: Misuse) throws {
        let verifier = Verifier()
        let told = Collected<Misuse>()
        verifier.start { told.add($0.misuse) }
        try Verifier.$scoped.withValue(verifier) { try provoke(misuse) }
        #expect(told.all.contains(misuse))
        let finding = try #require(verifier.findings.first { $0.misuse == misuse })
        #expect(finding.count >= 1 && !finding.sentence.isEmpty)
    }

    @Test func `what the compiler rules out says how`() {
        let ruledOut = Misuse.allCases.filter { $0.ruledOut != nil }
        #expect(ruledOut == [.noAdapter, .noSystemAddress, .flushOfUnfinishedChannel, .unknownVersion, .noParameter])
    }

    /// Bug check, first parameter and, where the documentation tells cases apart, which of them: as Windows documents
    /// DRIVER_VERIFIER_DMA_VIOLATION and WDF_VIOLATION.
    static let codes: [Misuse: String] = [
        .flushPastRegisters: "0xE6/0x00/1", .outOfRegisters: "0xE6/0x00/2", .commonBufferFreedTwice: "0xE6/0x03",
        .channelFreedTwice: "0xE6/0x04", .registersFreedTwice: "0xE6/0x05", .listFreedTwice: "0xE6/0x06",
        .adapterPutWithCommonBuffers: "0xE6/0x07", .adapterPutWithChannel: "0xE6/0x08",
        .adapterPutWithRegisters: "0xE6/0x09", .adapterPutWithLists: "0xE6/0x0A", .secondChannel: "0xE6/0x0B",
        .tooManyRegisters: "0xE6/0x0C", .notFlushed: "0xE6/0x0D", .notLocked: "0xE6/0x0E", .overrun: "0xE6/0x0F",
        .registersFreedWhileMapped: "0xE6/0x10", .adapterPutTwice: "0xE6/0x11", .levelTooHigh: "0xE6/0x13",
        .levelNotDispatch: "0xE6/0x14", .tooManyRegistersForList: "0xE6/0x15", .flushOfUnmappedBuffer: "0xE6/0x16",
        .adapterGone: "0xE6/0x18", .noAdapter: "0xE6/0x19", .addressNotInMDL: "0xE6/0x1B",
        .alreadyMapped: "0xE6/0x1D", .rangePastMDL: "0xE6/0x1F/3", .notAligned: "0xE6/0x1F/4",
        .flushOfUnmappedRegisters: "0xE6/0x20", .zeroLength: "0xE6/0x21", .noSystemAddress: "0xE6/0x22",
        .flushOfUnfinishedChannel: "0xE6/0x23", .bufferTooSmall: "0xE6/0x24", .unknownVersion: "0xE6/0x25",
        .iommuFault: "0xE6/0x26", .completedWhileQueued: "0x10D/0x03", .noParameter: "0x10D/0x04",
        .wrongHandle: "0x10D/0x05", .informationTooLarge: "0x10D/0x06/4", .transactionState: "0x10D/0x08",
        .requestDropped: "0x10D/0x0A", .levelNotRestored: "0x10D/0x0E",
    ]

    @Test(arguments: Misuse.allCases) func `each misuse has the code of the documentation`(misuse: Misuse) {
        #expect(misuse.codeText == Self.codes[misuse])
    }

    @Test func `nothing is noted while it is off`() throws {
        let verifier = Verifier()
        try Verifier.$scoped.withValue(verifier) { try provoke(.zeroLength) }
        #expect(verifier.findings.isEmpty && !verifier.isRunning)
        verifier.start()
        try Verifier.$scoped.withValue(verifier) { try provoke(.zeroLength) }
        verifier.stop()
        try Verifier.$scoped.withValue(verifier) { try provoke(.notLocked) }
        #expect(verifier.findings.map(\.misuse) == [.zeroLength])
    }

    @Test func `right use is not found fault with`() throws {
        let verifier = Verifier()
        verifier.start()
        try Verifier.$scoped.withValue(verifier) {
            let fixture = try PacketFixture(registers: 5, scatterGather: false, maximumLength: 4 * 4096, alignment: 4)
            let mdl = try fixture.mdl(fixture.memory(4 * 4096), 4 * 4096)
            let base = try base(fixture, 4)
            var length = 3 * 4096
            let start = mdl.virtualAddress.advanced(by: 100)
            let address = try fixture.adapter.mapTransfer(
                mdl,
                base: base,
                at: start,
                length: &length,
                direction: .fromDevice
            )
            memset(fixture.card(address), 0x55, length)
            try fixture.adapter.flushAdapterBuffers(mdl, base: base, at: start, length: length)
            try atDispatch { () throws(StatusError) in try fixture.adapter.freeMapRegisters(base) }
            try fixture.adapter.put()
        }
        #expect(verifier.findings.isEmpty)
    }
}
