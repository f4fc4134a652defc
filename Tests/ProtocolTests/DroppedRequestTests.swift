import CFuse
import CHardware
import CardDrivers
import DriverCore
import Glibc
import PCIBus
import Testing

/// A driver of the SpaceWire card that lets go of every request without an answer.
private final class ForgetfulDriver: CardDriver {
    static var name: String { "forgetful" }
    static func matches(_ identity: PCIIdentity) -> Bool { SpaceWireDriver.matches(identity) }
    static var registerMap: RegisterMap { SpaceWireDriver.registerMap }
    static var dmaDescription: DeviceDescription? { SpaceWireDriver.dmaDescription }
    static func dmaDescription(of function: any PCIFunction) -> DeviceDescription? {
        SpaceWireDriver.dmaDescription(of: function)
    }

    private let driver: SpaceWireDriver
    private unowned let device: Device

    init(device: Device) throws(StatusError) {
        self.device = device
        driver = try SpaceWireDriver(device: device)
    }

    func prepareHardware(_ resources: ResourceLists) throws(StatusError) { try driver.prepareHardware(resources) }
    func releaseHardware() { driver.releaseHardware() }
    func d0Entry() throws(StatusError) { try driver.d0Entry() }
    func d0Exit() { driver.d0Exit() }
    func enableInterrupts() { driver.enableInterrupts() }
    func disableInterrupts() { driver.disableInterrupts() }
    func interruptsEnabled() throws(StatusError) { try driver.interruptsEnabled() }
    func interruptsDisabling() { driver.interruptsDisabling() }
    func startIO() { driver.startIO() }
    func suspendIO() { driver.suspendIO() }
    var dma: (any DMAControl)? { driver.dma }

    var entryPoints: chw_entry_points? {
        chw_entry_points(
            context: Unmanaged.passUnretained(self).toOpaque(),
            submit: { context, request in
                let driver = Unmanaged<ForgetfulDriver>.fromOpaque(context).takeUnretainedValue()
                let record = request.assumingMemoryBound(to: RequestRecord.self)
                _ = IORequest(taking: record, of: driver.device.pool)
            },
            withdraw: { _, _ in },
            readiness: { _, _ in 0 }
        )
    }
}

@Suite struct DroppedRequestTests {
    @Test func `a request the driver lets go of answers EIO, is counted, and gives everything back`() throws {
        let kernel = try FakeKernel(driver: ForgetfulDriver.self)
        _ = try kernel.initialize()
        let tx = try kernel.open("dma/tx", O_WRONLY)
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let buffers = try kernel.metric("free_receive_buffers")
        #expect(try kernel.metric("requests_dropped_total") == 0)
        #expect(try kernel.write(tx, pattern(100)) == -Int(EIO))
        #expect(try kernel.write(tx, pattern(100_000)) == -Int(EIO))
        #expect(try kernel.read(rx, 100).error == EIO)
        #expect(try kernel.reply(kernel.sync(tx)).error == EIO)
        #expect(try kernel.metric("requests_dropped_total") == 4)
        #expect(try kernel.metric("requests_in_flight") == 0 && kernel.metric("free_receive_buffers") == buffers)
        #expect(try kernel.text("last_error").contains(" dma/tx EIO the driver dropped the request"))
    }
}
