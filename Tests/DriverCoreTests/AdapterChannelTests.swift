import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct AdapterChannelTests {
    private final class DeviceObject {}

    @Test func `who asks for more registers than there are is refused, and never called`() throws {
        let fixture = try PacketFixture(registers: 5)
        let requester = DeviceObject()
        let called = Trace()
        for (count, expected) in [(6, Status.insufficientResources), (-1, .invalidParameter)] {
            let status = atDispatch {
                fixture.adapter.allocateAdapterChannel(mapRegisters: count, for: DMARequester(requester)) { _ in
                    called.add("called")
                    return .deallocateObject
                }
            }
            #expect(status == expected)
        }
        let passive = fixture.adapter.allocateAdapterChannel(mapRegisters: 1, for: DMARequester(requester)) { _ in
            called.add("called")
            return .deallocateObject
        }
        #expect(passive == .invalidDeviceState && called.all.isEmpty && fixture.adapter.mapRegisters?.freeCount == 5)
    }

    @Test func `each answer leaves exactly what it says`() throws {
        let fixture = try PacketFixture(registers: 5)
        let registers = try #require(fixture.adapter.mapRegisters)
        let requester = DeviceObject()
        let bases = Collected<MapRegisterBase>()
        func ask(_ action: AllocationAction) -> Status {
            atDispatch {
                fixture.adapter.allocateAdapterChannel(mapRegisters: 2, for: DMARequester(requester)) { base in
                    #expect(ExecutionLevel.current == .dispatch)
                    if let base { bases.add(base) }
                    return action
                }
            }
        }
        #expect(ask(.deallocateObject) == .success)
        #expect(registers.freeCount == 5 && !fixture.adapter.channel.isBusy)
        #expect(ask(.deallocateObjectKeepRegisters) == .success)
        #expect(registers.freeCount == 3 && !fixture.adapter.channel.isBusy)
        #expect(ask(.keepObject) == .success)
        #expect(registers.freeCount == 1 && fixture.adapter.channel.isBusy)
        try atDispatch { () throws(StatusError) in
            #expect(
                status { () throws(StatusError) in try fixture.adapter.freeMapRegisters(bases.all[2]) }
                    == .invalidParameter
            )
            try fixture.adapter.freeAdapterChannel()
            #expect(registers.freeCount == 3)
            #expect(
                status { () throws(StatusError) in try fixture.adapter.freeAdapterChannel() } == .invalidDeviceState
            )
            try fixture.adapter.freeMapRegisters(bases.all[1])
            #expect(
                status { () throws(StatusError) in try fixture.adapter.freeMapRegisters(bases.all[1]) }
                    == .invalidParameter
            )
        }
        #expect(registers.freeCount == 5)
    }

    @Test func `the channel goes to who came first, once for each device at a time`() throws {
        let fixture = try PacketFixture(registers: 4)
        let order = Trace()
        let requesters = (0..<4).map { _ in DeviceObject() }
        func ask(_ index: Int, _ count: Int, _ action: AllocationAction) -> Status {
            atDispatch {
                fixture.adapter.allocateAdapterChannel(mapRegisters: count, for: DMARequester(requesters[index])) { _ in
                    order.add("\(index)")
                    return action
                }
            }
        }
        #expect(ask(0, 1, .keepObject) == .success)
        #expect(ask(1, 4, .keepObject) == .success)
        #expect(ask(2, 0, .deallocateObject) == .success)
        #expect(ask(1, 1, .deallocateObject) == .invalidDeviceState)
        #expect(order.all == ["0"])
        try atDispatch { () throws(StatusError) in try fixture.adapter.freeAdapterChannel() }
        #expect(order.all == ["0", "1"])
        try atDispatch { () throws(StatusError) in try fixture.adapter.freeAdapterChannel() }
        #expect(order.all == ["0", "1", "2"] && !fixture.adapter.channel.isBusy)
    }

    @Test func `a routine that asks again for its own device is refused`() throws {
        let fixture = try PacketFixture(registers: 1)
        let requester = DeviceObject()
        let inner = Collected<Status>()
        _ = atDispatch {
            fixture.adapter.allocateAdapterChannel(mapRegisters: 1, for: DMARequester(requester)) {
                [adapter = fixture.adapter, id = DMARequester(requester)] _ in
                inner.add(adapter.allocateAdapterChannel(mapRegisters: 1, for: id) { _ in .deallocateObject })
                return .deallocateObject
            }
        }
        #expect(inner.all == [.invalidDeviceState])
    }

    @Test func `an adapter with anything out is not put away`() throws {
        let fixture = try PacketFixture(registers: 4)
        let adapter = fixture.adapter
        func put() -> Status { status { () throws(StatusError) in try adapter.put() } }
        let common = try adapter.allocateCommonBuffer(byteCount: 10)
        #expect(put() == .invalidDeviceState)
        try adapter.freeCommonBuffer(common)
        let requester = DeviceObject()
        let bases = Collected<MapRegisterBase>()
        for action in [AllocationAction.keepObject, .deallocateObjectKeepRegisters] {
            _ = atDispatch {
                adapter.allocateAdapterChannel(mapRegisters: 1, for: DMARequester(requester)) { base in
                    if let base { bases.add(base) }
                    return action
                }
            }
            #expect(put() == .invalidDeviceState)
            try atDispatch { () throws(StatusError) in
                if action == .keepObject {
                    try adapter.freeAdapterChannel()
                } else {
                    try adapter.freeMapRegisters(bases.all[1])
                }
            }
        }
        let lists = Collected<MappedScatterGatherList>()
        let mdl = try fixture.mdl(fixture.memory(100), 100)
        #expect(
            atDispatch { adapter.getScatterGatherList(mdl, byteCount: 100, .toDevice) { lists.add($0) } } == .success
        )
        #expect(put() == .invalidDeviceState)
        try atDispatch { () throws(StatusError) in try adapter.putScatterGatherList(lists.all[0]) }
        #expect(put() == .success && fixture.function.memories.isEmpty)
    }

    @Test func `a large common buffer is taken before the start or not at all`() throws {
        let fixture = try PacketFixture()
        _ = try fixture.adapter.allocateCommonBuffer(byteCount: 100_000)
        fixture.adapter.endAllocationPhase()
        #expect(
            status { () throws(StatusError) in _ = try fixture.adapter.allocateCommonBuffer(byteCount: 4097) }
                == .insufficientResources
        )
        _ = try fixture.adapter.allocateCommonBuffer(byteCount: 4096)
        #expect(fixture.adapter.statistics(.commonBuffer).count == 2)
        #expect(fixture.adapter.statistics(.commonBuffer).failures == 1)
        #expect(fixture.adapter.statistics(.commonBuffer).wastedBytes == 102_400 - 100_000)
        #expect(
            ExecutionLevel.dispatch.run {
                status { () throws(StatusError) in _ = try fixture.adapter.allocateCommonBuffer(byteCount: 1) }
            } == .invalidDeviceState
        )
    }

    @Test func `contiguous memory keeps to its bounds and crosses no boundary`() throws {
        let fixture = try PacketFixture()
        let adapter = fixture.adapter
        let buffer = try adapter.allocateContiguousMemory(byteCount: 10_000, highest: LogicalAddress(0xff_ffff))
        #expect(buffer.logicalAddress.value % 4096 == 0 && buffer.logicalAddress.value + 12287 <= 0xff_ffff)
        for _ in 0..<20 {
            let dma = try adapter.allocateContiguousMemory(
                byteCount: 40_000,
                lowest: LogicalAddress(0x10_0000),
                highest: LogicalAddress(0xff_ffff),
                boundary: 65536
            )
            let start = dma.logicalAddress.value
            #expect(start >= 0x10_0000 && start / 65536 == (start + 40_959) / 65536)
        }
        #expect(adapter.statistics(.contiguous).count == 21)
        for (lowest, highest, boundary, expected) in [
            (0, 0xfff, 0, Status.insufficientResources), (5, 4, 0, .invalidParameter),
            (0, 0xffffff, 3, .invalidParameter),
            (0, 0xffffff, 1024, .invalidParameter), (0, 0xffffff, 4096, .insufficientResources),
        ] as [(UInt64, UInt64, UInt64, Status)] {
            #expect(
                status { () throws(StatusError) in
                    _ = try adapter.allocateContiguousMemory(
                        byteCount: 4097,
                        lowest: LogicalAddress(lowest),
                        highest: LogicalAddress(highest),
                        boundary: boundary
                    )
                } == expected
            )
        }
        try adapter.freeCommonBuffer(buffer)
        #expect(adapter.statistics(.contiguous).count == 20)
    }
}
