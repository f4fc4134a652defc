import CardFS
import DriverCore
import Glibc
import PCIBus

/// What is missing before a card can be mounted, each thing with the line that mends it.
struct Diagnosis {
    /// One thing that was looked at.
    struct Finding: Hashable {
        /// Whether it is well.
        enum Verdict: String {
            case ok
            /// Works, and may surprise.
            case note
            /// Keeps the card from being used.
            case missing
        }

        var verdict: Verdict
        /// What was looked at.
        var subject: String
        /// What was found.
        var sentence: String
        /// The command or setting that mends it; nil when nothing is to be mended.
        var remedy: String?
    }

    private let machine: Machine

    /// Bytes of memory a mounted card with DMA locks: the payload arena, and room for the rings of its driver.
    static var lockedBytes: UInt64 {
        let capacity = Device.Capacity()
        let arena = PayloadArena.byteCount(
            receiveBuffers: capacity.receiveBuffers,
            systemBuffers: capacity.systemBuffers
        )
        let mebibyte = 1 << 20
        return UInt64((arena / mebibyte + 17) * mebibyte)
    }

    init(_ machine: Machine) { self.machine = machine }

    /// What a mount of `card` needs; nil for any card of this machine.
    func findings(_ card: CardName?) throws(Refusal) -> [Finding] {
        switch card {
        case .simulated: return fuse
        case nil: return fuse + platform
        case .pci(let address): return fuse + platform + about(try machine.card(address))
        }
    }

    private func ok(_ subject: String, _ sentence: String) -> Finding {
        Finding(verdict: .ok, subject: subject, sentence: sentence)
    }

    private func missing(_ subject: String, _ sentence: String, _ remedy: String) -> Finding {
        Finding(verdict: .missing, subject: subject, sentence: sentence, remedy: remedy)
    }

    // MARK: FUSE

    private var fuse: [Finding] {
        var found = [device, mounting].compactMap(\.self)
        // Kernels from 6.14 on can end requests that take long; the daemon's connection ends with them.
        for name in ["default_request_timeout", "max_request_timeout"] {
            guard let seconds = machine.word("/proc/sys/fs/fuse/\(name)"), seconds != "0" else { continue }
            found.append(
                missing(
                    "FUSE timeout",
                    "fs.fuse.\(name) is \(seconds) s: a read or write that waits that long for the card ends the whole mount",
                    "sysctl fs.fuse.\(name)=0"
                )
            )
        }
        return found
    }

    private var device: Finding {
        let path = "/dev/fuse"
        switch machine.open(machine.root + path) {
        case 0: return ok("FUSE", "\(path) can be opened")
        case EACCES, EPERM:
            return missing("FUSE", "\(machine.userName) may not open \(path)", "chmod 0666 \(path)")
        case let code: return missing("FUSE", "\(path): \(errnoMeaning(code))", "modprobe fuse")
        }
    }

    /// Who is not root mounts by fusermount3.
    private var mounting: Finding? {
        guard machine.userID != 0 else { return nil }
        for directory in ["/usr/bin", "/bin", "/usr/local/bin"] where machine.exists(directory + "/fusermount3") {
            return ok("FUSE mount", "fusermount3 mounts for \(machine.userName)")
        }
        return missing(
            "FUSE mount",
            "there is no fusermount3, which mounts for who is not root",
            "apt-get install fuse3"
        )
    }

    // MARK: The machine

    private var platform: [Finding] { [iommu, module, container, lockdown].compactMap(\.self) }

    private var iommu: Finding {
        let groups = machine.groups
        if machine.word("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y", groups.isEmpty {
            return missing(
                "IOMMU",
                "VFIO runs without an IOMMU, which cardfs does not use: a card could then write to all memory",
                iommuRemedy
            )
        }
        guard groups.isEmpty else { return ok("IOMMU", "it isolates \(groups.count) groups of cards") }
        return missing("IOMMU", "there is none, or it is switched off", iommuRemedy)
    }

    private var iommuRemedy: String {
        let isAMD = machine.lines("/proc/cpuinfo").contains { $0.contains("AuthenticAMD") }
        if isAMD { return "switch AMD-Vi (IOMMU) on in the firmware" }
        return "switch VT-d on in the firmware, add intel_iommu=on to GRUB_CMDLINE_LINUX in /etc/default/grub, "
            + "then update-grub and reboot"
    }

    private var module: Finding {
        if machine.exists("/sys/bus/pci/drivers/vfio-pci") { return ok("vfio-pci", "the driver is loaded") }
        let isLocked = lockdownMode != nil
        return missing(
            "vfio-pci",
            "the driver is not loaded" + (isLocked ? "; under lockdown only signed modules are" : ""),
            "modprobe vfio-pci"
        )
    }

    private var container: Finding? {
        let path = "/dev/vfio/vfio"
        switch machine.open(machine.root + path) {
        case 0: return ok("VFIO", "\(path) can be opened")
        case EACCES, EPERM:
            return missing("VFIO", "\(machine.userName) may not open \(path)", "chmod 0666 \(path)")
        case ENOENT where !machine.exists("/sys/bus/pci/drivers/vfio-pci"): return nil
        case let code: return missing("VFIO", "\(path): \(errnoMeaning(code))", "modprobe vfio-pci")
        }
    }

    /// The mode the kernel is locked down to; nil for none.
    private var lockdownMode: String? {
        guard let text = machine.word("/sys/kernel/security/lockdown"), let start = text.firstIndex(of: "["),
            let end = text[start...].firstIndex(of: "]")
        else { return nil }
        let mode = String(text[text.index(after: start)..<end])
        return mode == "none" ? nil : mode
    }

    private var lockdown: Finding? {
        guard let mode = lockdownMode else { return nil }
        return Finding(
            verdict: .note,
            subject: "Secure Boot",
            sentence:
                "the kernel is locked down (\(mode)): VFIO works, while setpci and mappings of BARs from sysfs do not; "
                + "use config and resourceN of the mount",
            remedy: nil
        )
    }

    // MARK: One card

    private func about(_ card: PCIListing.Card) -> [Finding] {
        if card.isBridge {
            return [missing("card", "\(card.address) is a bridge: it leads to cards and is none", "cardfs list")]
        }
        var found = [isolation(card), driver(card)]
        for rival in machine.rivals(of: card) {
            found.append(
                missing(
                    "group",
                    "\(rival.driver ?? "a driver") has \(rival.address), which shares the IOMMU group of \(card.address)",
                    "cardfs bind \(rival.address)"
                )
            )
        }
        if card.driver == "vfio-pci", let group = card.group { found.append(node(card, group)) }
        found.append(memory(card))
        return found
    }

    private func isolation(_ card: PCIListing.Card) -> Finding {
        guard let group = card.group else {
            return missing("isolation", "\(card.address) is in no IOMMU group", iommuRemedy)
        }
        return ok("isolation", "\(card.address) is in IOMMU group \(group)")
    }

    private func driver(_ card: PCIListing.Card) -> Finding {
        switch card.driver {
        case "vfio-pci": ok("driver", "\(card.address) belongs to vfio-pci")
        case nil: missing("driver", "\(card.address) belongs to no driver", "cardfs bind \(card.address)")
        case let driver?: missing("driver", "\(card.address) belongs to \(driver)", "cardfs bind \(card.address)")
        }
    }

    private func node(_ card: PCIListing.Card, _ group: String) -> Finding {
        let path = "/dev/vfio/\(group)"
        switch machine.open(machine.root + path) {
        case 0: return ok("group", "\(path) can be opened")
        case EBUSY:
            if let place = machine.mountpoint(of: card.address) {
                return ok("group", "\(card.address) is mounted on \(place)")
            }
            return missing("group", "another process has \(path) open", "fuser -v \(path) says which")
        case EACCES, EPERM:
            return missing(
                "group",
                "\(machine.userName) may not open \(path)",
                "chown \(machine.userName) \(path); for good a udev rule: Examples/70-cardfs.rules"
            )
        case let code: return missing("group", "\(path): \(errnoMeaning(code))", "cardfs bind \(card.address)")
        }
    }

    private func memory(_ card: PCIListing.Card) -> Finding {
        let needed = Self.lockedBytes
        guard let limit = machine.lockedMemoryLimit else {
            return ok("locked memory", "\(machine.userName) may lock all memory")
        }
        guard limit < needed else {
            return ok("locked memory", "\(machine.userName) may lock \(limit) bytes; a card with DMA needs \(needed)")
        }
        return missing(
            "locked memory",
            "\(machine.userName) may lock \(limit) bytes; a card with DMA needs \(needed)",
            "ulimit -l \(needed >> 10); for good \"\(machine.userName) - memlock \(needed >> 10)\" in "
                + "/etc/security/limits.d/cardfs.conf, in a systemd unit LimitMEMLOCK=\(needed)"
        )
    }
}
