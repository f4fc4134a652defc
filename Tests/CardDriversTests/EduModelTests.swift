import PCIBus
import Testing

/// That the model is the device it stands for.
@Suite final class EduModelTests {
    private let clock = Clock.stepped()

    deinit { clock.destroy() }

    private func model(_ version: EduModel.Version = .old) throws -> EduModel {
        let model = EduModel(version, clock: clock)
        try model.changeCommand(set: [.memorySpace, .busMaster])
        return model
    }

    private func transfer(
        _ model: EduModel,
        _ source: UInt64,
        _ destination: UInt64,
        _ count: UInt64,
        _ command: UInt64
    ) {
        model.store(0x80, 8, source)
        model.store(0x88, 8, destination)
        model.store(0x90, 8, count)
        model.store(0x98, 8, command)
        clock.advance(byNanoseconds: 100_000_000)
        model.tick()
    }

    @Test func `identification, liveness, factorial`() throws {
        let model = try model()
        #expect(model.load(0, 4) == 0x0100_00ed)
        model.store(4, 4, 0x1234_5678)
        #expect(model.load(4, 4) == 0xedcb_a987)
        model.store(8, 4, 13)
        model.store(8, 4, 5)
        #expect(model.load(0x20, 4) & 1 == 1)
        model.tick()
        #expect(model.load(8, 4) == 0x7328_cc00 && model.load(0x20, 4) & 1 == 0)
    }

    @Test(
        arguments: [
            (0x00, 8, UInt64.max), (0x00, 2, 0), (0x00, 1, 0), (0x0c, 4, 0xffff_ffff), (0x40000, 4, 0xffff_ffff),
            (0x60, 4, 0xffff_ffff), (0x80, 4, 0), (0x80, 8, 0),
        ] as [(UInt64, UInt32, UInt64)]
    )
    func `an access finds what the original answers`(offset: UInt64, width: UInt32, value: UInt64) throws {
        #expect(try model().load(offset, width) == value)
    }

    @Test func `a transfer takes 100 ms, during which its registers keep what they have`() throws {
        let model = try model()
        model.store(0x90, 4, 16)
        model.store(0x98, 4, 0x4)
        #expect(model.load(0x98, 4) == 0)
        model.store(0x88, 4, EduModel.bufferAddress)
        model.store(0x98, 4, 0x5)
        model.store(0x90, 4, 32)
        clock.advance(byNanoseconds: 99_000_000)
        model.tick()
        #expect(model.load(0x98, 4) == 5 && model.load(0x90, 4) == 16)
        clock.advance(byNanoseconds: 1_000_000)
        model.tick()
        #expect(model.load(0x98, 4) == 4 && model.load(0x24, 4) == 0x100)
    }

    @Test func `with bus mastering off it ends as if it had moved something`() throws {
        let model = try model()
        let memory = try model.allocateMemory(byteCount: 4096)
        try model.mapDMA(memory.base, byteCount: 4096, at: LogicalAddress(0x1000), access: [.read, .write])
        memory.base.storeBytes(of: 0x11, as: UInt8.self)
        try model.changeCommand(clear: .busMaster)
        transfer(model, 0x1000, EduModel.bufferAddress, 1, 5)
        #expect(model.contents(1) == [0xee] && model.load(0x24, 4) == 0x100)
        try model.changeCommand(set: .busMaster)
        transfer(model, 0x1000, EduModel.bufferAddress, 1, 5)
        #expect(model.contents(1) == [0x11])
    }

    @Test(
        arguments: [
            (EduModel.Version.old, 4095, true), (.old, 4096, false), (.old, 0, false), (.later, 4096, true),
            (.later, 4097, false), (.newest, 4096, true), (.newest, 4097, false),
        ] as [(EduModel.Version, UInt64, Bool)]
    )
    func `a transfer beyond the buffer is what the version makes of it`(
        version: EduModel.Version,
        count: UInt64,
        isHarmless: Bool
    ) throws {
        let model = try model(version)
        let memory = try model.allocateMemory(byteCount: 8192)
        try model.mapDMA(memory.base, byteCount: 8192, at: LogicalAddress(0), access: [.read, .write])
        transfer(model, 0, EduModel.bufferAddress, count, 1)
        #expect(model.seen.violations.isEmpty == isHarmless)
        #expect(model.isBeyondIntact == (isHarmless || version != .newest))
    }

    @Test func `an address of more than 28 bits is cut`() throws {
        let model = try model()
        transfer(model, 1 << 28, EduModel.bufferAddress, 16, 1)
        #expect(model.seen.clamped == 1 && model.seen.untranslated == 16)
    }
}
