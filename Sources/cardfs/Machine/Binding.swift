import CardFS
import Glibc
import PCIBus

/// Hands cards from their drivers to vfio-pci and back, by driver_override, unbind and drivers_probe of sysfs (the kernel's
/// Documentation/ABI/testing/sysfs-bus-pci). Nothing else of the machine is changed; vfio-pci is loaded when it is missing.
struct Binding {
    private let machine: Machine
    private static let drivers = "/sys/bus/pci/drivers"
    private static let vfio = "vfio-pci"

    init(_ machine: Machine) { self.machine = machine }

    /// Hands a card to vfio-pci. Answers what was done, one line for each thing worth knowing.
    ///
    /// - Parameter force: Although the machine uses the card.
    func bind(_ address: PCIAddress, force: Bool) throws(Refusal) -> [String] {
        let card = try machine.card(address)
        if card.driver == Self.vfio { return ["\(address) belongs to vfio-pci already"] + notes(card) }
        guard !card.isBridge else {
            throw Refusal(
                "\(address) is a bridge: it leads to cards and is none",
                hint: "cardfs list shows the cards",
                kind: .usage
            )
        }
        guard card.group != nil else {
            throw Refusal(
                "no IOMMU isolates \(address), so vfio-pci cannot use it",
                hint: "cardfs doctor \(address) says how to switch the IOMMU on",
                kind: .unavailable
            )
        }
        let uses = CardUse(machine).uses(of: address)
        guard uses.isEmpty || force else {
            throw Refusal(
                "\(address) is in use: it " + uses.joined(separator: ", it "),
                hint: "end that use, or cardfs bind --force \(address)",
                kind: .busy
            )
        }
        guard machine.exists("\(Self.drivers)/\(Self.vfio)") || load() else {
            throw Refusal(
                "the kernel has no vfio-pci, and it cannot be loaded",
                hint: "modprobe vfio-pci says why",
                kind: .unavailable
            )
        }
        let override = overriding(address)
        try set(Self.vfio, for: address)
        do throws(Refusal) {
            if let driver = card.driver { try write("\(Self.drivers)/\(driver)/unbind", address.description, address) }
            try write("/sys/bus/pci/drivers_probe", address.description, address)
            guard machine.link(Machine.directory(address) + "/driver") == Self.vfio else {
                throw Refusal(
                    "vfio-pci did not take \(address)",
                    hint: "the kernel's log says why: dmesg | grep \(address)",
                    kind: .unavailable
                )
            }
        } catch {
            // As it was before, as far as that goes.
            try? set(override, for: address)
            _ = machine.write(machine.root + "/sys/bus/pci/drivers_probe", address.description)
            throw error
        }
        let before = card.driver.map { "; \($0) had it" } ?? "; no driver had it"
        return ["\(address) belongs to vfio-pci now" + before] + notes(card)
    }

    /// Gives a card back to the driver the kernel chooses for it, which is the one it had.
    ///
    /// - Parameter force: Although it is open; whoever has it is asked by the kernel to let go, and this waits for that.
    func unbind(_ address: PCIAddress, force: Bool) throws(Refusal) -> [String] {
        let card = try machine.card(address)
        let isOverridden = overriding(address) == Self.vfio
        guard card.driver == Self.vfio || (card.driver == nil && isOverridden) else {
            return [
                "\(address) " + (card.driver.map { "belongs to \($0)" } ?? "belongs to no driver") + ", not to vfio-pci"
            ]
        }
        if card.driver == Self.vfio, !force, let holder = holder(of: card) {
            throw Refusal("\(address) is in use: \(holder.what)", hint: holder.advice, kind: .busy)
        }
        if isOverridden { try set("", for: address) }
        if card.driver == Self.vfio {
            try write("\(Self.drivers)/\(Self.vfio)/unbind", address.description, address)
        }
        try write("/sys/bus/pci/drivers_probe", address.description, address)
        switch machine.link(Machine.directory(address) + "/driver") {
        case nil: return ["\(address) belongs to no driver now: the kernel has none for it"]
        case Self.vfio:
            throw Refusal(
                "\(address) came back to vfio-pci, which takes its IDs",
                hint: "look for ids= of vfio-pci in /etc/modprobe.d and on the kernel's command line"
            )
        case let driver?: return ["\(address) belongs to \(driver) now"]
        }
    }

    // MARK: Steps

    private func load() -> Bool {
        machine.loadModule(Self.vfio) && machine.exists("\(Self.drivers)/\(Self.vfio)")
    }

    /// The driver that driver_override names; empty for none.
    private func overriding(_ address: PCIAddress) -> String {
        let text = machine.word(Machine.directory(address) + "/driver_override") ?? ""
        return text == "(null)" ? "" : text
    }

    private func set(_ driver: String, for address: PCIAddress) throws(Refusal) {
        // A newline alone clears it.
        try write(Machine.directory(address) + "/driver_override", driver + "\n", address)
    }

    private func write(_ path: String, _ text: String, _ address: PCIAddress) throws(Refusal) {
        let code = machine.write(machine.root + path, text)
        switch code {
        case 0: return
        case EACCES, EPERM, EROFS:
            throw Refusal(
                "\(path) may not be written by \(machine.userName)",
                hint: "do it as root: sudo cardfs …",
                kind: .denied
            )
        default:
            throw Refusal(
                "writing \(text.split(separator: "\n").first.map(String.init) ?? "nothing") to \(path) failed: \(errnoMeaning(code))",
                hint: "the kernel's log may say why: dmesg | grep \(address)",
                kind: Refusal.Kind(errno: code)
            )
        }
    }

    /// What is still missing before the card can be mounted.
    private func notes(_ card: PCIListing.Card) -> [String] {
        machine.rivals(of: card).map {
            "note: \($0.driver ?? "") has \($0.address) of the same IOMMU group, which keeps the group from being used: "
                + "cardfs bind \($0.address)"
        }
    }

    private func holder(of card: PCIListing.Card) -> (what: String, advice: String)? {
        if let place = machine.mountpoint(of: card.address) {
            return ("it is mounted on \(place)", "cardfs unmount \(place)")
        }
        guard let group = card.group, machine.open("\(machine.root)/dev/vfio/\(group)") == EBUSY else { return nil }
        return (
            "a process has its IOMMU group \(group) open",
            "fuser -v /dev/vfio/\(group) says which; or cardfs unbind --force \(card.address)"
        )
    }
}
