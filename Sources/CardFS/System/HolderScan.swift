/// Who keeps a mount busy, found in `/proc` by the texts of links and maps alone: no look goes through the mount, whose
/// daemon may not answer any more.
public struct HolderScan: Sendable {
    /// A process and one thing it holds.
    public struct Holder: Hashable, Sendable {
        /// The process.
        public var pid: Int32
        /// Its command name.
        public var command: String
        /// How it holds the file.
        public var use: Use
        /// The file, an absolute path.
        public var path: String

        /// `4711 (dd) has /mnt/dma/rx open`.
        public var description: String {
            // A process chooses its name.
            let command = QuotedText.line(command)
            let path = QuotedText.line(path)
            return switch use {
            case .open: "\(pid) (\(command)) has \(path) open"
            case .workingDirectory: "\(pid) (\(command)) has its working directory in \(path)"
            case .root: "\(pid) (\(command)) has its root directory in \(path)"
            case .mapped: "\(pid) (\(command)) has \(path) mapped"
            case .program: "\(pid) (\(command)) runs \(path)"
            }
        }
    }

    /// How a process holds a file.
    public enum Use: Hashable, Sendable {
        /// An open file.
        case open
        /// Its working directory.
        case workingDirectory
        /// Its root directory.
        case root
        /// Mapped memory.
        case mapped
        /// The program it runs.
        case program
    }

    private let proc: String

    /// Looks at `proc`, which a test replaces by a tree it made.
    public init(proc: String = "/proc") { self.proc = proc }

    /// The processes that hold something at or below `mountpoint`, by rising number. Those of other users are seen by root
    /// only.
    public func holders(of mountpoint: String) -> [Holder] {
        let pids = (SystemFile.list(proc) ?? []).compactMap { Int32($0) }.sorted()
        return pids.flatMap { holders(of: mountpoint, pid: $0) }
    }

    private func holders(of mountpoint: String, pid: Int32) -> [Holder] {
        let directory = "\(proc)/\(pid)"
        var found: [(use: Use, path: String)] = []
        func note(_ use: Use, _ path: String?) {
            guard let path, Self.lies(path, within: mountpoint) else { return }
            if !found.contains(where: { $0.use == use && $0.path == path }) { found.append((use, path)) }
        }
        for descriptor in (SystemFile.list(directory + "/fd") ?? []).sorted() {
            note(.open, SystemFile.readLink("\(directory)/fd/\(descriptor)"))
        }
        note(.workingDirectory, SystemFile.readLink(directory + "/cwd"))
        note(.root, SystemFile.readLink(directory + "/root"))
        note(.program, SystemFile.readLink(directory + "/exe"))
        for line in (SystemFile.read(directory + "/maps") ?? "").split(separator: "\n") {
            // address permissions offset device inode      path
            guard let slash = line.firstIndex(of: "/") else { continue }
            let path = MountTable.unescaped(line[slash...])
            if !found.contains(where: { $0.use == .program && $0.path == path }) { note(.mapped, path) }
        }
        guard !found.isEmpty else { return [] }
        let command = SystemFile.readWord(directory + "/comm") ?? "?"
        return found.map { Holder(pid: pid, command: command, use: $0.use, path: $0.path) }
    }

    private static func lies(_ path: String, within mountpoint: String) -> Bool {
        path == mountpoint || path.hasPrefix(mountpoint == "/" ? "/" : mountpoint + "/")
    }
}
