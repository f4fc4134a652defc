import CardFS
import Glibc
import TestSupport

/// A directory to mount on, from which the mount is taken away whatever the test did.
final class Place: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/cardfs-place-XXXXXX".utf8CString)
        path = mkdtemp(&template).flatMap { realpath($0, nil) }.map { String(cString: $0) } ?? ""
    }

    deinit {
        if let mount = MountTable.current().top(at: path) {
            _ = FuseConnection(number: mount.minor).abort()
            _ = Unmounting.force(path)
        }
        rmdir(path)
    }

    func shell(_ script: String) async -> ShellResult {
        await TestSupport.shell(script, environment: ["M": path, "CARDFS": cardfsExecutable ?? ""])
    }

    /// The daemon's process, seen from the kernel's side.
    var daemon: Int32? {
        MountTable.current().top(at: path).flatMap {
            FuseConnection(number: $0.minor).daemons(mountpoint: path).first
        }
    }
}
