import Glibc
import PCIBus
import TestSupport
import Testing

/// The files of a card, used by the programs that people use: every rule of the tree on a real mount.
///
/// One test at a time: many of them are about time, and two transfers at once would measure each other.
@Suite(.serialized, .enabled(if: canMount, "needs /dev/fuse, and root or fusermount3"), .timeLimit(.minutes(3)))
enum MountTests {}

extension MountedCard {
    /// What every Python program of the tests begins with. `fails` checks both halves of a refusal: the errno that the
    /// program gets, and the sentence that the person finds in `last_error`.
    private static let prelude = """
        import ctypes, errno, mmap, os, re, select, signal, struct, subprocess, sys, threading, time
        M = os.environ["M"]
        ADDRESS = os.environ["ADDRESS"]
        def at(name): return M + "/" + name
        def opened(name, flags=os.O_RDONLY): return os.open(at(name), flags)
        def read(name, count=1 << 16, flags=0, offset=None):
            fd = opened(name, os.O_RDONLY | flags)
            try: return os.read(fd, count) if offset is None else os.pread(fd, count, offset)
            finally: os.close(fd)
        def write(name, data, flags=0, offset=None):
            fd = opened(name, os.O_WRONLY | flags)
            data = data.encode() if isinstance(data, str) else data
            try: return os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
            finally: os.close(fd)
        def last_error(): return (read("last_error").decode().splitlines() or [""])[-1]
        def metric(name):
            return int(re.search(r"^cardfs_%s\\{[^}]*\\} (\\d+)$" % name, read("metrics.prom").decode(), re.M)[1])
        def fails(code, path, sentence, call):
            try: result = call()
            except OSError as error:
                assert error.errno == code, (errno.errorcode[error.errno], str(error), last_error())
                if path is None: return
                # The driver tells of a loss on its own account too, at about the same time.
                lines = [line.split(" ", 5) for line in read("last_error").decode().splitlines()[-3:]]
                wanted = [str(os.getpid()), path, errno.errorcode[code]]
                assert any(line[2:5] == wanted and sentence in line[5] for line in lines), (wanted, sentence, lines)
                return
            raise AssertionError("no failure but %r" % (result,))
        def within(seconds, call):
            start = time.monotonic()
            result = call()
            assert time.monotonic() - start < seconds, time.monotonic() - start
            return result
        def readall(fd, count):
            parts = []
            while count > 0:
                part = os.read(fd, count)
                parts.append(part)
                count -= len(part)
            return b"".join(parts)

        """

    /// Runs a Python program; an assertion that does not hold ends it with status 1 and its text on standard error.
    func python(
        _ program: String,
        timeout: Duration = .seconds(30),
        environment: [String: String] = [:]
    ) async -> ShellResult {
        await shell(
            "exec python3 -c \"$PROGRAM\"",
            timeout: timeout,
            environment: environment.merging(["PROGRAM": Self.prelude + program]) { _, new in new }
        )
    }

    /// Runs a Python program whose assertions must hold. Unless it `provokes` the verifier, that has found nothing.
    func check(
        _ program: String,
        timeout: Duration = .seconds(30),
        environment: [String: String] = [:],
        provokes: Bool = false,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async {
        let result = await python(program, timeout: timeout, environment: environment)
        #expect(
            result.status == 0 && !result.timedOut,
            "\(result.timedOut ? "timed out; " : "")\(result.text)\(result.errors)\n\(log)",
            sourceLocation: sourceLocation
        )
        if !provokes { #expect(!log.contains("verifier: "), "\(log)", sourceLocation: sourceLocation) }
    }

    /// Runs a script, all of whose commands must succeed, and answers what it wrote.
    @discardableResult func run(
        _ script: String,
        timeout: Duration = .seconds(30),
        environment: [String: String] = [:],
        sourceLocation: SourceLocation = #_sourceLocation
    ) async -> String {
        let result = await shell("set -e -o pipefail\n" + script, timeout: timeout, environment: environment)
        #expect(
            result.status == 0 && !result.timedOut,
            "\(result.timedOut ? "timed out; " : "")status \(result.status): \(result.text)\(result.errors)\n\(log)",
            sourceLocation: sourceLocation
        )
        return result.text
    }
}
