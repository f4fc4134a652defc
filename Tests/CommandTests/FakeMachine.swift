import CardFS
import Glibc
import PCIBus

@testable import cardfs

/// A tree of /sys, /proc and /dev in a temporary directory, in which bound and unbound cards change hands as the kernel does it.
final class FakeMachine: @unchecked Sendable {  // used by one thread at a time
    let root: String
    /// The driver the kernel has for a card, by address.
    var natural: [String: String] = [:]
    /// What was written, `file text`, in order.
    var writes: [String] = []
    /// Errno of a write to a file of that last component.
    var refusedWrites: [String: CInt] = [:]
    /// Errno of opening a file.
    var refusedOpens: [String: CInt] = [:]
    var userID: UInt32 = 0
    var limit: UInt64?
    var modules: Set<String> = []
    var loadable = true

    init() {
        var template = Array("/tmp/cardfs-machine-XXXXXX".utf8CString)
        root = mkdtemp(&template).map { String(cString: $0) } ?? ""
        directory("/sys/bus/pci/devices")
        directory("/sys/bus/pci/drivers/vfio-pci")
        directory("/sys/kernel/iommu_groups/7")
        file("/dev/fuse")
        file("/dev/vfio/vfio")
        file("/usr/bin/fusermount3")
        file("/sys/bus/pci/drivers_probe")
    }

    deinit { Self.remove(root) }

    var machine: Machine {
        var machine = Machine()
        machine.root = root
        machine.userID = userID
        machine.userName = userID == 0 ? "root" : "ann"
        machine.lockedMemoryLimit = limit
        machine.open = { [unowned self] path in
            let place = String(path.dropFirst(self.root.count))
            if let code = self.refusedOpens[place] { return code }
            return access(path, F_OK) == 0 ? 0 : ENOENT
        }
        machine.write = { [unowned self] path, text in self.write(String(path.dropFirst(self.root.count)), text) }
        machine.loadModule = { [unowned self] name in
            self.modules.insert(name)
            if self.loadable { self.directory("/sys/bus/pci/drivers/\(name)") }
            return self.loadable
        }
        return machine
    }

    // MARK: The tree

    func directory(_ path: String) {
        var made = root
        for component in path.split(separator: "/") {
            made += "/" + component
            mkdir(made, 0o755)
        }
    }

    func file(_ path: String, _ text: String = "") {
        directory(path.split(separator: "/").dropLast().joined(separator: "/"))
        let descriptor = Glibc.open(root + path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o644)
        _ = text.withCString { Glibc.write(descriptor, $0, strlen($0)) }
        close(descriptor)
    }

    func link(_ path: String, _ target: String?) {
        unlink(root + path)
        if let target { symlink(target, root + path) }
    }

    func addCard(
        _ address: String,
        _ ids: (UInt16, UInt16) = (0x10ee, 0x7024),
        classCode: String = "0x058000",
        driver: String?,
        group: String? = "7"
    ) {
        let place = "\(Machine.devices)/\(address)"
        file(place + "/vendor", "0x\(hexadecimal(ids.0, digits: 4))\n")
        file(place + "/device", "0x\(hexadecimal(ids.1, digits: 4))\n")
        file(place + "/class", classCode + "\n")
        file(place + "/driver_override", "(null)\n")
        if let group {
            link(place + "/iommu_group", "../../../kernel/iommu_groups/\(group)")
            file("/dev/vfio/\(group)")
        }
        if let driver {
            directory("/sys/bus/pci/drivers/\(driver)")
            link(place + "/driver", "../../../bus/pci/drivers/\(driver)")
            if driver != "vfio-pci" { natural[address] = driver }
        }
    }

    func driver(of address: String) -> String? { machine.link("\(Machine.devices)/\(address)/driver") }

    // MARK: The kernel's part

    private func write(_ path: String, _ text: String) -> CInt {
        let name = SystemFile.lastComponent(path)
        let word = text.split(separator: "\n").first.map(String.init) ?? ""
        writes.append("\(name) \(word)")
        if let code = refusedWrites[name] { return code }
        switch name {
        case "driver_override": file(path, word.isEmpty ? "(null)\n" : word + "\n")
        case "unbind":
            guard driver(of: word) == path.split(separator: "/").dropLast().last.map(String.init) else { return ENODEV }
            link("\(Machine.devices)/\(word)/driver", nil)
        case "drivers_probe":
            guard driver(of: word) == nil else { return 0 }
            let override = machine.word("\(Machine.devices)/\(word)/driver_override")
            let chosen = override == "(null)" ? natural[word] : override
            if let chosen { link("\(Machine.devices)/\(word)/driver", "../../drivers/\(chosen)") }
        default: return ENOENT
        }
        return 0
    }

    private static func remove(_ path: String) {
        if SystemFile.readLink(path) == nil {
            for name in SystemFile.list(path) ?? [] { remove(path + "/" + name) }
        }
        if unlink(path) != 0 { rmdir(path) }
    }
}

/// The refusal a call throws; nil for none.
func refusal(_ body: () throws(Refusal) -> Void) -> Refusal? {
    do throws(Refusal) { try body() } catch { return error }
    return nil
}
