import CHardware
import CVFIO
import CardFS
import Glibc
import PCIBus

/// The machine as the commands see and change it: `/sys`, `/proc` and `/dev` below a root, so that a test can give a tree of its
/// own, and what the kernel allows this process.
struct Machine: Sendable {
    /// What stands before every path.
    var root = ""
    /// The user.
    var userID = geteuid()
    /// The user's name for hints.
    var userName = Machine.currentUserName()
    /// Bytes the process may lock; nil when nothing limits it.
    var lockedMemoryLimit = Machine.currentLockedMemoryLimit()
    /// Opens a file for reading and writing and closes it again: 0 or an errno.
    var open: @Sendable (String) -> CInt = { path in
        let descriptor = Glibc.open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return errno }
        close(descriptor)
        return 0
    }
    /// Writes a text to a file of sysfs in one write(2): 0 or an errno.
    var write: @Sendable (String, String) -> CInt = { path, text in
        let descriptor = Glibc.open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        let bytes = Array(text.utf8)
        return bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) } < 0 ? errno : 0
    }
    /// Loads a kernel module; whether that worked.
    var loadModule: @Sendable (String) -> Bool = { name in
        for program in ["modprobe", "/sbin/modprobe"] {
            if let result = try? ChildProcess.run(program, [name]), result.status == 0 { return true }
        }
        return false
    }

    /// The text of a file without blanks and newlines at its ends; nil when it cannot be read.
    func word(_ path: String) -> String? { SystemFile.readWord(root + path) }
    /// The lines of a file; none when it cannot be read.
    func lines(_ path: String) -> [Substring] { (SystemFile.read(root + path) ?? "").split(separator: "\n") }
    /// The names in a directory, sorted; none when it cannot be read.
    func list(_ path: String) -> [String] { (SystemFile.list(root + path) ?? []).sorted() }
    /// Whether there is such a file.
    func exists(_ path: String) -> Bool { access(root + path, F_OK) == 0 }
    /// The last component of what a symbolic link holds; nil when there is none.
    func link(_ path: String) -> String? { SystemFile.readLink(root + path).map(SystemFile.lastComponent) }

    /// The cards, by address.
    var cards: [PCIListing.Card] {
        PCIListing.cards(root: root + Self.devices).map { card in
            guard let group = card.group, !isIsolating(group) else { return card }
            var card = card
            card.group = nil
            return card
        }
    }

    /// The groups in which an IOMMU isolates cards.
    var groups: [String] { list("/sys/kernel/iommu_groups").filter(isIsolating) }

    /// Whether an IOMMU is behind a group: VFIO makes some up in its mode without.
    private func isIsolating(_ group: String) -> Bool {
        word("/sys/kernel/iommu_groups/\(group)/name") != "vfio-noiommu"
    }

    /// A card; a refusal when there is none at the address.
    func card(_ address: PCIAddress) throws(Refusal) -> PCIListing.Card {
        guard exists(Self.directory(address)), let card = cards.first(where: { $0.address == address }) else {
            throw Refusal(
                "there is no PCI function at \(address)",
                hint: "cardfs list shows those there are",
                kind: .absent
            )
        }
        return card
    }

    /// The other members of a card's IOMMU group that keep it from being used: those that a driver of the kernel has. Bridges are
    /// not counted, since the kernel leaves them to theirs.
    func rivals(of card: PCIListing.Card) -> [PCIListing.Card] {
        guard let group = card.group else { return [] }
        return cards.filter { other in
            other.address != card.address && other.group == group && other.driver != nil
                && other.driver != "vfio-pci" && other.driver != "pci-stub" && !other.isBridge
        }
    }

    /// Where cards are mounted by cardfs, by source.
    func mountpoint(of address: PCIAddress) -> String? {
        MountTable(SystemFile.read(root + "/proc/self/mountinfo") ?? "").entries.last {
            $0.isCardFS && $0.source == address.description
        }?.mountpoint
    }

    static let devices = "/sys/bus/pci/devices"
    static func directory(_ address: PCIAddress) -> String { "\(devices)/\(address)" }

    private static func currentUserName() -> String {
        getpwuid(geteuid()).flatMap { $0.pointee.pw_name.map { String(cString: $0) } } ?? "\(geteuid())"
    }

    /// RLIMIT_MEMLOCK, from which CAP_IPC_LOCK (bit 14 of the effective capabilities) frees.
    private static func currentLockedMemoryLimit() -> UInt64? {
        for line in (SystemFile.read("/proc/self/status") ?? "").split(separator: "\n") where line.hasPrefix("CapEff:")
        {
            let digits = line.dropFirst("CapEff:".count).drop { $0 == "\t" || $0 == " " }
            if let capabilities = UInt64(digits, radix: 16), capabilities & 1 << 14 != 0 { return nil }
        }
        var limit: UInt64 = 0
        return cvfio_locked_memory_limit(&limit) ? limit : nil
    }
}

extension PCIListing.Card {
    /// Whether it is a bridge (base class 6), which leads to cards and is none.
    var isBridge: Bool { classCode.map { $0 >> 16 == 6 } ?? false }

    /// What keeps cardfs from taking the card on a machine, as far as sysfs tells; nil for nothing. `cardfs doctor` looks further.
    func obstacle(on machine: Machine) -> String? {
        if isBridge { return "it is a bridge" }
        guard group != nil else { return "no IOMMU isolates it: cardfs doctor \(address)" }
        switch driver {
        case "vfio-pci": break
        case nil: return "bound to no driver: cardfs bind \(address)"
        case let driver?: return "\(driver) has it: cardfs bind \(address)"
        }
        guard let rival = machine.rivals(of: self).first, let driver = rival.driver else { return nil }
        return "\(driver) has \(rival.address) of its group: cardfs bind \(rival.address)"
    }
}
