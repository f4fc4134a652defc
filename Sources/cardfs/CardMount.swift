import CardDrivers
import CardFS
import DriverCore
import Glibc
import Logging
import PCIBus
import SimulatedCard
import VFIOBus

/// Opens a simulated card and prepares its mount.
@Sendable func openSimulatedCard(
    card: CardName,
    mountpoint: String,
    options: MountOptions,
    wakeLatency: WakeLatency?,
    logger: Logger
) throws -> any MountService {
    let clock = Clock.monotonic()
    var configuration = SimulatedBus.Configuration(receiverMemory: options.receiverByteCount, clock: clock)
    configuration.addressBits = options.simulatedAddressBits
    configuration.scatterGather = options.simulatedScatterGather
    configuration.mapRegisters = options.simulatedMapRegisters
    configuration.holdsAddresses = true
    let bus = SimulatedBus(configuration)
    let function: any PCIFunction
    do throws(BusError) {
        if let address = options.address {
            function = try bus.open(address)
        } else {
            function = try bus.openAnywhere()
        }
    } catch {
        let isTaken = error.code == EBUSY && options.address != nil
        throw Refusal(
            error.sentence,
            hint: isTaken ? "without the option address it gets the next free one" : ProcessLimit.advice(error.code),
            kind: Refusal.Kind(errno: error.code)
        )
    }
    return try CardMount(
        function: function,
        name: "sim",
        mountpoint: mountpoint,
        options: options,
        clock: clock,
        logger: logger,
        wakeLatency: wakeLatency
    )
}

/// Opens a PCI function of this machine through VFIO and prepares its mount.
@Sendable func openPhysicalCard(
    card: CardName,
    mountpoint: String,
    options: MountOptions,
    wakeLatency: WakeLatency?,
    logger: Logger
) throws -> any MountService {
    guard case .pci(let address) = card else { throw Refusal("\(card) is no PCI function") }
    guard options.address == nil else {
        throw Refusal(
            "the option address places a simulated card, and \(address) has its place",
            hint: "cardfs mount \(address) \(mountpoint)",
            kind: .usage
        )
    }
    let function: any PCIFunction
    do throws(BusError) {
        function = try VFIOBus().open(address)
    } catch {
        throw Refusal(
            error.sentence,
            hint: ProcessLimit.advice(error.code) ?? "cardfs doctor \(address) shows all that is missing",
            kind: Refusal.Kind(errno: error.code, otherwise: .unavailable)
        )
    }
    return try CardMount(
        function: function,
        name: address.description,
        mountpoint: mountpoint,
        options: options,
        clock: Clock.monotonic(),
        logger: logger,
        wakeLatency: wakeLatency
    )
}

/// A card of any bus with its file system and its session.
final class CardMount: MountService {
    /// The drivers, the most particular first; the last takes every card.
    static var drivers: [any CardDriver.Type] { [SpaceWireDriver.self, EduDriver.self, GenericDriver.self] }

    private let fileSystem: CardFileSystem
    private let session: Session
    private let mountpoint: String

    /// Prepares everything up to the start of the card.
    init(
        function: any PCIFunction,
        name: String,
        mountpoint: String,
        options: MountOptions,
        clock: Clock,
        logger: Logger,
        wakeLatency: WakeLatency?
    ) throws {
        self.mountpoint = mountpoint
        fileSystem = try CardFileSystem(
            function: function,
            drivers: Self.drivers,
            options: options,
            clock: clock,
            logger: logger,
            wakeLatency: wakeLatency
        )
        session = try Session(fileSystem, name: name)
    }

    func serve(ready: () -> Void) throws -> CInt {
        defer {
            fileSystem.close()
            session.sweep()
        }
        try fileSystem.start()
        try session.mount(at: mountpoint)
        try session.start()
        ready()
        session.waitUntilEnded()
        return 0
    }

    func end() { session.end() }
}
