import CHardware
public import PCIBus

/// A machine with as many simulated cards as are opened.
public final class SimulatedBus: PCIBus, @unchecked Sendable {  // the set of addresses is under its lock
    /// What the cards are like.
    public struct Configuration: Sendable {
        /// Bytes the far end of each link can hold in loopback. Rounded up to pages; costs what is used.
        public var receiverMemory: Int
        /// Address lines the card drives, 24…32: what lies above is out of its reach.
        public var addressBits = 32
        /// Whether its transmitter takes a packet from several runs of addresses.
        public var scatterGather = true
        /// The most map registers the machine grants a driver; nil for as many as it wants.
        public var mapRegisters: Int?
        /// The most bytes of a packet that the card's register for packets delivered through the slave DMA controller counts:
        /// a longer packet is told in pieces.
        public var packetCounterLimit = 256 << 20
        /// Whether a card's address is this process's alone in the whole machine, rather than among the cards of this bus.
        public var holdsAddresses = false
        /// Paces the wire when its rate is limited. The caller keeps it as long as cards are open.
        public var clock: Clock

        /// Describes cards.
        public init(receiverMemory: Int = 64 << 20, clock: Clock = .monotonic()) {
            self.receiverMemory = max(pageBytes, Page.roundedUp(receiverMemory))
            self.clock = clock
        }
    }

    /// The bus's name on a command line.
    public let name = "sim"

    private let configuration: Configuration
    private let lock = Lock()
    private var isOpen: Set<PCIAddress> = []

    /// Makes a machine.
    public init(_ configuration: Configuration = Configuration()) { self.configuration = configuration }

    deinit { lock.destroy() }

    /// Puts a card at an address and takes it for this process; EBUSY while it is open. Any thread.
    public func open(_ address: PCIAddress) throws(BusError) -> any PCIFunction {
        guard lock.locked({ isOpen.insert(address).inserted }) else {
            throw BusError(EBUSY, "the simulated card at \(address) is open already")
        }
        var slot: Slot?
        do throws(BusError) {
            if configuration.holdsAddresses {
                slot = try Slot.take(address)
                if slot == nil { throw BusError(EBUSY, "another simulated card of this machine sits at \(address)") }
            }
            return try SimulatedFunction(address: address, configuration: configuration) { [self, slot] in
                leave(address, slot)
            }
        } catch {
            leave(address, slot)
            throw error
        }
    }

    /// Puts a card at the first address that is free, from 0000:01:00.0 on: a bus for each. EBUSY when none is. Any thread.
    public func openAnywhere() throws(BusError) -> any PCIFunction {
        for bus in UInt8(1)...255 {
            do {
                return try open(PCIAddress(bus: bus, device: 0, function: 0))
            } catch {
                guard error.code == EBUSY else { throw error }
            }
        }
        throw BusError(EBUSY, "there are simulated cards at 0000:01:00.0 to 0000:ff:00.0 already")
    }

    private func leave(_ address: PCIAddress, _ slot: Slot?) {
        slot?.leave()
        _ = lock.locked { isOpen.remove(address) }
    }
}
