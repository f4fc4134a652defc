import CardFS
import Glibc
import Logging
import PCIBus
import Testing

@Suite final class FailureLogTests {
    /// Keeps what was logged.
    private final class Sink: Sendable {
        private let lock = Lock()
        private nonisolated(unsafe) var lines: [String] = []

        deinit { lock.destroy() }

        func append(_ line: String) { lock.locked { lines.append(line) } }
        var all: [String] { lock.locked { lines } }
    }

    private struct Handler: LogHandler {
        let sink: Sink
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.trace

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { sink.append("\(event.level) \(event.message)") }
    }

    private let sink = Sink()
    private let clock = Clock.stepped()

    deinit { clock.destroy() }

    private func makeLog() -> FailureLog {
        let sink = sink
        let logger = Logger(label: "test") { _ in Handler(sink: sink) }
        return FailureLog(logger: logger, clock: clock, realTime: { 1_700_000_000_000_000_042 })
    }

    @Test func `a failure is one line with time, process, file, errno and sentence`() {
        let log = makeLog()
        log.record(code: EINVAL, path: "bar0", pid: 4711, sentence: "\"x\" is not a number")
        log.record(code: ETIMEDOUT, path: "dma/tx", pid: 0, sentence: "the receiver is full: read dma/rx")
        let text = """
            1 1700000000.000000042 4711 bar0 EINVAL "x" is not a number
            2 1700000000.000000042 0 dma/tx ETIMEDOUT the receiver is full: read dma/rx

            """
        #expect(log.text == text)
        #expect(log.count == 2)
    }

    @Test func `a file name cannot forge a line or a field`() {
        let log = makeLog()
        log.record(code: ENOENT, path: "regs/a b\n2 \\", pid: 1, sentence: "no such register")
        #expect(log.text == "1 1700000000.000000042 1 regs/a\\040b\\0122\\040\\134 ENOENT no such register\n")
    }

    @Test func `the last 64 are kept, newest last`() {
        let log = makeLog()
        for number in 1...100 { log.record(code: EIO, path: "f\(number)", pid: 1, sentence: "s") }
        let lines = log.text.split(separator: "\n")
        #expect(lines.count == 64)
        #expect(lines.first?.hasPrefix("37 ") == true && lines.last?.hasPrefix("100 ") == true)
        log.clear()
        #expect(log.text == "" && log.count == 100)
    }

    @Test func `the system log hears of one kind of failure once a second`() {
        let log = makeLog()
        for _ in 0..<5 { log.record(code: EINVAL, path: "bar0", pid: 1, sentence: "bad") }
        log.record(code: ERANGE, path: "bar0", pid: 1, sentence: "far")
        #expect(sink.all == ["notice bar0: EINVAL: bad, process 1", "notice bar0: ERANGE: far, process 1"])
        clock.advance(byNanoseconds: 1_000_000_000)
        log.record(code: EINVAL, path: "bar0", pid: 2, sentence: "bad")
        #expect(sink.all.last == "notice bar0: EINVAL: bad, process 2 (and 4 more like it)")
        log.record(code: EINVAL, path: "bar0", pid: 2, sentence: "bad")
        #expect(sink.all.count == 3)
    }

    @Test(arguments: [
        (EINVAL, "EINVAL"), (EAGAIN, "EAGAIN"), (EOPNOTSUPP, "EOPNOTSUPP"), (133, "EHWPOISON"), (999, "errno 999"),
    ])
    func `an errno has its name`(code: CInt, name: String) {
        #expect(errnoName(code) == name)
    }

    @Test func `every errno of Linux has a name`() {
        let missing = (1...133).filter { errnoName($0).hasPrefix("errno") }
        #expect(missing == [41, 58])  // numbers Linux never gave away again
    }
}
