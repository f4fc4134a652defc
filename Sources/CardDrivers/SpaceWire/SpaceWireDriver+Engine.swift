public import DriverCore
import PCIBus

// The ways to move data, and the change from one to another.
extension SpaceWireDriver {
    /// How the data is moved.
    public var engine: DMAEngine { transmit.control { $0.engine } }

    /// Moves the data in another way: both engines of the card are stopped and started anew with the other rings. Only while
    /// nothing is under way in either direction, so that nothing can be lost.
    public func select(_ engine: DMAEngine) throws(StatusError) {
        let card = device.function.address
        guard engines.contains(engine) else {
            let offered = engines.map(\.rawValue).joined(separator: " and ")
            throw StatusError(.notSupported, "\(card) has no engine \(engine.rawValue): it has \(offered)")
        }
        try recovery.locked { () throws(StatusError) in
            guard engine != self.engine else { return }
            guard isWorking else {
                throw StatusError(.deviceNotReady, "\(card) is not in D0; see state")
            }
            guard holdIfIdle() else { throw busy(card) }
            resetDMA()
            guard !receive.control({ $0.hasArrived() }) else {
                // A packet came between the look and the reset. It is in the ring and stays there.
                transmit.control { $0.start() }
                receive.control { $0.goOn() }
                throw busy(card)
            }
            use(engine)
            receive.control { $0.start() }
            transmit.control { $0.start() }
        }
    }

    private func busy(_ card: PCIAddress) -> StatusError {
        StatusError(
            .invalidDeviceState,
            "data is under way on \(card), so that the engine cannot change: let it arrive and read it, or write flush to ctl"
        )
    }

    /// Holds both channels if neither has anything to do; else leaves both as they are.
    private func holdIfIdle() -> Bool {
        let isSenderIdle = transmit.control { channel in
            guard channel.isIdle() else { return false }
            channel.hold()
            return true
        }
        guard isSenderIdle else { return false }
        let isReceiverIdle = receive.control { channel in
            // The core says whether it is in the middle of a packet, of which the ring shows nothing yet.
            guard channel.isIdle(), window.load32(SpaceWireLayout.status) & SpaceWireLayout.Status.receiverEmpty != 0
            else { return false }
            channel.hold()
            return true
        }
        if !isReceiverIdle { transmit.control { $0.resume() } }
        return isReceiverIdle
    }

    /// Stops both engines of the core.
    func resetDMA() { window.store32(Self.control | SpaceWireLayout.Control.dmaReset, SpaceWireLayout.control) }

    /// Gives both channels what the engine needs. They are held, and the card's engines stand.
    func use(_ engine: DMAEngine) {
        guard let transmitTable else { return }
        let ring = DescriptorRing(buffer: transmitTable, count: ringCount(engine))
        transmit.control {
            $0.select(engine, ring: ring)
            $0.mapping.isOn = $0.isMemoryMapped && engine == .scatterGather
        }
        receive.control { $0.engine = engine }
    }

    /// Entries of the transmit ring: with slots there are as many as slots.
    func ringCount(_ engine: DMAEngine) -> Int {
        engine == .scatterGather ? TransmitChannel.ringCount : TransmitChannel.slotCount
    }
}
