import ArgumentParser
import CardFS
import PCIBus

/// `cardfs bind`.
struct Bind: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bind",
        abstract: "Hands a card to vfio-pci, so that cardfs can mount it.",
        discussion: """
            The driver that has the card lets go of it. A card that the machine uses,
            for a mounted disk or the network's default route, is refused. The change
            lasts until cardfs unbind, or until the machine is started anew.

            Examples:
              sudo cardfs bind 0000:03:00.0
              sudo cardfs bind 0000:03:00.0 --force   although it is in use
            """
    )

    @Argument(help: "A PCI address such as 0000:02:00.0.")
    var address: String

    @Flag(help: "Although the machine uses the card.")
    var force = false

    func run() throws {
        for line in try Binding(Machine()).bind(Self.read(address), force: force) { print(line) }
    }

    /// Reads the argument of `bind` and `unbind`.
    static func read(_ text: String) throws(Refusal) -> PCIAddress {
        guard case .pci(let address) = try CardName(text) else {
            throw Refusal(
                "the simulated card belongs to no driver of the kernel",
                hint: "cardfs mount sim MOUNTPOINT",
                kind: .usage
            )
        }
        return address
    }
}

/// `cardfs unbind`.
struct Unbind: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unbind",
        abstract: "Gives a card back from vfio-pci to its own driver.",
        discussion: """
            Examples:
              sudo cardfs unbind 0000:03:00.0
              sudo cardfs unbind 0000:03:00.0 --force   although it is mounted
            """
    )

    @Argument(help: "A PCI address such as 0000:02:00.0.")
    var address: String

    @Flag(help: "Although it is mounted or open: the kernel asks for it, the mount stays and says ENODEV.")
    var force = false

    func run() throws {
        for line in try Binding(Machine()).unbind(Bind.read(address), force: force) { print(line) }
    }
}
