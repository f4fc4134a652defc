import CHardware
import PCIBus
import Synchronization
import Testing

@testable import DriverCore

/// A channel that writes down its orders and whose counter a test moves.
final class FakeChannel: @unchecked Sendable {  // used by one thread at a time
    let trace = Trace()
    var counter: UInt32 = 0

    var channel: SlaveDMAChannel {
        SlaveDMAChannel(
            context: Unmanaged.passUnretained(self).toOpaque(),
            counter: { Unmanaged<FakeChannel>.fromOpaque($0).takeUnretainedValue().counter },
            order: { context, address, count, mode in
                let fake = Unmanaged<FakeChannel>.fromOpaque(context).takeUnretainedValue()
                fake.trace.add(count == 0 ? "mask" : "load \(String(address, radix: 16)) \(count) \(mode)")
                if count > 0 { fake.counter = count }
            }
        )
    }
}

@Suite struct SystemDMATests {
    private let fixture: PacketFixture
    private let fake = FakeChannel()
    private let adapter: SystemDMAAdapter
    private let common: CommonBuffer

    init() throws {
        fixture = try PacketFixture()
        adapter = SystemDMAAdapter(channel: fake.channel, adapter: fixture.adapter)
        common = try fixture.adapter.allocateCommonBuffer(byteCount: 8192)
    }

    private func allocate(_ action: AllocationAction = .keepObject) -> Status {
        atDispatch { adapter.allocateAdapterChannel { action } }
    }

    private func map(_ mdl: MDL) -> Status {
        status { () throws(StatusError) in try adapter.mapTransfer(mdl, direction: .toDevice) }
    }

    private func counter() -> Status { status { () throws(StatusError) in _ = try adapter.readDMACounter() } }
    private func flush() -> Status { status { () throws(StatusError) in try adapter.flushAdapterBuffers() } }
    private func free() -> Status {
        atDispatch { status { () throws(StatusError) in try adapter.freeAdapterChannel() } }
    }

    @Test func `the calls come in one order, and the buffer is mapped once and gone round for ever`() throws {
        let mdl = try fixture.mdl(common.base, 8192)
        #expect(allocate() == .success && adapter.state == .owned)
        #expect(map(mdl) == .success && adapter.state == .mapped)
        for left in [8192, 5000, 1, 8192, 100] {
            fake.counter = UInt32(left)
            #expect(try adapter.readDMACounter() == left)
        }
        #expect(flush() == .success && adapter.state == .flushed)
        #expect(free() == .success && adapter.state == .free)
        #expect(fake.trace.all == ["load \(String(common.logicalAddress.value, radix: 16)) 8192 3", "mask"])
    }

    @Test func `each call out of its turn is refused, and changes nothing`() throws {
        let mdl = try fixture.mdl(common.base, 8192)
        func expect(_ state: SystemDMAAdapter.State, _ allowed: String) {
            let before = fake.trace.all.count
            if allowed != "map" { #expect(map(mdl) == .invalidDeviceState) }
            if allowed != "flush" {
                #expect(flush() == .invalidDeviceState)
                #expect(counter() == .invalidDeviceState)
            }
            if allowed != "free", state != .owned { #expect(free() == .invalidDeviceState) }
            #expect(adapter.state == state && fake.trace.all.count == before)
        }
        expect(.free, "")
        #expect(allocate() == .success)
        expect(.owned, "map")
        #expect(map(mdl) == .success)
        expect(.mapped, "flush")
        #expect(flush() == .success)
        expect(.flushed, "free")
        #expect(free() == .success)
        expect(.free, "")
    }

    @Test func `a routine that does not keep the channel loses it at once`() throws {
        for action in [AllocationAction.deallocateObject, .deallocateObjectKeepRegisters] {
            #expect(allocate(action) == .success && adapter.state == .free)
        }
    }

    @Test func `who asks for a channel that is held waits, first come first served`() throws {
        let order = Trace()
        for name in ["first", "second", "third"] {
            let status = atDispatch {
                adapter.allocateAdapterChannel {
                    order.add(name)
                    return .keepObject
                }
            }
            #expect(status == .success)
        }
        #expect(order.all == ["first"])
        #expect(free() == .success && order.all == ["first", "second"])
        #expect(free() == .success && order.all == ["first", "second", "third"])
    }

    @Test(arguments: [(16 << 20, Status.success), (16 << 20 + 1, .invalidParameter), (32 << 20, .invalidParameter)])
    func `a slave channel goes round at most 16 MiB`(byteCount: Int, expected: Status) throws {
        let large = try fixture.adapter.allocateCommonBuffer(byteCount: byteCount)
        #expect(allocate() == .success)
        #expect(map(try fixture.mdl(large.base, byteCount)) == expected)
        #expect(adapter.state == (expected.isSuccess ? .mapped : .owned))
        #expect(fake.trace.all.count == (expected.isSuccess ? 1 : 0))
        if expected.isSuccess { #expect(flush() == .success) }
        #expect(free() == .success)
    }

    @Test func `only a common buffer is mapped, and only at the right levels`() throws {
        #expect(adapter.allocateAdapterChannel { .keepObject } == .invalidDeviceState && adapter.state == .free)
        #expect(allocate() == .success)
        #expect(map(try fixture.mdl(fixture.memory(100), 100)) == .invalidParameter)
        let unlocked = try MDL(virtualAddress: VirtualAddress(common.base), byteCount: 100)
        #expect(map(unlocked) == .invalidDeviceState)
        let mdl = try fixture.mdl(common.base, 100)
        #expect(ExecutionLevel.device.run { map(mdl) } == .invalidDeviceState)
        #expect(adapter.state == .owned && map(mdl) == .success)
        #expect(ExecutionLevel.device.run { counter() } == .invalidDeviceState)
        #expect(ExecutionLevel.device.run { flush() } == .invalidDeviceState)
        #expect(flush() == .success)
        #expect(status { () throws(StatusError) in try adapter.freeAdapterChannel() } == .invalidDeviceState)
        #expect(free() == .success && free() == .invalidDeviceState)
    }
}
