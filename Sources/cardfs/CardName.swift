import CardFS
import PCIBus

/// The card a command names: a simulated one, or a PCI function of this machine.
enum CardName: Hashable, Sendable, CustomStringConvertible {
    /// `sim`.
    case simulated
    /// `0000:02:00.0`.
    case pci(PCIAddress)

    /// Reads the argument of a command.
    init(_ text: String) throws(Refusal) {
        if text == "sim" {
            self = .simulated
        } else if let address = PCIAddress(text) {
            self = .pci(address)
        } else {
            throw Refusal(
                "\"\(text)\" is no card: a card is sim or a PCI address such as 0000:02:00.0",
                hint: "cardfs list shows the cards of this machine",
                kind: .usage
            )
        }
    }

    /// As it is written on the command line.
    var description: String {
        switch self {
        case .simulated: "sim"
        case .pci(let address): address.description
        }
    }
}
