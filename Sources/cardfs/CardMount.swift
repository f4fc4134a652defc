import CardDrivers
import CardFS
import DriverCore
import Logging
import PCIBus
import SimulatedCard

/// Opens a simulated card and prepares its mount.
@Sendable func openSimulatedCard(
    card: CardName,
    mountpoint: String,
    options: MountOptions,
    logger: Logger
) throws -> any MountService {
    let clock = Clock.monotonic()
    let bus = SimulatedBus(SimulatedBus.Configuration(receiverMemory: options.receiverByteCount, clock: clock))
    let address = options.address ?? PCIAddress(bus: 1, device: 0, function: 0)
    let function: any PCIFunction
    do {
        function = try bus.open(address)
    } catch {
        throw Refusal(error.sentence)
    }
    return try CardMount(
        function: function,
        name: "sim",
        mountpoint: mountpoint,
        options: options,
        clock: clock,
        logger: logger
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
        logger: Logger
    ) throws {
        self.mountpoint = mountpoint
        fileSystem = try CardFileSystem(
            function: function,
            drivers: Self.drivers,
            options: options,
            clock: clock,
            logger: logger
        )
        session = try Session(fileSystem, name: name)
    }

    func serve(ready: () -> Void) throws -> CInt {
        defer { fileSystem.close() }
        try fileSystem.start()
        try session.mount(at: mountpoint)
        session.start()
        ready()
        session.waitUntilEnded()
        return 0
    }

    func end() { session.end() }
}
