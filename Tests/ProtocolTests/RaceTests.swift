import CFuse
import CHardware
import CardFS
import DriverCore
import Glibc
import PCIBus
import Synchronization
import Testing

/// What happens between the look of a reader or poller that finds nothing and its wait: nobody may miss it.
@Suite(.timeLimit(.minutes(10))) struct RaceTests {
    let kernel: FakeKernel

    init() throws {
        kernel = try FakeKernel()
        _ = try kernel.initialize()
    }

    /// Does something on a thread of its own once for each round, a little later in each: the rounds together try every moment
    /// of what the test does meanwhile.
    private final class Rival: @unchecked Sendable {  // constant but for the atomics
        private let begun = Atomic<Int>(0)
        private let ended = Atomic<Int>(0)
        private let isOver = Atomic<Bool>(false)
        private var thread: Thread?

        init(_ body: @escaping @Sendable () -> Void) {
            thread = Thread(name: "rival") { [self] in
                var round = 0
                while !isOver.load(ordering: .acquiring) {
                    guard begun.load(ordering: .acquiring) > round else {
                        chw_pause()
                        continue
                    }
                    round += 1
                    for _ in 0..<(round * 37 % 4000) { chw_pause() }
                    body()
                    ended.store(round, ordering: .releasing)
                }
            }
        }

        func begin() { begun.wrappingAdd(1, ordering: .acquiringAndReleasing) }

        /// Waits until the rounds that were begun are done.
        func wait() {
            #expect(eventually { ended.load(ordering: .acquiring) == begun.load(ordering: .acquiring) })
        }

        func end() {
            isOver.store(true, ordering: .releasing)
            thread?.join()
        }
    }

    /// Raises an interrupt: a time-code that the far end sends back.
    private func interrupting() throws -> Rival {
        let window = try kernel.fileSystem.device.function.map(bar: 0)
        return Rival { window.store32(1 << 16, 0x0c) }
    }

    @Test func `an interrupt that comes while a reader of the log begins to wait is read`() throws {
        let log = try kernel.open("interrupts/log", O_RDONLY)
        let rival = try interrupting()
        defer { rival.end() }
        for round in 0..<1500 {
            rival.begin()
            let reply = try kernel.reply(kernel.send(FUSE_READ, log.node, kernel.readBody(log, 4096)))
            rival.wait()
            try #require(reply.error == 0 && reply.text.split(separator: "\n").count == 1, "round \(round)")
        }
    }

    @Test func `an interrupt that comes while the log is polled is seen or told`() throws {
        let log = try kernel.open("interrupts/log", O_RDONLY)
        let rival = try interrupting()
        defer { rival.end() }
        for round in 0..<1500 {
            let told = kernel.notifications.count
            rival.begin()
            let events = try kernel.pollEvents(log, handle: 9)
            if events == 0 {
                let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 10_000_000_000
                while kernel.notifications.count == told, chw_clock_nanoseconds(CLOCK_MONOTONIC) < end {
                    kernel.receive(milliseconds: 10)
                }
            }
            try #require(events != 0 || kernel.notifications.count > told, "round \(round)")
            rival.wait()
            #expect(try kernel.pollEvents(log) & UInt32(POLLIN) != 0)
            #expect(try kernel.read(log).text.split(separator: "\n").count == 1)
        }
    }

    @Test func `bytes that come while a reader is polled are seen or told`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let function = kernel.fileSystem.device.function
        let tx = try kernel.open("dma/tx", O_WRONLY)
        let fault = try #require(function.controls.first { $0.name == "fault" }?.write)
        let rival = Rival { try? fault("none") }
        defer { rival.end() }
        for round in 0..<200 {
            try fault("hang-tx")
            #expect(try kernel.write(tx, pattern(10)) == 10)
            let told = kernel.notifications.count
            rival.begin()
            let events = try kernel.pollEvents(rx, handle: 9)
            if events == 0 {
                let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 10_000_000_000
                while kernel.notifications.count == told, chw_clock_nanoseconds(CLOCK_MONOTONIC) < end {
                    kernel.receive(milliseconds: 10)
                }
            }
            try #require(events != 0 || kernel.notifications.count > told, "round \(round)")
            rival.wait()
            #expect(try kernel.read(rx, 10).bytes == pattern(10))
        }
    }
}
