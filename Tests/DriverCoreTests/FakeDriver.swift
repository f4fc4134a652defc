import CHardware
import DriverCore
import PCIBus

/// A driver that writes down which callback came, and fails where the function it drives says so.
class FakeDriver: CardDriver {
    class var name: String { "fake" }
    class func matches(_ identity: PCIIdentity) -> Bool { identity.vendor == 0x1234 && identity.device == 0x5678 }
    class var registerMap: RegisterMap {
        RegisterMap(
            registers: [
                RegisterDescription("owned", at: 8, isDriverOwned: true, "the driver's"),
                RegisterDescription("free", at: 16, "anybody's"),
            ],
            window: 0..<4096,
            protectedBARs: [2]
        )
    }
    class var dmaDescription: DeviceDescription? {
        DeviceDescription(addressWidth: 32, scatterGather: true, maximumLength: 1 << 20, alignment: 4)
    }

    unowned let device: Device
    let function: FakeFunction

    required init(device: Device) throws(StatusError) {
        self.device = device
        function = device.function as! FakeFunction
        function.trace.add("add")
        try step("add")
    }

    private func step(_ name: String) throws(StatusError) {
        if function.failing.contains("driver \(name)") { throw StatusError(.unsuccessful, "\(name) failed") }
    }

    func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
        function.trace.add("prepareHardware")
        for bar in function.baseAddressRegisters { _ = try device.mapBAR(bar.index) }
        _ = try device.adapter?.allocateCommonBuffer(byteCount: 8192)
        try step("prepareHardware")
    }

    func releaseHardware() { function.trace.add("releaseHardware") }

    func d0Entry() throws(StatusError) {
        function.trace.add("d0Entry")
        try step("d0Entry")
    }

    func d0Exit() { function.trace.add("d0Exit") }

    func interruptsEnabled() throws(StatusError) {
        function.trace.add("interruptsEnabled")
        try step("interruptsEnabled")
    }

    func enableInterrupts() { function.trace.add("enableInterrupts") }
    func disableInterrupts() { function.trace.add("disableInterrupts") }
    func queryStop(_ cancellation: Cancellation) throws(StatusError) {
        function.trace.add("queryStop")
        try step("queryStop")
    }
    func cancelStop() { function.trace.add("cancelStop") }
    func surpriseRemoval() { function.trace.add("surpriseRemoval") }
    func flushIO() { function.trace.add("flushIO \(device.departure)") }
    func interruptsDisabling() { function.trace.add("interruptsDisabling") }
    func startIO() { function.trace.add("startIO") }
    func suspendIO() { function.trace.add("suspendIO") }
    var entryPoints: chw_entry_points? { nil }
    var dma: (any DMAControl)? { nil }
}

/// A driver for another card.
final class OtherDriver: FakeDriver {
    override class var name: String { "other" }
    override class func matches(_ identity: PCIIdentity) -> Bool { identity.vendor == 0x4321 }
}

/// A driver for a card without DMA.
final class RegisterDriver: FakeDriver {
    override class var name: String { "registers" }
    override class var dmaDescription: DeviceDescription? { nil }
}

/// A device on a fake function, with little memory.
func makeDevice(
    _ function: FakeFunction,
    drivers: [any CardDriver.Type] = [FakeDriver.self],
    reloadTimeout: UInt64 = 200_000_000,
    interrupts: InterruptKind? = nil,
    clock: Clock = .monotonic()
) throws(StatusError) -> Device {
    var policy = TransferPolicy()
    policy.reloadTimeout = reloadTimeout
    policy.interrupts = interrupts
    var capacity = Device.Capacity()
    capacity.requests = 4
    capacity.receiveBuffers = 1
    capacity.systemBuffers = 1
    return try Device(
        function: function,
        drivers: drivers,
        clock: clock,
        policy: policy,
        capacity: capacity,
        completionContext: UnsafeMutableRawPointer(bitPattern: 8)!,
        completion: { _, _ in }
    )
}

/// The status a call throws; success if it throws nothing.
func status(_ body: () throws(StatusError) -> Void) -> Status {
    do throws(StatusError) { try body() } catch { return error.status }
    return .success
}

/// Waits until a condition holds, at most a minute: the machine may be busy.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 60_000_000_000
    while !condition() {
        if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
        sched_yield()
    }
    return true
}
