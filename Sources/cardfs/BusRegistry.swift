import CardFS
import Logging

/// The buses this executable is linked with. Another bus is one entry more.
enum BusRegistry {
    /// A bus, and how a card on it is mounted.
    struct Entry: Sendable {
        /// What people call it.
        var name: String
        /// Whether the bus can reach a card of this name.
        var takes: @Sendable (CardName) -> Bool
        /// Opens a card and prepares its mount; nothing is mounted yet.
        var open: @Sendable (CardName, String, MountOptions, Logger) throws -> any MountService
    }

    static let entries: [Entry] = [
        Entry(name: "sim", takes: { $0 == .simulated }, open: openSimulatedCard)
    ]

    /// The bus that takes a card; a refusal says which cards can be taken.
    static func entry(for card: CardName) throws(Refusal) -> Entry {
        guard let entry = entries.first(where: { $0.takes(card) }) else {
            throw Refusal(
                "\(card) cannot be mounted: \(obstacle)",
                hint: "cardfs mount sim MOUNTPOINT mounts a simulated card"
            )
        }
        return entry
    }

    /// Why a card that no entry takes is not taken.
    static let obstacle = "this build drives simulated cards only"
}
