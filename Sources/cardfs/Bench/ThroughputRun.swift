import CHardware
import CardFS
import Glibc
import PCIBus
import Synchronization

/// Measures one point of the throughput sweep, and checks every byte of it.
struct ThroughputRun: Sendable {
    let mount: BenchMount
    /// How long one point lasts, in seconds.
    let seconds: Double

    /// Waits of the benchmark's own have this bound.
    private static let patience = 10.0

    private func deadline(_ seconds: Double) -> UInt64 {
        chw_clock_nanoseconds(CLOCK_MONOTONIC) + UInt64(seconds * 1e9)
    }

    private static func isOver(_ deadline: UInt64) -> Bool { chw_clock_nanoseconds(CLOCK_MONOTONIC) >= deadline }

    // MARK: Into the card

    /// Writes blocks through `streams` files until the time is over, then waits for the card with fsync. All blocks hold the
    /// same bytes, so that their checksum does not depend on the order in which they came. On a simulated card the far end
    /// tells what it got.
    func write(blockSize: Int, streams: Int, placement: Placement) throws(Refusal) -> ThroughputFigure {
        try mount.write("sink", to: "sim/wire")
        try mount.write("clear", to: "sim/received")
        let block = BenchBuffer(byteCount: blockSize)
        for start in stride(from: 0, to: blockSize, by: SourcePattern.pieceByteCount) {
            let piece = block.bytes[start..<min(blockSize, start + SourcePattern.pieceByteCount)]
            SourcePattern.fill(UnsafeMutableRawBufferPointer(rebasing: piece), from: 1)
        }
        let (time, counts) = try Crew.run(streams) { _ throws(Refusal) -> CInt in
            try mount.open("dma/tx", O_WRONLY)
        } work: { descriptor throws(Refusal) -> UInt64 in
            defer { close(descriptor) }
            let end = deadline(seconds)
            var blocks: UInt64 = 0
            while !Self.isOver(end) {
                try BenchInterrupt.check()
                let count = Glibc.write(descriptor, block.bytes.baseAddress, blockSize)
                guard count == blockSize else {
                    if count >= 0 { throw Refusal("dma/tx took \(count) of \(blockSize) bytes") }
                    throw mount.failure("dma/tx")
                }
                blocks += 1
            }
            guard fsync(descriptor) == 0 else { throw mount.failure("dma/tx") }
            return blocks
        }
        let blocks = counts.reduce(0, +)
        var crc: UInt32 = 0
        for _ in 0..<blocks { crc = chw_crc32c(crc, block.bytes.baseAddress!, blockSize) }
        let byteCount = blocks * UInt64(blockSize)
        let expected = "0x" + hexadecimal(crc, digits: 8)
        guard try mount.value("bytes", in: "sim/received") == String(byteCount),
            try mount.value("crc32c", in: "sim/received") == expected
        else {
            throw Refusal(
                "the card did not get what was written: bytes \(byteCount), crc32c \(expected) were sent, and it has "
                    + (try mount.text("sim/received").split(separator: "\n").joined(separator: ", "))
            )
        }
        return ThroughputFigure(
            path: .write,
            blockSize: blockSize,
            streams: streams,
            placement: placement,
            byteCount: byteCount,
            seconds: time,
            check: "crc32c \(expected) at the far end"
        )
    }

    // MARK: Out of the card

    /// Reads blocks through `streams` files until the time is over, and then again for a shorter time to check the pattern:
    /// a check of each word would be a good part of the time measured.
    func read(blockSize: Int, streams: Int, placement: Placement) throws(Refusal) -> ThroughputFigure {
        try mount.write("source", to: "sim/wire")
        try mount.write("flush", to: "ctl")
        let (time, counts) = try readers(blockSize, streams, seconds) { _ in [] }
        let (_, checked) = try readers(blockSize, streams, min(seconds, 0.2)) { SourcePattern.ranges(of: $0) }
        let ranges = checked.flatMap(\.ranges)
        guard SourcePattern.isWhole(ranges) else {
            throw Refusal("words of dma/rx are missing or came twice (block size \(blockSize), \(streams) streams)")
        }
        let words = ranges.reduce(0) { $0 + UInt64($1.count) }
        return ThroughputFigure(
            path: .read,
            blockSize: blockSize,
            streams: streams,
            placement: placement,
            byteCount: counts.reduce(0) { $0 + $1.byteCount },
            seconds: time,
            check: "\(words) words in order in a second run"
        )
    }

    private struct Taken: Sendable {
        var byteCount: UInt64 = 0
        var ranges: [Range<UInt64>] = []
    }

    private func readers(
        _ blockSize: Int,
        _ streams: Int,
        _ seconds: Double,
        _ check: @escaping @Sendable (UnsafeRawBufferPointer) -> [Range<UInt64>]?
    ) throws(Refusal) -> (Double, [Taken]) {
        try Crew.run(streams) { _ throws(Refusal) -> (CInt, BenchBuffer) in
            (try mount.open("dma/rx", O_RDONLY), BenchBuffer(byteCount: blockSize))
        } work: { state throws(Refusal) -> Taken in
            let (descriptor, buffer) = state
            defer { close(descriptor) }
            let end = deadline(seconds)
            var taken = Taken()
            while !Self.isOver(end) {
                try BenchInterrupt.check()
                try waitToRead(descriptor)
                let count = Glibc.read(descriptor, buffer.bytes.baseAddress, blockSize)
                guard count > 0 else { throw mount.failure("dma/rx") }
                taken.byteCount += UInt64(count)
                guard let ranges = check(UnsafeRawBufferPointer(rebasing: buffer.bytes[..<count])) else {
                    throw Refusal("dma/rx gave other words than the source sent, after \(taken.byteCount) bytes")
                }
                taken.ranges += ranges
            }
            return taken
        }
    }

    /// A read of a source that sends for ever waits for nobody, so that nothing has to be asked first.
    private func waitToRead(_ descriptor: CInt) throws(Refusal) {
        guard !mount.hasWire else { return }
        var item = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&item, 1, CInt(Self.patience * 1000)) > 0 else {
            throw Refusal("nothing came out of dma/rx for \(Int(Self.patience)) s", hint: "is the far end a loopback?")
        }
    }

    // MARK: Both

    /// One thread writes and one reads what comes back, comparing each byte. The far end is a loopback.
    func loopback(blockSize: Int, placement: Placement) throws(Refusal) -> ThroughputFigure {
        if mount.hasWire { try mount.write("loopback", to: "sim/wire") }
        try mount.write("flush", to: "ctl")
        // The writer tells how many bytes there will be; before, any number may still come.
        final class Total: Sendable { let bytes = Atomic<UInt64>(.max) }
        let total = Total()
        let (time, counts) = try Crew.run(2) { index throws(Refusal) -> (CInt, BenchBuffer) in
            // The reader's block has to be larger than one: the comparison begins anywhere in a block.
            (
                try mount.open(index == 0 ? "dma/tx" : "dma/rx", index == 0 ? O_WRONLY : O_RDONLY),
                BenchBuffer(byteCount: blockSize)
            )
        } work: { state throws(Refusal) -> UInt64 in
            let (descriptor, buffer) = state
            defer { close(descriptor) }
            let isWriter = fcntl(descriptor, F_GETFL) & O_ACCMODE == O_WRONLY
            do throws(Refusal) {
                return isWriter
                    ? try writePattern(descriptor, buffer, total.bytes)
                    : try readPattern(descriptor, buffer, total.bytes)
            } catch {
                // The other side must not wait for what will not come.
                if isWriter { total.bytes.store(0, ordering: .releasing) }
                throw error
            }
        }
        return ThroughputFigure(
            path: .loopback,
            blockSize: blockSize,
            streams: 1,
            placement: placement,
            byteCount: counts.min() ?? 0,
            seconds: time,
            check: "each byte compared"
        )
    }

    private func writePattern(_ descriptor: CInt, _ buffer: BenchBuffer, _ total: borrowing Atomic<UInt64>)
        throws(Refusal)
        -> UInt64
    {
        SourcePattern.fill(buffer.bytes, from: 1)
        let end = deadline(seconds)
        var sent: UInt64 = 0
        while !Self.isOver(end) {
            try BenchInterrupt.check()
            let count = Glibc.write(descriptor, buffer.bytes.baseAddress, buffer.bytes.count)
            guard count > 0 else { throw mount.failure("dma/tx") }
            sent += UInt64(count)
            guard count == buffer.bytes.count else { break }
        }
        total.store(sent, ordering: .releasing)
        return sent
    }

    /// Compares what comes with the block that is sent over and over. A reader that is ahead of the writer waits in poll, to
    /// see when the writer has ended.
    private func readPattern(_ descriptor: CInt, _ buffer: BenchBuffer, _ total: borrowing Atomic<UInt64>)
        throws(Refusal)
        -> UInt64
    {
        let block = BenchBuffer(byteCount: 2 * buffer.bytes.count)
        for half in 0..<2 {
            let start = half * buffer.bytes.count
            SourcePattern.fill(
                UnsafeMutableRawBufferPointer(rebasing: block.bytes[start..<start + buffer.bytes.count]),
                from: 1
            )
        }
        var got: UInt64 = 0
        var silence = deadline(Self.patience)
        while got < total.load(ordering: .acquiring) {
            try BenchInterrupt.check()
            var item = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&item, 1, 100) > 0 else {
                guard !Self.isOver(silence) else {
                    throw Refusal("\(got) bytes came back and no more", hint: "is the far end a loopback?")
                }
                continue
            }
            let count = Glibc.read(descriptor, buffer.bytes.baseAddress, buffer.bytes.count)
            guard count > 0 else { throw mount.failure("dma/rx") }
            let phase = Int(got % UInt64(buffer.bytes.count))
            guard memcmp(buffer.bytes.baseAddress!, block.bytes.baseAddress! + phase, count) == 0 else {
                throw Refusal("other bytes came back than were sent, after \(got)")
            }
            got += UInt64(count)
            silence = deadline(Self.patience)
        }
        return got
    }
}
