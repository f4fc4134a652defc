import CHardware
import CardFS
import Glibc
import Histogram
import PCIBus
import Synchronization

/// Measures how long single operations take.
struct LatencyRun: Sendable {
    let mount: BenchMount
    /// Operations measured; a tenth as many go before, unmeasured.
    let count: Int

    /// A text register: open once, then read over and over.
    func registerRead(_ name: String, placement: Placement) throws(Refusal) -> LatencyFigure {
        let descriptor = try mount.open("regs/" + name, O_RDONLY)
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 64)
        return try repeated("read of regs/\(name)", placement) { () throws(Refusal) in
            let got = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
            guard got > 0 else { throw mount.failure("regs/\(name)") }
        }
    }

    /// Writes back what the register holds.
    func registerWrite(_ name: String, placement: Placement) throws(Refusal) -> LatencyFigure {
        let bytes = Array((try mount.text("regs/" + name) + "\n").utf8)
        let descriptor = try mount.open("regs/" + name, O_WRONLY)
        defer { close(descriptor) }
        return try repeated("write of regs/\(name)", placement) { () throws(Refusal) in
            let put = bytes.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, 0) }
            guard put == bytes.count else { throw mount.failure("regs/\(name)") }
        }
    }

    /// What `cat` does with a register.
    func openReadClose(_ file: String, placement: Placement) throws(Refusal) -> LatencyFigure {
        var bytes = [UInt8](repeating: 0, count: 64)
        return try repeated("open, read and close of \(file)", placement) { () throws(Refusal) in
            let descriptor = try mount.open(file, O_RDONLY)
            defer { close(descriptor) }
            let got = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
            guard got > 0 else { throw mount.failure(file) }
        }
    }

    private func repeated(_ name: String, _ placement: Placement, _ body: () throws(Refusal) -> Void) throws(Refusal)
        -> LatencyFigure
    {
        for _ in 0..<count / 10 { try body() }
        var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)
        for _ in 0..<count {
            try BenchInterrupt.check()
            let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
            try body()
            histogram.record(chw_clock_nanoseconds(CLOCK_MONOTONIC) - start)
        }
        return Self.figure(name, placement, histogram)
    }

    /// From the interrupt service routine, whose time is in the log, to a reader that was waiting for the line. Each interrupt
    /// is that of a synchronous write of one byte, made when the reader has the line before.
    func interruptToReader(placement: Placement) throws(Refusal) -> LatencyFigure {
        if mount.hasWire { try mount.write("sink", to: "sim/wire") }
        let transmitter = try mount.open("dma/tx", O_WRONLY | O_SYNC)
        defer { close(transmitter) }
        let log = try mount.open("interrupts/log", O_RDONLY | O_NONBLOCK)
        defer { close(log) }

        let reader = InterruptReader()
        let thread: Thread
        do throws(BusError) {
            thread = try Thread(starting: "bench-reader") { reader.run(log) }
        } catch {
            throw Refusal(error.sentence, code: error.code)
        }
        let result: Result<Void, Refusal>
        do throws(Refusal) {
            try raise(transmitter, reader)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        reader.isEnding.store(true, ordering: .releasing)
        thread.join()
        try result.get()
        return Self.figure("interrupt to its reader", placement, reader.histogram)
    }

    private func raise(_ transmitter: CInt, _ reader: InterruptReader) throws(Refusal) {
        for index in 0..<min(count, 2000) {
            try BenchInterrupt.check()
            while !reader.isWaiting.load(ordering: .acquiring) { sched_yield() }
            // The reader says that it waits just before it does.
            usleep(100)
            let seen = reader.seen.load(ordering: .acquiring)
            guard Glibc.write(transmitter, "x", 1) == 1 else { throw mount.failure("dma/tx") }
            let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 2_000_000_000
            while reader.seen.load(ordering: .acquiring) == seen {
                guard chw_clock_nanoseconds(CLOCK_MONOTONIC) < end else {
                    throw Refusal("a transfer raised no interrupt within 2 s (number \(index + 1))")
                }
                usleep(20)
            }
        }
    }

    static func figure(_ name: String, _ placement: Placement, _ histogram: Histogram<UInt64>) -> LatencyFigure {
        func point(_ percentile: Double) -> LatencyFigure.Point {
            LatencyFigure.Point(percentile: percentile, nanoseconds: histogram.valueAtPercentile(percentile))
        }
        return LatencyFigure(
            name: name,
            placement: placement,
            count: histogram.totalCount,
            minimum: histogram.min,
            maximum: histogram.max,
            quantiles: [50, 90, 99, 99.9].map(point),
            distribution: histogram.percentiles(ticksPerHalfDistance: 5).map {
                LatencyFigure.Point(percentile: $0.percentile, nanoseconds: $0.value)
            }
        )
    }
}

/// Reads the interrupt log on a thread of its own and notes how old each first line is.
private final class InterruptReader: @unchecked Sendable {  // the histogram is the thread's until it is joined
    let isWaiting = Atomic<Bool>(false)
    let isEnding = Atomic<Bool>(false)
    let seen = Atomic<Int>(0)
    var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)

    func run(_ log: CInt) {
        var bytes = [UInt8](repeating: 0, count: 4096)
        while !isEnding.load(ordering: .acquiring) {
            isWaiting.store(true, ordering: .releasing)
            var item = pollfd(fd: log, events: Int16(POLLIN), revents: 0)
            guard poll(&item, 1, 100) > 0 else { continue }
            let count = bytes.withUnsafeMutableBytes { read(log, $0.baseAddress, $0.count) }
            let now = chw_clock_nanoseconds(CLOCK_REALTIME)
            guard count > 0, let time = Self.time(bytes[..<count]), now >= time else { continue }
            isWaiting.store(false, ordering: .releasing)
            histogram.record(now - time)
            seen.wrappingAdd(1, ordering: .releasing)
        }
    }

    /// The second field of the first line, `seconds.nanoseconds`.
    private static func time(_ bytes: ArraySlice<UInt8>) -> UInt64? {
        let fields = bytes.split(separator: UInt8(ascii: " "), maxSplits: 2)
        guard fields.count > 1 else { return nil }
        let parts = String(decoding: fields[1], as: UTF8.self).split(separator: ".")
        guard parts.count == 2, let seconds = UInt64(parts[0]), let nanoseconds = UInt64(parts[1]) else { return nil }
        return seconds * 1_000_000_000 + nanoseconds
    }
}
