/// The ways a card's data can be moved, as `dma/engine` names them.
public enum DMAEngine: String, CaseIterable, Sendable {
    /// Bus master, scatter/gather: the card fetches the bytes from where the request lies (packet-based bus-master DMA).
    case scatterGather = "sg"
    /// Bus master, common buffer: a ring of fixed slots that the driver fills and empties.
    case common
    /// A channel of the machine's slave DMA controller in auto-initialise mode (common-buffer system DMA).
    case system
}

extension DMAControl {
    /// A driver that says nothing else has one engine.
    public var engine: DMAEngine { .scatterGather }

    /// Refuses what the driver does not have.
    public func select(_ engine: DMAEngine) throws(StatusError) {
        guard engine == self.engine else {
            throw StatusError(
                .notSupported,
                "this card has no engine \(engine.rawValue), only \(self.engine.rawValue)"
            )
        }
    }
}
