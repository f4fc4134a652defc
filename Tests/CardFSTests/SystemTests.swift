import Glibc
import PCIBus
import Testing

@testable import CardFS

/// A directory tree of a test, gone when the test ends.
private struct MadeUpTree: ~Copyable {
    let root: String

    init() {
        var template = Array("/tmp/cardfs-tree-XXXXXX".utf8CString)
        root = mkdtemp(&template).map { String(cString: $0) } ?? ""
    }

    func directory(_ path: String) {
        var made = root
        for component in path.split(separator: "/") {
            made += "/" + component
            mkdir(made, 0o755)
        }
    }

    func file(_ path: String, _ text: String) {
        let descriptor = open(root + "/" + path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o644)
        _ = text.withCString { write(descriptor, $0, strlen($0)) }
        close(descriptor)
    }

    func link(_ path: String, _ target: String) { symlink(target, root + "/" + path) }

    deinit { Self.remove(root) }

    private static func remove(_ path: String) {
        if SystemFile.readLink(path) == nil {
            for name in SystemFile.list(path) ?? [] { remove(path + "/" + name) }
        }
        if unlink(path) != 0 { rmdir(path) }
    }
}

@Suite struct MountTableTests {
    private let table = MountTable(
        #"""
        21 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
        30 21 0:51 / /mnt/my\040card\134 rw,nosuid - fuse.cardfs sim rw,user_id=0
        31 21 0:52 / /mnt/b rw master:3 propagate_from:2 - fuse.cardfs 0000:02:00.0 rw
        32 31 0:53 / /mnt/b/sub rw - tmpfs tmpfs rw
        33 21 0:54 / /mnt/b rw - tmpfs none rw
        garbage
        34 21 x:y / /mnt/c rw - tmpfs none rw
        35 21 0:55 / /mnt/d rw tmpfs none rw
        """#
    )

    @Test func `a line of mountinfo is read, escapes and optional fields included`() {
        #expect(table.entries.map(\.id) == [21, 30, 31, 32, 33])
        let entry = table.top(at: "/mnt/my card\\")
        #expect(entry?.minor == 51 && entry?.major == 0)
        #expect(entry?.isCardFS == true && entry?.source == "sim" && entry?.parent == 21)
    }

    @Test func `the last mount at a place is the one that is seen`() {
        #expect(table.top(at: "/mnt/b")?.type == "tmpfs")
        #expect(table.top(at: "/mnt") == nil)
    }

    @Test func `mounts below a mount are those that keep it busy`() {
        #expect(table.below("/mnt/b").map(\.mountpoint) == ["/mnt/b/sub"])
        #expect(table.below("/mnt/my card\\").isEmpty)
    }

    @Test func `the table of this machine has its root`() {
        #expect(MountTable.current().top(at: "/") != nil)
    }

    @Test func `a broken escape is left as it is`() {
        #expect(MountTable.unescaped(#"a\0"#) == #"a\0"#)
        #expect(MountTable.unescaped(#"a\999b"#) == #"a\999b"#)
        #expect(MountTable.unescaped(#"\011\012\043"#) == "\t\n#")
    }
}

@Suite struct MountPathTests {
    @Test func `a path is resolved without looking at its end`() throws {
        let tree = MadeUpTree()
        let root = try MountPath.resolve(tree.root)
        tree.directory("a/b")
        tree.link("to-b", "a/b")
        tree.link("chain", root + "/to-b")
        #expect(try MountPath.resolve(tree.root + "/a/../a//b/") == root + "/a/b")
        #expect(try MountPath.resolve(tree.root + "/to-b") == root + "/a/b")
        #expect(try MountPath.resolve(tree.root + "/chain") == root + "/a/b")
        #expect(try MountPath.resolve(tree.root + "/a/b/.") == root + "/a/b")
        #expect(try MountPath.resolve(tree.root + "/a/not-there") == root + "/a/not-there")
        #expect(try MountPath.resolve("/") == "/")
    }

    @Test func `a way that is not there, and a circle, are refused`() {
        let tree = MadeUpTree()
        tree.link("circle", "circle")
        #expect(throws: Refusal.self) { try MountPath.resolve(tree.root + "/no/such") }
        #expect(throws: Refusal.self) { try MountPath.resolve(tree.root + "/circle") }
        #expect(throws: Refusal.self) { try MountPath.resolve("") }
    }
}

@Suite struct HolderScanTests {
    @Test func `each way to hold a file under the mount is told`() {
        let tree = MadeUpTree()
        tree.directory("100/fd")
        tree.file("100/comm", "dd\n")
        tree.link("100/fd/0", "/dev/null")
        tree.link("100/fd/3", "/mnt/card/dma/rx")
        tree.link("100/fd/4", "/mnt/card/dma/rx")
        tree.link("100/fd/5", "/mnt/cardboard/x")
        tree.link("100/cwd", "/mnt/card")
        tree.link("100/root", "/")
        tree.link("100/exe", "/usr/bin/dd")
        tree.directory("99")
        tree.file("99/comm", "tool\n")
        tree.link("99/root", "/mnt/card/sim")
        tree.link("99/exe", "/mnt/card/tool")
        tree.file(
            "99/maps",
            """
            7f00-7f01 r-xp 00000000 00:33 5                          /mnt/card/tool
            7f02-7f03 rw-s 00000000 00:33 6                          /mnt/card/resource 0
            7f04-7f05 rw-p 00000000 00:00 0                          [stack]

            """
        )
        tree.directory("self")
        tree.directory("sys")
        let holders = HolderScan(proc: tree.root).holders(of: "/mnt/card").map(\.description)
        #expect(
            holders == [
                "99 (tool) has its root directory in /mnt/card/sim", "99 (tool) runs /mnt/card/tool",
                "99 (tool) has /mnt/card/resource 0 mapped", "100 (dd) has /mnt/card/dma/rx open",
                "100 (dd) has its working directory in /mnt/card",
            ]
        )
        #expect(HolderScan(proc: tree.root).holders(of: "/mnt/other").isEmpty)
    }

    @Test func `this process holds its own program`() {
        let program = SystemFile.readLink("/proc/self/exe") ?? ""
        let holders = HolderScan().holders(of: program)
        #expect(holders.contains { $0.pid == getpid() && $0.use == .program })
    }
}

@Suite struct PCIListingTests {
    @Test func `cards are read from a tree like sysfs, by address`() {
        let tree = MadeUpTree()
        for (address, ids) in [("0000:02:00.0", ("0x10ee\n", "0x7024\n")), ("0000:00:1f.2", ("0x8086\n", "junk\n"))] {
            tree.directory(address)
            tree.file(address + "/vendor", ids.0)
            tree.file(address + "/device", ids.1)
            tree.file(address + "/class", "0x058000\n")
        }
        tree.link("0000:02:00.0/driver", "../../../bus/pci/drivers/vfio-pci")
        tree.link("0000:02:00.0/iommu_group", "../../../kernel/iommu_groups/7")
        tree.directory("not-a-card")
        let cards = PCIListing.cards(root: tree.root)
        #expect(cards.map(\.address.description) == ["0000:00:1f.2", "0000:02:00.0"])
        #expect(cards[0].vendor == 0x8086 && cards[0].device == nil && cards[0].driver == nil && cards[0].group == nil)
        #expect(cards[1].vendor == 0x10ee && cards[1].device == 0x7024 && cards[1].classCode == 0x058000)
        #expect(cards[1].driver == "vfio-pci" && cards[1].group == "7")
    }

    @Test func `a machine without PCI has no cards`() {
        #expect(PCIListing.cards(root: "/not/there").isEmpty)
    }
}

@Suite struct JSONTests {
    @Test func `a text is what any reader takes`() {
        let value = JSON.object([
            .init("a\"b", .array([.integer(-1), .real(0.5), .real(.nan), .boolean(true), .null, .text(nil)])),
            .init("empty", .object([])), .init("text", .string("line\nbreak\u{1}\\ ü")),
        ])
        let expected = #"""
            {
              "a\"b": [
                -1,
                0.5,
                null,
                true,
                null,
                null
              ],
              "empty": {},
              "text": "line\nbreak\u0001\\ ü"
            }
            """#
        #expect(value.description == expected)
    }
}
