public import CHardware
public import DriverCore
import Glibc
import PCIBus

/// Drives QEMU's `edu` device, a card for learning: registers, a factorial, interrupts, and a buffer of 4096 bytes that a
/// transfer engine fills and empties.
///
/// The device does not protect itself: it would copy past its buffer, and it tells of no transfer that moved nothing. Both is
/// this driver's care; see `EduChannel`.
public final class EduDriver: CardDriver {
    /// For people.
    public static let name = "QEMU edu"

    /// 1234:11e8.
    public static func matches(_ identity: PCIIdentity) -> Bool {
        identity.vendor == 0x1234 && identity.device == 0x11e8
    }

    /// The registers of docs/specs/edu; `bar0` and `offset` reach all of BAR0.
    public static var registerMap: RegisterMap {
        RegisterMap(
            registers: [
                .init(
                    "id",
                    at: EduLayout.identification,
                    isWritable: false,
                    "identification, 0xRRrr00ed with the version in front"
                ),
                .init("liveness", at: EduLayout.liveness, "reads back the inverse of what is written"),
                .init("factorial", at: EduLayout.factorial, "n written becomes n! modulo 2^32"),
                .init("status", at: EduLayout.status, "bit 0 computing, bit 7 interrupt when a factorial is done"),
                .init("irq_status", at: EduLayout.interruptStatus, isWritable: false, "causes not acknowledged"),
                .init("irq_raise", at: EduLayout.raise, "sets causes, which interrupts"),
                .init("irq_ack", at: EduLayout.acknowledge, "clears causes; the driver does it for all"),
                .init("dma_source", at: EduLayout.source, isDriverOwned: true, "where a transfer reads"),
                .init("dma_destination", at: EduLayout.destination, isDriverOwned: true, "where it writes"),
                .init("dma_count", at: EduLayout.count, isDriverOwned: true, "its bytes"),
                .init(
                    "dma_command",
                    at: EduLayout.command,
                    isDriverOwned: true,
                    "bit 0 start, 1 from the card, 2 interrupt"
                ),
            ],
            window: 0..<(1 << 20),
            protectedBARs: [],
            presence: EduLayout.identification
        )
    }

    /// 28-bit addresses, one run, at most what the buffer holds.
    public static var dmaDescription: DeviceDescription? {
        DeviceDescription(
            addressWidth: EduLayout.addressWidth,
            scatterGather: false,
            maximumLength: EduLayout.bufferByteCount,
            alignment: 1
        )
    }

    // The device owns this driver and ends it first.
    unowned let device: Device
    let port: EduPort
    private let portAddress: UnsafeMutablePointer<EduPort>
    private let signals: UnsafeMutablePointer<EduSignals>
    private var window = RegisterWindow.none

    /// Makes the channel and its deferred call.
    public init(device: Device) throws(StatusError) {
        self.device = device
        port = EduPort(pool: device.pool)
        portAddress = .allocate(capacity: 1)
        portAddress.initialize(to: port)
        signals = .allocate(capacity: 1)
        signals.initialize(to: EduSignals(deferred: device.deferred))
        let context = Unmanaged.passUnretained(self).toOpaque()
        signals.pointee.call = device.deferred.pointee.register(context: context) { context in
            Unmanaged<EduDriver>.fromOpaque(context).takeUnretainedValue().runDeferred()
        }
        device.interrupt.pointee.setServiceRoutine(context: UnsafeMutableRawPointer(signals)) { context, _ in
            serveEdu(context)
        }
    }

    deinit {
        portAddress.deinitialize(count: 1)
        portAddress.deallocate()
        port.destroy()
        signals.deinitialize(count: 1)
        signals.deallocate()
    }

    /// Maps BAR0 and takes the common buffer.
    public func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
        guard let bar0 = resources.memory(bar: 0), bar0.length >= EduLayout.registerByteCount else {
            throw StatusError(
                .deviceConfigurationError,
                "BAR0 of \(device.function.address) is missing or smaller than an edu's registers"
            )
        }
        window = try device.mapBAR(0)
        guard let adapter = device.adapter else {
            throw StatusError(.insufficientResources, "no DMA adapter for \(device.function.address)")
        }
        let context = EduContext(
            window: window,
            buffer: try adapter.allocateCommonBuffer(byteCount: 2 * Page.size),
            arena: device.arena,
            deferred: device.deferred,
            call: signals.pointee.call,
            clock: device.clock,
            policy: device.policy
        )
        port.control { $0.attach(context) }
        signals.pointee.window = window
    }

    /// Forgets what ``prepareHardware(_:)`` got; the framework unmaps and frees it.
    public func releaseHardware() {
        port.control { $0.detach() }
        signals.pointee.window = .none
        window = .none
    }

    /// Waits for a transfer that somebody else may have left running, which moves nothing while bus mastering is off, and
    /// acknowledges old interrupts. Throws ``Status/deviceNotConnected`` when nobody answers.
    public func d0Entry() throws(StatusError) {
        let identification = window.load32(EduLayout.identification)
        guard identification & 0xff == EduLayout.identificationByte, identification != .max else {
            throw StatusError(
                .deviceNotConnected,
                "\(device.function.address) does not answer as an edu: its identification reads 0x\(hexadecimal(identification, digits: 8))"
            )
        }
        var looks = 0
        while window.load32(EduLayout.command) & EduLayout.Command.start != 0 {
            looks += 1
            guard looks < 500 else {
                throw StatusError(.ioTimeout, "the engine of \(device.function.address) runs and does not end")
            }
            usleep(1000)
        }
        window.store32(window.load32(EduLayout.interruptStatus), EduLayout.acknowledge)
    }

    /// Nothing is left to do: the engine is idle, or bus mastering is off.
    public func d0Exit() {}

    /// Nothing is left to do: the card's interrupts have no enable.
    public func interruptsEnabled() throws(StatusError) {}

    /// Nothing is left to do.
    public func interruptsDisabling() {}

    /// Lets requests through.
    public func startIO() { port.control { $0.start() } }

    /// Finishes the transfer that runs; what waits goes on waiting. What nobody has read is discarded and counted, unless the
    /// card only sleeps.
    public func suspendIO() {
        let departure = device.departure
        port.control { $0.hold() }
        if departure != .gone { waitForTransfer() }
        port.control {
            $0.abort(departure.status, departure.cause)
            if departure != .suspend { _ = $0.discard() }
        }
    }

    /// Lets the transfer that runs end; there is nothing else that a stop would lose.
    public func queryStop(_ cancellation: Cancellation) throws(StatusError) {
        port.control { $0.hold() }
        guard waitForTransfer(cancellation) else {
            if cancellation.isCancelled { throw StatusError(.cancelled, "interrupted; the card works on") }
            throw StatusError(
                .invalidDeviceState,
                "\(device.function.address) has not ended its transfer: write reset to ctl"
            )
        }
    }

    /// Lets requests through again.
    public func cancelStop() { port.control { $0.resume() } }

    /// Ends what waits, and all that comes until the card is started.
    public func flushIO() {
        let departure = device.departure
        port.control {
            $0.failAll(departure.status, departure.cause)
            _ = $0.discard()
        }
    }

    /// Waits until the transfer that runs has ended, which takes 100 ms: at most half a second, not for a card that does not
    /// answer, and no longer than it is wanted. Whether it has.
    @discardableResult
    private func waitForTransfer(_ cancellation: Cancellation = Cancellation()) -> Bool {
        for _ in 0..<500 {
            let (isOver, answers) = port.control { channel in
                _ = channel.look()
                return (channel.isQuiet, channel.answers)
            }
            if isOver || !answers || cancellation.isCancelled { return isOver }
            usleep(1000)
        }
        return false
    }

    /// The data path.
    public var entryPoints: chw_entry_points? { EduPort.table(portAddress) }

    /// The controls of the streams.
    public var dma: (any DMAControl)? { self }
}

@_noLocks private func serveEdu(_ context: UnsafeMutableRawPointer) -> Bool {
    context.assumingMemoryBound(to: EduSignals.self).pointee.serve()
}
