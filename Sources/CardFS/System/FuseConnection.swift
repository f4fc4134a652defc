import Glibc

/// The kernel's side of a FUSE mount: its control files in `/sys/fs/fuse/connections`, and who serves it.
public struct FuseConnection: Sendable {
    /// The connection's number, which is the minor device number of the mount.
    public let number: UInt32

    private let control: String
    private let proc: String

    /// Names a connection; a test gives directories that it made.
    public init(number: UInt32, control: String = "/sys/fs/fuse/connections", proc: String = "/proc") {
        self.number = number
        self.control = "\(control)/\(number)"
        self.proc = proc
    }

    /// Whether the control files are there. They are while the connection lives, if fusectl is mounted.
    public var isListed: Bool { SystemFile.list(control) != nil }

    /// Requests that wait for an answer; nil when that is not known.
    public var waiting: Int? { SystemFile.readWord(control + "/waiting").flatMap { Int($0) } }

    /// Ends the connection: everything that is parked, and everything that will be asked, fails. Returns 0 or an errno,
    /// ENOENT when there is no control file.
    public func abort() -> CInt {
        let descriptor = open(control + "/abort", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        return write(descriptor, "1\n", 2) < 0 ? errno : 0
    }

    /// The processes that serve the mount, by rising number: those with `/dev/fuse` open for this connection. A kernel that
    /// does not tell which connection that is leaves the command line, which names the mount point.
    public func daemons(mountpoint: String) -> [Int32] {
        let pids = (SystemFile.list(proc) ?? []).compactMap { Int32($0) }.sorted()
        return pids.filter { pid in
            for descriptor in SystemFile.list("\(proc)/\(pid)/fd") ?? [] {
                guard SystemFile.readLink("\(proc)/\(pid)/fd/\(descriptor)") == "/dev/fuse" else { continue }
                let lines = (SystemFile.read("\(proc)/\(pid)/fdinfo/\(descriptor)") ?? "").split(separator: "\n")
                if let line = lines.first(where: { $0.hasPrefix("fuse_connection:") }) {
                    if line.split(whereSeparator: \.isWhitespace).last.flatMap({ UInt32($0) }) == number { return true }
                } else {
                    let words = (SystemFile.read("\(proc)/\(pid)/cmdline") ?? "").split(separator: "\0")
                    if words.contains(where: { $0 == mountpoint }) { return true }
                }
            }
            return false
        }
    }
}
