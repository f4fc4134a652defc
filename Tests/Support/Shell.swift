import CHardware
import CardFS
import Glibc
import PCIBus

/// How a child process of a test ended, and what it wrote.
public struct ShellResult: Sendable {
    /// The exit status; 128 and the signal's number for a process that a signal ended.
    public var status: Int32
    /// The bytes of standard output.
    public var output: [UInt8]
    /// Standard error.
    public var errors: String
    /// Whether the time limit ended it.
    public var timedOut: Bool

    /// Standard output as text.
    public var text: String { String(decoding: output, as: UTF8.self) }
}

/// Runs a script with `/bin/bash -c`, in a process group of its own that is killed as a whole at the time limit.
///
/// A mount is only ever touched this way: a look that hangs then ends with the child, not with the test run.
public func shell(
    _ script: String,
    timeout: Duration = .seconds(20),
    environment: [String: String] = [:]
) async -> ShellResult {
    await withCheckedContinuation { continuation in
        // A thread of its own: the pool of Swift's tasks has as many threads as processors, and this one blocks.
        _ = Thread(name: "shell") {
            continuation.resume(
                returning: BoundedProcess.run(["/bin/bash", "-c", script], timeout: timeout, environment: environment)
            )
        }
    }
}

/// Child processes with a time limit.
public enum BoundedProcess {
    /// Runs a program with nothing to read and waits for its end, or kills its process group at the time limit. Blocks.
    ///
    /// - Parameters:
    ///   - arguments: The path of the program, and its arguments.
    ///   - environment: Variables beside those of this process.
    public static func run(
        _ arguments: [String],
        timeout: Duration = .seconds(20),
        environment: [String: String] = [:]
    ) -> ShellResult {
        guard let output = pipeEnds(), let errors = pipeEnds() else {
            return ShellResult(status: 127, output: [], errors: "no pipe", timedOut: false)
        }
        defer {
            close(output.reader)
            close(errors.reader)
        }
        let pid = spawn(arguments, environment: environment, output: output.writer, errors: errors.writer)
        close(output.writer)
        close(errors.writer)
        guard pid > 0 else {
            let reason = "\(arguments[0]) cannot be started"
            return ShellResult(status: 127, output: [], errors: reason, timedOut: false)
        }

        let limit = now() + milliseconds(timeout)
        var readers = [output.reader, errors.reader]
        var collected: [[UInt8]] = [[], []]
        var ended: Int32?
        var lastLook = limit
        // A child of the child may keep a pipe open; 200 ms after the end of the script nobody waits for it.
        while now() < lastLook, readers != [-1, -1] || ended == nil {
            drain(&readers, into: &collected, milliseconds: ended == nil ? 10 : 1)
            if ended == nil {
                ended = reap(pid)
                if ended != nil { lastLook = min(limit, now() + 200) }
            }
        }
        let timedOut = ended == nil
        if timedOut {
            kill(-pid, SIGKILL)
            ended = reap(pid, milliseconds: 2000)
        }
        drain(&readers, into: &collected, milliseconds: 0)
        return ShellResult(
            status: ended ?? 128 + SIGKILL,
            output: collected[0],
            errors: String(decoding: collected[1], as: UTF8.self),
            timedOut: timedOut
        )
    }

    /// Starts a program in a process group of its own; -1 when that fails.
    static func spawn(_ arguments: [String], environment: [String: String], output: CInt, errors: CInt) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
        posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO)

        // Threads here may have signals blocked, which a child would inherit.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(
            &attributes,
            Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)
        )

        var variables = (SystemFile.read("/proc/self/environ") ?? "").split(separator: "\0").map(String.init)
        variables.removeAll { variable in environment.keys.contains { variable.hasPrefix($0 + "=") } }
        variables += environment.map { "\($0)=\($1)" }
        var pid: pid_t = -1
        let code = ChildProcess.withArguments(arguments) { argumentVector in
            ChildProcess.withArguments(variables) { variableVector in
                posix_spawn(&pid, arguments[0], &actions, &attributes, argumentVector, variableVector)
            }
        }
        return code == 0 ? pid : -1
    }

    /// The exit status of a child that has ended within some time; nil when it has not.
    static func reap(_ pid: pid_t, milliseconds: Int = 0) -> Int32? {
        let limit = now() + milliseconds
        while true {
            var status: CInt = 0
            let result = waitpid(pid, &status, WNOHANG)
            if result == pid { return ChildProcess.exitStatus(status) }
            if result < 0, errno != EINTR { return 127 }
            guard now() < limit else { return nil }
            usleep(5000)
        }
    }

    /// Milliseconds of CLOCK_MONOTONIC.
    static func now() -> Int {
        Int(chw_clock_nanoseconds(CLOCK_MONOTONIC) / 1_000_000)
    }

    private static func milliseconds(_ duration: Duration) -> Int {
        Int(duration.components.seconds) * 1000 + Int(duration.components.attoseconds / 1_000_000_000_000_000)
    }

    /// A pipe that no other child inherits, not even one that another thread starts right now: O_CLOEXEC comes with the
    /// descriptors of a socket pair, and pipe2 is hidden from Swift.
    private static func pipeEnds() -> (reader: CInt, writer: CInt)? {
        var ends: [CInt] = [-1, -1]
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { return nil }
        shutdown(ends[0], CInt(SHUT_WR))
        return (ends[0], ends[1])
    }

    /// Takes what there is, waiting a little for something to come; a pipe at its end becomes -1.
    private static func drain(_ readers: inout [CInt], into collected: inout [[UInt8]], milliseconds: CInt) {
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        var wait = milliseconds
        while true {
            var polled = readers.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            guard poll(&polled, 2, wait) > 0 else { return }
            wait = 0
            for index in 0..<2 where polled[index].revents != 0 {
                let count = read(readers[index], &chunk, chunk.count)
                if count > 0 {
                    collected[index] += chunk[..<count]
                } else if count == 0 || errno != EINTR {
                    readers[index] = -1
                }
            }
        }
    }
}
