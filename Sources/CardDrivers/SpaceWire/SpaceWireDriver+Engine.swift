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
        if receive.control({ $0.loans.count }) > 0 {
            return StatusError(
                .invalidDeviceState,
                "programs hold pieces of the receive ring of \(card), so that the engine cannot change: let them give those back"
            )
        }
        return StatusError(
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
    func resetDMA() { link.act(SpaceWireLayout.Control.dmaReset) }

    /// Gives both channels what the engine needs. They are held, and the card's engines stand.
    func use(_ engine: DMAEngine) {
        guard let transmitTable else { return }
        if engine != .system { freeChannels() }
        window.store32(slaveBits(engine), SpaceWireLayout.slave)
        let ring = DescriptorRing(buffer: transmitTable, count: ringCount(engine))
        transmit.control {
            $0.select(engine, ring: ring)
            $0.mapping.isOn = $0.isMemoryMapped && engine == .scatterGather
        }
        receive.control { $0.engine = engine }
    }

    /// Makes the adapters of the machine's slave channels, where there are some, and says how they are loaded.
    func prepareChannels(_ adapter: DMAAdapter, _ slots: CommonBuffer, _ data: CommonBuffer) {
        let channels = device.function.slaveDMAChannels
        guard engines.contains(.system), channels.count >= 2 else { return }
        let sending = SystemDMAAdapter(channel: channels[0], adapter: adapter)
        let receiving = SystemDMAAdapter(channel: channels[1], adapter: adapter)
        systemAdapters = [sending, receiving]
        transmit.control { $0.startStream = { Self.load(sending, slots, .toDevice) } }
        receive.control { $0.startStream = { Self.load(receiving, data, .fromDevice) } }
    }

    /// Loads a channel with a common buffer, from its beginning: ends what it did before, gets it again and maps the buffer,
    /// once, to be gone round for ever.
    private static func load(
        _ adapter: SystemDMAAdapter,
        _ buffer: CommonBuffer,
        _ direction: TransferPlan.Direction
    ) -> SystemStream? {
        free(adapter)
        let stream: SystemStream?? = try? ExecutionLevel.dispatch.run { () throws(StatusError) -> SystemStream? in
            guard adapter.allocateAdapterChannel(control: { .keepObject }).isSuccess else { return nil }
            let mdl = try MDL(virtualAddress: VirtualAddress(buffer.base), byteCount: buffer.byteCount)
            try mdl.buildForNonPagedPool(in: buffer.memory)
            try adapter.mapTransfer(mdl, direction: direction)
            return SystemStream(adapter, buffer)
        }
        return stream ?? nil
    }

    private static func free(_ adapter: SystemDMAAdapter) {
        ExecutionLevel.dispatch.run {
            if adapter.state == .mapped { try? adapter.flushAdapterBuffers() }
            if adapter.state == .flushed { try? adapter.freeAdapterChannel() }
        }
    }

    /// Stops the slave channels and gives them back.
    func freeChannels() {
        for adapter in systemAdapters { Self.free(adapter) }
    }

    /// Entries of the transmit ring: with slots there are as many as slots.
    func ringCount(_ engine: DMAEngine) -> Int {
        engine == .scatterGather ? TransmitChannel.ringCount : TransmitChannel.slotCount
    }
}
