import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct ScatterGatherTests {
    private func get(
        _ fixture: PacketFixture,
        _ mdl: MDL,
        from offset: Int = 0,
        byteCount: Int? = nil,
        _ direction: TransferPlan.Direction,
        _ lists: Collected<MappedScatterGatherList>
    ) -> Status {
        atDispatch {
            fixture.adapter.getScatterGatherList(
                mdl,
                from: offset,
                byteCount: byteCount ?? mdl.chain.reduce(0) { $0 + $1.byteCount },
                direction
            ) {
                #expect(ExecutionLevel.current == .dispatch)
                lists.add($0)
            }
        }
    }

    @Test(arguments: [
        (0, 5000, [4096, 904]), (0xf00, 5000, [256, 4096, 648]), (0xfff, 1, [1]), (0xfff, 2, [1, 1]),
        (1, 4096, [4095, 1]), (0, 4096, [4096]), (16, 4 * 4096 - 16, [4080, 4096, 4096, 4096]),
    ])
    func `each register maps a piece of one page, and the card sees one run`(offset: Int, byteCount: Int, pieces: [Int])
        throws
    {
        for scatterGather in [true, false] {
            let fixture = try PacketFixture(registers: 4, width: 24, scatterGather: scatterGather)
            let memory = fixture.memory(16 * 4096)
            let lists = Collected<MappedScatterGatherList>()
            let mdl = try fixture.mdl(memory + offset, byteCount)
            #expect(fixture.adapter.mapRegistersNeeded(mdl, from: 0, byteCount: byteCount) == pieces.count)
            #expect(get(fixture, mdl, .toDevice, lists) == .success)
            let list = try #require(lists.all.first)
            #expect(list.mapRegisters.map(\.byteCount) == pieces && list.mapRegisterCount == pieces.count)
            #expect(list.elements.count == 1 && list.byteCount == byteCount && list.bouncedBytes == byteCount)
            #expect(list.elements[0].address.value % 4096 == UInt64(offset))
            #expect(fixture.read(list) == contents(memory + offset, byteCount))
            #expect(fixture.adapter.mapRegisters?.freeCount == 4 - pieces.count)
            try atDispatch { () throws(StatusError) in try fixture.adapter.putScatterGatherList(list) }
            #expect(fixture.adapter.mapRegisters?.freeCount == 4)
            #expect(
                atDispatch { status { () throws(StatusError) in try fixture.adapter.putScatterGatherList(list) } }
                    == .invalidParameter
            )
        }
    }

    @Test(arguments: [nil, 5000, 100, 0, 9999] as [Int?])
    func `what the card wrote reaches the buffer when the list is put back, and no more of it`(done: Int?) throws {
        let fixture = try PacketFixture(registers: 3)
        let memory = fixture.memory(16 * 4096)
        let before = contents(memory, 16 * 4096)
        let lists = Collected<MappedScatterGatherList>()
        #expect(get(fixture, try fixture.mdl(memory + 0xf00, 5000), .fromDevice, lists) == .success)
        fixture.write([UInt8](repeating: 0xee, count: 5000), lists.all[0])
        #expect(contents(memory, 16 * 4096) == before)
        try atDispatch { () throws(StatusError) in
            try fixture.adapter.putScatterGatherList(lists.all[0], transferred: done)
        }
        let count = min(done ?? 5000, 5000)
        var expected = before
        expected.replaceSubrange(0xf00..<0xf00 + count, with: repeatElement(0xee, count: count))
        #expect(contents(memory, 16 * 4096) == expected)
    }

    @Test func `memory in a common buffer uses no register, and the rest of a buffer does`() throws {
        let fixture = try PacketFixture(registers: 2)
        let common = try fixture.adapter.allocateCommonBuffer(byteCount: 65536)
        let lists = Collected<MappedScatterGatherList>()
        #expect(get(fixture, try fixture.mdl(common.base + 5, 60000), .toDevice, lists) == .success)
        #expect(lists.all[0].elements == [.init(address: common.logicalAddress.advanced(by: 5), byteCount: 60000)])
        #expect(lists.all[0].mapRegisterCount == 0 && lists.all[0].bouncedBytes == 0)
        // A chain of memory inside and outside.
        let outside = fixture.memory(5000)
        let chain = try fixture.mdl(common.base + 100, 200)
        try chain.append(fixture.mdl(outside, 5000))
        #expect(get(fixture, chain, .toDevice, lists) == .success)
        #expect(lists.all[1].elements.map(\.byteCount) == [200, 5000] && lists.all[1].bouncedBytes == 5000)
        #expect(fixture.read(lists.all[1]) == contents(common.base + 100, 200) + contents(outside, 5000))
        for list in lists.all {
            try atDispatch { () throws(StatusError) in try fixture.adapter.putScatterGatherList(list) }
        }
    }

    @Test func `a card without scatter/gather sees one run even of a chain`() throws {
        let fixture = try PacketFixture(registers: 4, scatterGather: false)
        let memory = fixture.memory(4 * 4096)
        let chain = try fixture.mdl(memory + 0xff0, 100)
        try chain.append(fixture.mdl(memory + 5000, 1))
        try chain.append(fixture.mdl(memory + 6000, 4500))
        let lists = Collected<MappedScatterGatherList>()
        #expect(get(fixture, chain, .toDevice, lists) == .success)
        #expect(lists.all[0].elements.count == 1)
        let expected = contents(memory + 0xff0, 100) + contents(memory + 5000, 1) + contents(memory + 6000, 4500)
        #expect(fixture.read(lists.all[0]) == expected)
        try atDispatch { () throws(StatusError) in try fixture.adapter.putScatterGatherList(lists.all[0]) }
        #expect(get(fixture, chain, from: 50, byteCount: 4000, .fromDevice, lists) == .success)
        let new = (0..<4000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        fixture.write(new, lists.all[1])
        try atDispatch { () throws(StatusError) in
            try fixture.adapter.putScatterGatherList(lists.all[1], transferred: 3999)
        }
        let now = contents(memory + 0xff0 + 50, 50) + contents(memory + 5000, 1) + contents(memory + 6000, 3949)
        #expect(Array(now[..<3999]) == Array(new[..<3999]) && now[3999] == expected[4049])
    }

    @Test func `a list goes into a table in a common buffer, or says that it does not fit`() throws {
        let fixture = try PacketFixture(width: 64, translation: .identity)
        let table = try fixture.adapter.allocateCommonBuffer(byteCount: 48)
        let memory = fixture.memory(4 * 4096)
        let lists = Collected<MappedScatterGatherList>()
        let frames: [UInt64] = [9, 3, 5, 6]
        #expect(get(fixture, try fixture.mdl(memory, 4 * 4096, frames: frames), .toDevice, lists) == .success)
        try lists.all[0].write(into: table, stride: 16) { element, place, isLast in
            place.storeBytes(of: element.address.value, as: UInt64.self)
            place.storeBytes(of: UInt32(element.byteCount), toByteOffset: 8, as: UInt32.self)
            place.storeBytes(of: isLast ? 1 : 0, toByteOffset: 12, as: UInt32.self)
        }
        let words = (0..<6).map { table.base.load(fromByteOffset: 8 * $0, as: UInt64.self) }
        #expect(words == [9 << 12, 4096, 3 << 12, 4096, 5 << 12, 8192 | 1 << 32])
        #expect(
            status { () throws(StatusError) in
                try lists.all[0].write(into: table, stride: 17) { _, _, _ in Issue.record("nothing may be written") }
            } == .bufferTooSmall
        )
        try atDispatch { () throws(StatusError) in try fixture.adapter.putScatterGatherList(lists.all[0]) }
    }

    @Test func `what cannot be mapped is refused, and never called`() throws {
        let fixture = try PacketFixture(registers: 2)
        let memory = fixture.memory(4 * 4096)
        let lists = Collected<MappedScatterGatherList>()
        let mdl = try fixture.mdl(memory + 1, 8192)
        for (offset, count, expected) in [
            (0, 0, Status.invalidParameter), (0, -1, .invalidParameter), (1, 8192, .invalidParameter),
            (-1, 8, .invalidParameter), (0, 8192, .insufficientResources),
        ] {
            #expect(get(fixture, mdl, from: offset, byteCount: count, .toDevice, lists) == expected)
        }
        #expect(
            fixture.adapter.getScatterGatherList(mdl, byteCount: 1, .toDevice) { lists.add($0) } == .invalidDeviceState
        )
        let unlocked = try MDL(virtualAddress: VirtualAddress(memory), byteCount: 100)
        #expect(get(fixture, unlocked, .toDevice, lists) == .invalidDeviceState)
        #expect(
            lists.all.isEmpty && fixture.adapter.mapRegisters?.freeCount == 2 && fixture.adapter.channel.listCount == 0
        )
        #expect(get(fixture, mdl, byteCount: 8191, .toDevice, lists) == .success && lists.all.count == 1)
    }

    @Test func `lists wait for registers in the order they came, and take their bytes when their turn comes`() throws {
        let fixture = try PacketFixture(registers: 1)
        let memory = fixture.memory(3 * 4096)
        let lists = Collected<MappedScatterGatherList>()
        for page in 0..<3 {
            #expect(get(fixture, try fixture.mdl(memory + page * 4096, 100), .toDevice, lists) == .success)
        }
        #expect(lists.all.count == 1 && fixture.adapter.mapRegisters?.waitingCount == 2)
        memset(memory + 4096, 0x77, 100)
        for page in 0..<3 {
            #expect(lists.all.count == page + 1)
            #expect(fixture.read(lists.all[page]) == contents(memory + page * 4096, 100))
            try atDispatch { () throws(StatusError) in try fixture.adapter.putScatterGatherList(lists.all[page]) }
        }
    }
}
