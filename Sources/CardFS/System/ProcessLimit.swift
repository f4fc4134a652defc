import Glibc

/// The limits of a process (getrlimit(2)), as the shell's `ulimit` names them.
public enum ProcessLimit: String, CaseIterable, Sendable {
    /// Open files.
    case files = "n"
    /// Processes and threads of the user.
    case processes = "u"
    /// KiB of address space.
    case addressSpace = "v"
    /// KiB of data.
    case data = "d"
    /// KiB of a file; files in memory count.
    case fileSize = "f"

    private var resource: __rlimit_resource_t {
        let resource =
            switch self {
            case .files: RLIMIT_NOFILE
            case .processes: __RLIMIT_NPROC
            case .addressSpace: RLIMIT_AS
            case .data: RLIMIT_DATA
            case .fileSize: RLIMIT_FSIZE
            }
        return __rlimit_resource_t(resource.rawValue)
    }

    private var unit: UInt64 { self == .files || self == .processes ? 1 : 1024 }

    /// What is allowed now, in bytes or pieces; nil without a limit.
    public var value: UInt64? {
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0, limit.rlim_cur != rlim_t.max else { return nil }
        return UInt64(limit.rlim_cur)
    }

    /// `ulimit -n allows 16`; nil without a limit.
    public var words: String? {
        value.map { "ulimit -\(rawValue) allows \($0 / unit)" + (unit == 1 ? "" : " KiB") }
    }

    /// Raises what is allowed now to `value`, as far as the user may; false when it stays lower.
    public func raise(to value: UInt64) -> Bool {
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { return false }
        if limit.rlim_cur >= value { return true }
        limit.rlim_cur = min(limit.rlim_max, rlim_t(value))
        return setrlimit(resource, &limit) == 0 && limit.rlim_cur >= value
    }

    /// What to do about an errno that says that something has come to its end; nil for another errno.
    public static func advice(_ code: CInt) -> String? {
        let concerned: [ProcessLimit]
        switch code {
        case EMFILE: concerned = [.files]
        case EFBIG: concerned = [.fileSize]
        case ENOMEM: concerned = [.addressSpace, .data]
        case EAGAIN: concerned = [.processes, .addressSpace, .data]
        default: return nil
        }
        let words = concerned.compactMap(\.words).joined(separator: ", ")
        let others =
            code == EAGAIN ? "the control group's pids.max limits threads too" : "the machine has no more to give"
        return words.isEmpty ? others : words + (code == EAGAIN ? "; " + others : "")
    }
}

extension Refusal {
    /// What the kernel refused, with the limit that was reached where it was one.
    public init(_ subject: String, code: CInt) {
        self.init("\(subject): \(errnoMeaning(code))", hint: ProcessLimit.advice(code), kind: Kind(errno: code))
    }
}
