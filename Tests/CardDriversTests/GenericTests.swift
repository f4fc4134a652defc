import CardDrivers
import DriverCore
import PCIBus
import Testing

/// The generic driver, on a card whose registers it does not know: an edu.
@Suite(.timeLimit(.minutes(2))) final class GenericTests {
    private let clock = Clock.stepped()

    deinit { clock.destroy() }

    private func device(_ model: EduModel, interrupts: InterruptKind? = nil) throws -> Device {
        var policy = TransferPolicy()
        policy.interrupts = interrupts
        var capacity = Device.Capacity()
        capacity.requests = 4
        capacity.receiveBuffers = 1
        capacity.systemBuffers = 1
        let device = try Device(
            function: model,
            drivers: [SpaceWireDriver.self, GenericDriver.self],
            clock: clock,
            policy: policy,
            capacity: capacity,
            completionContext: UnsafeMutableRawPointer(bitPattern: 8)!,
            completion: { _, _ in }
        )
        try device.start()
        return device
    }

    private func count(_ device: Device) -> UInt64 { device.interrupt.pointee.log.totalCount }

    @Test func `it takes what no other driver does, and shows all of BAR0`() throws {
        let device = try device(EduModel(clock: clock))
        defer { device.close() }
        #expect(
            device.driverName == "generic" && device.dma == nil && device.entryPoints == nil && device.adapter == nil
        )
        #expect(device.registerMap.window == 0..<(1 << 20) && device.registerMap.registers.isEmpty)
        var value: UInt64 = 0
        #expect(device.registers.pointee.read(bar: 0, offset: 0, width: .long, into: &value) == .none)
        #expect(value == 0x0100_00ed)
    }

    @Test(arguments: [nil, BaseAddressRegister.Kind.io])
    func `a function without memory behind BAR0 starts all the same`(kind: BaseAddressRegister.Kind?) throws {
        let model = EduModel(clock: clock)
        model.baseAddressRegisters = (kind.map { [$0] } ?? []).map {
            BaseAddressRegister(
                index: 0,
                kind: $0,
                isPrefetchable: false,
                address: PhysicalAddress(0xc000),
                byteCount: 32
            )
        }
        let device = try device(model)
        defer { device.close() }
        #expect(device.state == (.started, .d0) && device.registerMap.window.isEmpty)
    }

    @Test func `messages need bus mastering, which is on while the card works, and nothing is mapped for it`() throws {
        let model = EduModel(clock: clock)
        let device = try device(model)
        defer { device.close() }
        #expect(model.command & 4 != 0)
        model.store(0x60, 4, 1)
        model.store(0x60, 4, 1)
        #expect(count(device) == 2)
        try device.stop()
        #expect(model.command & 4 == 0)
    }

    @Test func `a level that nobody lowers is counted once, switched off, and let through again when it is low`() throws
    {
        let model = EduModel(clock: clock)
        let device = try device(model, interrupts: .intx)
        defer { device.close() }
        #expect(model.command & 4 == 0)
        model.store(0x60, 4, 1)
        #expect(count(device) == 1 && model.command & 0x400 != 0 && !model.seen.isStorming)
        // Looked at, found high, and left alone.
        clock.advance(byNanoseconds: 10_000_000)
        device.deferred.pointee.clockMoved()
        #expect(model.command & 0x400 != 0)
        model.store(0x64, 4, 1)
        let isOpenAgain = eventually {
            clock.advance(byNanoseconds: 1_000_000)
            device.deferred.pointee.clockMoved()
            return model.command & 0x400 == 0
        }
        #expect(isOpenAgain && count(device) == 1)
        model.store(0x60, 4, 2)
        #expect(count(device) == 2)
        model.store(0x64, 4, 2)
    }

    @Test func `a level of another card on the same line is not counted`() throws {
        let model = EduModel(clock: clock)
        let device = try device(model, interrupts: .intx)
        defer { device.close() }
        model.interruptLikeANeighbour()
        #expect(count(device) == 0 && model.command & 0x400 == 0)
    }
}
