/// The mounts of this process's namespace, read from `/proc/self/mountinfo`, which touches none of them.
public struct MountTable: Sendable {
    /// The type the kernel shows for a cardfs mount.
    public static let type = "fuse.cardfs"

    /// One line of mountinfo.
    public struct Entry: Hashable, Sendable {
        /// The mount's number.
        public var id: Int
        /// The number of the mount it is mounted on.
        public var parent: Int
        /// Major device number of the files.
        public var major: UInt32
        /// Minor device number; for FUSE the number of the connection in `/sys/fs/fuse/connections`.
        public var minor: UInt32
        /// Where it is mounted, an absolute path.
        public var mountpoint: String
        /// Options of this mount.
        public var options: String
        /// `ext4`, `fuse.cardfs`.
        public var type: String
        /// What is mounted: a device, a card.
        public var source: String

        /// Whether this is a cardfs mount.
        public var isCardFS: Bool { type == MountTable.type }
    }

    /// The mounts, in the order they were made; a later one hides an earlier one at the same place.
    public var entries: [Entry]

    /// Reads the text of mountinfo; lines of another form are left out.
    public init(_ text: String) {
        entries = text.split(separator: "\n").compactMap(Self.entry)
    }

    /// The mounts of now.
    public static func current() -> MountTable { MountTable(SystemFile.read("/proc/self/mountinfo") ?? "") }

    /// What is seen at a mount point; nil when nothing is mounted there.
    public func top(at mountpoint: String) -> Entry? { entries.last { $0.mountpoint == mountpoint } }

    /// Mount points below a mount point, which keep it busy.
    public func below(_ mountpoint: String) -> [Entry] {
        entries.filter { $0.mountpoint.hasPrefix(mountpoint == "/" ? "/" : mountpoint + "/") }
    }

    /// `36 35 98:0 /root /mountpoint options [optional fields] - type source superoptions` (proc(5)).
    private static func entry(_ line: Substring) -> Entry? {
        let fields = line.split(separator: " ", omittingEmptySubsequences: false)
        guard fields.count >= 10, let dash = fields.dropFirst(6).firstIndex(of: "-"), dash + 2 < fields.count,
            let id = Int(fields[0]), let parent = Int(fields[1])
        else { return nil }
        let device = fields[2].split(separator: ":")
        guard device.count == 2, let major = UInt32(device[0]), let minor = UInt32(device[1]) else { return nil }
        return Entry(
            id: id,
            parent: parent,
            major: major,
            minor: minor,
            mountpoint: unescaped(fields[4]),
            options: String(fields[5]),
            type: unescaped(fields[dash + 1]),
            source: unescaped(fields[dash + 2])
        )
    }

    /// Undoes the kernel's escapes: a backslash and three octal digits for blank, tab, newline, `\` and `#`.
    static func unescaped(_ field: Substring) -> String {
        let bytes = Array(field.utf8)
        var result: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "\\"), index + 3 < bytes.count {
                let digits = bytes[index + 1...index + 3]
                if let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8) {
                    result.append(value)
                    index += 4
                    continue
                }
            }
            result.append(bytes[index])
            index += 1
        }
        return String(decoding: result, as: UTF8.self)
    }
}
