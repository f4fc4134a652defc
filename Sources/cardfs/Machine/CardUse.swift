import CardFS
import PCIBus

/// What the machine uses a card for while a driver of the kernel has it: taking it away would take that away too.
struct CardUse {
    private let machine: Machine

    init(_ machine: Machine) { self.machine = machine }

    /// The uses of a card, each as the rest of a sentence that begins with the card; empty when nothing would be missed.
    func uses(of address: PCIAddress) -> [String] {
        let directory = Machine.directory(address)
        var found: [String] = []
        for device in devices(below: directory) {
            switch device.kind {
            case "block":
                found += uses(ofBlockDevice: device.name)
                if let disk = Self.disk(ofPath: device.name) {
                    let parts = machine.list("/sys/class/block/\(disk)").filter { $0.hasPrefix(disk) }
                    for part in [disk] + parts { found += uses(ofBlockDevice: part) }
                }
            case "net": found += uses(ofInterface: device.name)
            default: break
            }
        }
        if machine.word(directory + "/boot_vga") == "1" { found.append("drives the display of the console") }
        return found
    }

    // MARK: Disks

    private func uses(ofBlockDevice name: String) -> [String] {
        var found: [String] = []
        if let number = machine.word("/sys/class/block/\(name)/dev") {
            let table = MountTable(SystemFile.read(machine.root + "/proc/self/mountinfo") ?? "")
            for mount in table.entries where "\(mount.major):\(mount.minor)" == number {
                found.append("holds /dev/\(name), which is mounted on \(mount.mountpoint)")
            }
        }
        // File systems that number themselves (btrfs) name the device as their source only.
        for mount in machine.lines("/proc/self/mounts") where found.isEmpty {
            let fields = mount.split(separator: " ")
            if fields.count > 1, fields[0] == "/dev/\(name)" {
                found.append("holds /dev/\(name), which is mounted on \(fields[1])")
            }
        }
        for line in machine.lines("/proc/swaps").dropFirst() where line.split(separator: " ").first == "/dev/\(name)" {
            found.append("holds /dev/\(name), which the machine swaps to")
        }
        for holder in machine.list("/sys/class/block/\(name)/holders") {
            found.append("holds /dev/\(name), which is part of /dev/\(holder)")
        }
        return found
    }

    // MARK: Networks

    private func uses(ofInterface name: String) -> [String] {
        // Columns of /proc/net/route: interface, destination; of ipv6_route: destination, prefix length, …, interface.
        let routes = machine.lines("/proc/net/route").map { $0.split(whereSeparator: \.isWhitespace) }
        if routes.contains(where: { $0.count > 7 && $0[0] == name && $0[1] == "00000000" && $0[7] == "00000000" }) {
            return ["is the network interface \(name), through which the default route goes"]
        }
        let routes6 = machine.lines("/proc/net/ipv6_route").map { $0.split(whereSeparator: \.isWhitespace) }
        let isDefault = routes6.contains { fields in
            fields.count == 10 && fields[9] == name && fields[0].allSatisfy { $0 == "0" } && fields[1] == "00"
        }
        return isDefault ? ["is the network interface \(name), through which the default route goes"] : []
    }

    // MARK: Trees of sysfs

    /// The devices anywhere below a device, with the class their `subsystem` leads to (`block` for disks and partitions, `net`).
    /// Links are not followed, and other PCI functions are not entered.
    private func devices(below directory: String, depth: Int = 12) -> [(name: String, kind: String)] {
        guard depth > 0 else { return [] }
        var found: [(name: String, kind: String)] = []
        for name in machine.list(directory) where PCIAddress(name) == nil {
            let path = directory + "/" + name
            guard SystemFile.readLink(machine.root + path) == nil, !machine.list(path).isEmpty else { continue }
            if let kind = machine.link(path + "/subsystem") { found.append((name, kind)) }
            found += devices(below: path, depth: depth - 1)
        }
        return found
    }

    /// The disk that a path of an NVMe disk with several controllers leads to: `nvme0c1n2` to `nvme0n2`.
    private static func disk(ofPath name: String) -> String? {
        guard name.hasPrefix("nvme"), let controller = name.firstIndex(of: "c"), let space = name.lastIndex(of: "n"),
            space > controller
        else { return nil }
        return String(name[..<controller] + name[space...])
    }
}
