public import CardFS
import Glibc
import PCIBus

/// Whether this machine lets the test run mount: `/dev/fuse` can be opened, by root or with fusermount3 at hand.
public let canMount: Bool = {
    guard access("/dev/fuse", R_OK | W_OK) == 0 else { return false }
    if geteuid() == 0 { return true }
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
    return path.split(separator: ":").contains { access($0 + "/fusermount3", X_OK) == 0 }
}()

/// The `cardfs` that was built beside the tests, or that the variable CARDFS_EXECUTABLE names; nil when there is none.
public let cardfsExecutable: String? = {
    if let named = getenv("CARDFS_EXECUTABLE") { return String(cString: named) }
    let places = [SystemFile.readLink("/proc/self/exe")] + CommandLine.arguments.map(Optional.some)
    for place in places.compactMap({ $0 }) {
        let directory = place.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        let candidate = directory + "/cardfs"
        if directory.hasPrefix("/"), access(candidate, X_OK) == 0 { return candidate }
    }
    return nil
}()

/// Why a test has no mount.
public struct MountFailure: Error, CustomStringConvertible {
    /// What happened, with what the daemon said.
    public var description: String
}

/// A card mounted for one test by a `cardfs mount -f` of its own, on a private directory.
///
/// The test process never looks into the mount: everything goes through ``shell(_:timeout:environment:)``. The mount is
/// taken away by ``end()``, at the latest when the last reference goes, whatever state it is in.
public final class MountedCard: Sendable {
    /// Where the card is mounted; `$M` in scripts.
    public let path: String
    /// The process that serves it.
    public let pid: Int32
    /// The card's PCI address, which other mounts of the machine decide too; `$ADDRESS` in scripts.
    public private(set) nonisolated(unsafe) var address = ""  // set before the initializer returns

    private let directory: String
    private let lock = Lock()
    private nonisolated(unsafe) var hasEnded = false  // only with `lock` held
    private nonisolated(unsafe) var status: Int32?  // only with `lock` held

    /// Mounts a card and waits, at most 10 seconds, until its `state` can be read. Blocks.
    ///
    /// - Parameters:
    ///   - options: The value of `-o`, such as `gather=1ms,linger=0`; nil for none.
    ///   - card: The card to mount.
    ///   - environment: Variables of the daemon beside those of this process.
    /// - Throws: ``MountFailure``; then nothing is left behind.
    public init(_ options: String? = nil, card: String = "sim", environment: [String: String] = [:]) throws {
        guard let executable = cardfsExecutable else { throw MountFailure(description: "there is no cardfs to run") }
        let place = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(place)/cardfs-test-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template), let resolved = realpath(made, nil) else {
            throw MountFailure(description: "no directory in \(place)")
        }
        directory = String(cString: resolved)
        free(resolved)
        path = directory + "/card"
        mkdir(path, 0o755)
        let log = open(directory + "/log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)
        defer { close(log) }
        // The tests of the driver run with its verifier on.
        let arguments = [executable, "mount", card, path, "-f", "-o", "verify"] + (options.map { ["-o", $0] } ?? [])
        pid = BoundedProcess.spawn(arguments, environment: environment, output: log, errors: log)
        do {
            try waitUntilReady()
            let list = BoundedProcess.run(["/bin/ls", path + "/devices"], timeout: .seconds(5))
            address = String(list.text.prefix { $0 != "\n" })
        } catch {
            end()
            throw error
        }
    }

    deinit {
        end()
        lock.destroy()
    }

    /// What the daemon has written so far.
    public var log: String { SystemFile.read(directory + "/log") ?? "" }

    /// The connection of the mount in the kernel; nil when it is not mounted.
    public var connection: FuseConnection? {
        MountTable.current().top(at: path).map { FuseConnection(number: $0.minor) }
    }

    /// Runs a script with the mount in `$M` and the executable in `$CARDFS`, in a process group of its own that is killed as
    /// a whole at the time limit.
    public func shell(
        _ script: String,
        timeout: Duration = .seconds(20),
        environment: [String: String] = [:]
    ) async -> ShellResult {
        await TestSupport.shell(script, timeout: timeout, environment: variables.merging(environment) { _, new in new })
    }

    /// Takes the mount away and ends the daemon, by force where asking does not help; blocks at most half a minute. Returns
    /// the daemon's exit status, nil when it had to be left behind. A second call does nothing.
    @discardableResult public func end() -> Int32? {
        lock.locked {
            if hasEnded { return status }
            hasEnded = true
            status = takeAway()
            unlink(directory + "/log")
            rmdir(path)
            rmdir(directory)
            return status
        }
    }

    private var variables: [String: String] { ["M": path, "ADDRESS": address, "CARDFS": cardfsExecutable ?? "cardfs"] }

    private func waitUntilReady() throws {
        guard pid > 0 else { throw MountFailure(description: "cardfs cannot be started") }
        let limit = BoundedProcess.now() + 10_000
        while BoundedProcess.now() < limit {
            if let status = BoundedProcess.reap(pid) {
                lock.locked { self.status = status }
                throw MountFailure(description: "cardfs ended with status \(status): \(log)")
            }
            if MountTable.current().top(at: path) != nil {
                let look = ["/bin/cat", path + "/state"]
                if BoundedProcess.run(look, timeout: .seconds(2)).status == 0 { return }
            }
            usleep(10_000)
        }
        throw MountFailure(description: "the mount did not answer within 10 seconds: \(log)")
    }

    private func takeAway() -> Int32? {
        if let ended = status {
            detach()
            return ended
        }
        guard pid > 0 else { return nil }
        if MountTable.current().top(at: path) != nil {
            let unmounted = BoundedProcess.run(["/bin/umount", path], timeout: .seconds(5)).status == 0
            if !unmounted { detach() }
        } else {
            kill(pid, SIGTERM)
        }
        if let ended = BoundedProcess.reap(pid, milliseconds: 8000) { return ended }
        // Parked requests of clients that are still there, or a daemon that hangs.
        kill(pid, SIGKILL)
        detach()
        return BoundedProcess.reap(pid, milliseconds: 5000)
    }

    /// Ends the connection and detaches what is mounted, busy or not.
    private func detach() {
        for _ in 0..<8 {
            guard let connection else { return }
            if connection.abort() != 0 { _ = Unmounting.force(path) }
            if self.connection != nil { _ = try? Unmounting.unmount(path, lazily: true) }
        }
    }
}
