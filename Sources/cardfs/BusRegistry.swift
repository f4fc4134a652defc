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
        var open: @Sendable (CardName, String, MountOptions, WakeLatency?, Logger) throws -> any MountService
    }

    static let entries: [Entry] = [
        Entry(name: "sim", takes: { $0 == .simulated }, open: openSimulatedCard),
        Entry(name: "vfio", takes: { $0 != .simulated }, open: openPhysicalCard),
    ]

    /// The bus that takes a card.
    static func entry(for card: CardName) throws(Refusal) -> Entry {
        guard let entry = entries.first(where: { $0.takes(card) }) else {
            throw Refusal(
                "no bus of this build reaches \(card)",
                hint: "cardfs list shows the cards of this machine",
                kind: .absent
            )
        }
        return entry
    }
}
