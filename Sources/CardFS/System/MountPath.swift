import Glibc

/// Mount points as mountinfo writes them.
public enum MountPath {
    /// The absolute path without links, `.` and `..`, found without a request to what is mounted at its end, whose daemon
    /// may be dead or stopped. Throws when a directory on the way does not exist.
    public static func resolve(_ path: String) throws(Refusal) -> String {
        var path = path
        // As many links as the kernel follows.
        for _ in 0..<40 {
            let components = path.split(separator: "/")
            guard let last = components.last, last != ".", last != ".." else { return try real(path) }
            let above = components.dropLast().joined(separator: "/")
            let directory = try real(path.hasPrefix("/") ? "/" + above : above.isEmpty ? "." : above)
            let resolved = (directory == "/" ? "" : directory) + "/" + last
            // Reading a link says EINVAL for a directory, by its type alone.
            guard let target = SystemFile.readLink(resolved) else { return resolved }
            path = target.hasPrefix("/") ? target : (directory == "/" ? "" : directory) + "/" + target
        }
        throw Refusal(path, code: ELOOP)
    }

    private static func real(_ path: String) throws(Refusal) -> String {
        guard let resolved = realpath(path, nil) else { throw Refusal(path, code: errno) }
        defer { free(resolved) }
        return String(cString: resolved)
    }
}
