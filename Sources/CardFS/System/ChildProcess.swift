import Glibc

/// A helper program, run to its end.
public enum ChildProcess {
    /// How a program ended.
    public struct Result: Sendable {
        /// The exit status; 128 and the signal's number for a program that a signal ended.
        public var status: CInt
        /// What it wrote to standard error, at most 64 KiB.
        public var errors: String
    }

    /// Runs a program of the search path with nothing to read and its output thrown away, and waits for its end.
    public static func run(_ program: String, _ arguments: [String]) throws(Refusal) -> Result {
        let ends = try pipe()
        defer { close(ends.reader) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, ends.writer, STDERR_FILENO)
        var pid: pid_t = 0
        let code = withArguments([program] + arguments) { posix_spawnp(&pid, program, &actions, nil, $0, environ) }
        close(ends.writer)
        guard code == 0 else { throw Refusal("\(program) cannot be started", code: code) }

        var errors: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(ends.reader, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            if errors.count < 64 << 10 { errors += chunk[..<count] }
        }
        return Result(status: wait(for: pid), errors: String(decoding: errors, as: UTF8.self))
    }

    /// A pipe whose ends no program inherits. (pipe2 is hidden from Swift; between the calls no thread may start a program,
    /// which no thread of a command does.)
    public static func pipe() throws(Refusal) -> (reader: CInt, writer: CInt) {
        var ends: [CInt] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { throw Refusal("the host gives no pipe", code: errno) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    /// Waits for a child to end; its exit status, or 128 and the signal's number.
    public static func wait(for pid: Int32) -> CInt {
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0 {
            if errno != EINTR { return -1 }
        }
        return exitStatus(status)
    }

    /// The exit status in what waitpid(2) says, or 128 and the signal's number.
    public static func exitStatus(_ status: CInt) -> CInt {
        status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
    }

    /// Calls `body` with an argument vector that is valid during the call.
    public static func withArguments<T>(
        _ arguments: [String],
        _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> T
    ) -> T {
        var vector: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        vector.append(nil)
        defer { for argument in vector { free(argument) } }
        return vector.withUnsafeBufferPointer { buffer in
            guard let base = buffer.baseAddress else { preconditionFailure("the vector has at least its end") }
            return body(base)
        }
    }
}
