import CHardware
import CardFS
import Glibc

/// The background process of a mount.
///
/// It is this program started anew, since a process with Swift's run-time must not go on after fork(2). A pipe tells the
/// parent `ok`, or a sentence and a hint.
enum Daemon {
    /// How long the mount may take.
    static let secondsUntilReady = 20

    /// Starts the program with `arguments` and returns when the mount answers.
    static func launch(_ arguments: [String], mountpoint: String) throws(Refusal) {
        let ends = try ChildProcess.pipe()
        defer { close(ends.reader) }
        let pid = try start(arguments, writer: ends.writer)
        let deadline = now() + secondsUntilReady * 1000
        guard let told = collect(ends.reader, until: deadline) else {
            end(pid, mountpoint)
            throw Refusal(
                "the mount did not answer within \(secondsUntilReady) seconds",
                hint: "the system log says what cardfs was doing: journalctl -t cardfs",
                kind: .unavailable
            )
        }
        if told != "ok\n" {
            let status = ChildProcess.wait(for: pid)
            takeAway(mountpoint)
            let lines = told.split(separator: "\n").map(String.init)
            guard let sentence = lines.first else {
                throw Refusal(
                    "the daemon ended with status \(status) before the mount answered",
                    hint: "cardfs mount -f shows what happens"
                )
            }
            throw Refusal(
                sentence,
                hint: lines.count > 1 ? lines[1] : nil,
                kind: Refusal.Kind(rawValue: status) ?? .other
            )
        }
        do {
            try look(at: mountpoint)
        } catch {
            end(pid, mountpoint)
            throw error
        }
    }

    /// Looks whether the mount answers. The parent may touch it; the daemon never does.
    private static func look(at mountpoint: String) throws(Refusal) {
        switch try BoundedStat.look(at: mountpoint + "/state", seconds: 5) {
        case .found: return
        case .failed(let code):
            throw Refusal(
                "the card was mounted on \(mountpoint), but its files cannot be reached: \(errnoMeaning(code))",
                hint: "it is unmounted again; user and group must be those who mount, or -o allow_other",
                kind: Refusal.Kind(errno: code)
            )
        case .noAnswer:
            throw Refusal(
                "the card was mounted on \(mountpoint), but does not answer",
                hint: "it is unmounted again; the system log says more: journalctl -t cardfs",
                kind: .unavailable
            )
        }
    }

    /// The descriptor the daemon finds its end of the pipe at.
    private static let readyDescriptor: CInt = 3

    private static func start(_ arguments: [String], writer: CInt) throws(Refusal) -> pid_t {
        // Above the descriptors that are set up below, even when the shell gave fewer than three.
        let high = fcntl(writer, F_DUPFD_CLOEXEC, 10)
        close(writer)
        guard high >= 0 else { throw Refusal("the host gives no pipe", code: errno) }
        defer { close(high) }

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        if fcntl(STDERR_FILENO, F_GETFD) < 0 {
            posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        }
        posix_spawn_file_actions_adddup2(&actions, high, readyDescriptor)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var pid: pid_t = 0
        let vector = ["cardfs"] + arguments + ["--ready-fd", String(readyDescriptor)]
        let code = ChildProcess.withArguments(vector) {
            posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, $0, environ)
        }
        guard code == 0 else { throw Refusal("the daemon cannot be started", code: code) }
        return pid
    }

    /// Makes a daemon of this process, first thing: a session of its own, and nothing open but the three standard
    /// descriptors and `kept`. A descriptor of the shell, such as a lock's, must not live as long as the mount.
    static func detach(keeping kept: CInt) {
        setsid()
        umask(0o022)
        // Started as /proc/self/exe, it would be called "exe".
        chw_name_thread("cardfs")
        for name in SystemFile.list("/proc/self/fd") ?? [] {
            if let descriptor = CInt(name), descriptor > STDERR_FILENO, descriptor != kept { close(descriptor) }
        }
    }

    /// What the daemon told until it said `ok` or closed the pipe; nil when neither came in time.
    private static func collect(_ reader: CInt, until deadline: Int) -> String? {
        var told: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let left = deadline - now()
            guard left > 0 else { return nil }
            var poller = pollfd(fd: reader, events: Int16(POLLIN), revents: 0)
            guard poll(&poller, 1, CInt(left)) > 0 else { continue }
            let count = read(reader, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            if count > 0 { told += chunk[..<count] }
            if count <= 0 || told == Array("ok\n".utf8) { return String(decoding: told, as: UTF8.self) }
        }
    }

    /// Ends a daemon that is of no use: asks, upon which it unmounts; then insists. One that hangs in the kernel is left to it.
    private static func end(_ pid: pid_t, _ mountpoint: String) {
        defer { takeAway(mountpoint) }
        for number in [SIGTERM, SIGKILL] {
            kill(pid, number)
            for _ in 0..<200 {
                var status: CInt = 0
                if waitpid(pid, &status, WNOHANG) != 0 { return }
                usleep(20_000)
            }
        }
    }

    /// Detaches what a daemon left behind. No other command mounts there meanwhile, and there was no card before.
    private static func takeAway(_ mountpoint: String) {
        guard MountTable.current().top(at: mountpoint)?.isCardFS == true else { return }
        _ = try? Unmounting.unmount(mountpoint, lazily: true)
    }

    /// Milliseconds of CLOCK_MONOTONIC.
    private static func now() -> Int {
        Int(chw_clock_nanoseconds(CLOCK_MONOTONIC) / 1_000_000)
    }
}

/// The daemon's end of the pipe to the command that started it.
final class Readiness {
    private var descriptor: CInt

    /// Takes the descriptor over.
    init(descriptor: CInt) {
        self.descriptor = descriptor
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    }

    /// Says that the mount answers, and lets go of the terminal. False when nobody listens any more.
    func tellReady() -> Bool {
        let wasHeard = tell("ok\n")
        // The daemon's standard output is /dev/null from its start; what it gave up with its privileges includes opening it.
        dup2(STDOUT_FILENO, STDERR_FILENO)
        return wasHeard
    }

    /// Says why there is no mount; nothing once ``tellReady()`` was called.
    func tell(_ refusal: Refusal) { _ = tell(refusal.sentence + "\n" + (refusal.hint.map { $0 + "\n" } ?? "")) }

    private func tell(_ text: String) -> Bool {
        guard descriptor >= 0 else { return false }
        let bytes = Array(text.utf8)
        let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        close(descriptor)
        descriptor = -1
        return count == bytes.count
    }
}
