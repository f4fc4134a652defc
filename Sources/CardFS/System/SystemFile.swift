import Glibc

/// Small files and directories of /proc and /sys, without Foundation. Any thread; nothing is cached.
public enum SystemFile {
    /// The bytes of a file as text, up to `limit` bytes; nil when it cannot be read.
    public static func read(_ path: String, limit: Int = 16 << 20) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        while bytes.count < limit {
            var failed = false
            let chunk = [UInt8](unsafeUninitializedCapacity: 64 << 10) { buffer, count in
                var done = -1
                repeat {
                    done = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
                } while done < 0 && errno == EINTR
                failed = done < 0
                count = max(0, done)
            }
            if failed { return nil }
            if chunk.isEmpty { break }
            bytes += chunk
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A file's text without blanks and newlines at its ends; nil when it cannot be read.
    public static func readWord(_ path: String) -> String? {
        guard let text = read(path) else { return nil }
        let bytes = Array(text.utf8)
        guard let first = bytes.firstIndex(where: { $0 > 0x20 }), let last = bytes.lastIndex(where: { $0 > 0x20 })
        else {
            return ""
        }
        return String(decoding: bytes[first...last], as: UTF8.self)
    }

    /// The names in a directory in no particular order, without `.` and `..`; nil when it cannot be read.
    public static func list(_ path: String) -> [String]? {
        guard let directory = opendir(path) else { return nil }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// What a symbolic link holds; nil when there is none. Never follows it.
    public static func readLink(_ path: String) -> String? {
        let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
            count = buffer.withMemoryRebound(to: CChar.self) { text in
                text.baseAddress.map { max(0, readlink(path, $0, text.count)) } ?? 0
            }
        }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    /// The process that a thread belongs to, which is what people know by a number; the thread's own number when it has ended.
    public static func process(of thread: Int32) -> Int32 {
        guard thread > 0, let text = read("/proc/\(thread)/status", limit: 1) else { return thread }
        let line = text.split(separator: "\n").first { $0.hasPrefix("Tgid:") }
        return line?.split(separator: "\t").last.flatMap { Int32($0) } ?? thread
    }

    /// The last component of a path.
    public static func lastComponent(_ path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }
}
