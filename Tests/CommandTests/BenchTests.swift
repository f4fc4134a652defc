import ArgumentParser
import CardFS
import Glibc
import PCIBus
import Testing

@testable import cardfs

@Suite struct SourcePatternTests {
    private func words(_ count: Int, from first: UInt64) -> BenchBuffer {
        let buffer = BenchBuffer(byteCount: count * 8)
        SourcePattern.fill(buffer.bytes, from: first)
        return buffer
    }

    @Test(arguments: [0, 1, 7, 1 << 40, UInt64.max - 600])
    func `words tell their own places`(first: UInt64) {
        let buffer = words(512, from: first)
        #expect(SourcePattern.range(of: UnsafeRawBufferPointer(buffer.bytes)) == first..<first + 512)
    }

    @Test(arguments: [0, 8, 2000, 4095])
    func `one wrong bit anywhere is seen`(place: Int) {
        let buffer = words(512, from: 5)
        buffer.bytes[place] ^= 1
        // A first word that is wrong claims another place, where the others do not follow.
        #expect(SourcePattern.range(of: UnsafeRawBufferPointer(buffer.bytes)) == nil)
    }

    @Test(arguments: [0, 4, 12])
    func `what is no whole number of words is refused`(byteCount: Int) {
        let buffer = words(2, from: 1)
        #expect(SourcePattern.range(of: UnsafeRawBufferPointer(rebasing: buffer.bytes[..<byteCount])) == nil)
    }

    @Test func `each megabyte of a block has a place of its own`() {
        let buffer = BenchBuffer(byteCount: 2 << 20)
        SourcePattern.fill(UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<(1 << 20)]), from: 900_000)
        SourcePattern.fill(UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[(1 << 20)...]), from: 3)
        let ranges = SourcePattern.ranges(of: UnsafeRawBufferPointer(buffer.bytes))
        let expected: [Range<UInt64>] = [900_000..<1_031_072, 3..<131_075]
        #expect(ranges == expected)
    }

    @Test(arguments: [
        ([], true), ([4..<9], true), ([4..<9, 0..<4, 9..<10], true), ([0..<4, 5..<6], false), ([0..<4, 3..<6], false),
        ([0..<4, 0..<4], false),
    ])
    func `words of several readers make one range, without a gap and none twice`(
        ranges: [Range<UInt64>],
        expected: Bool
    ) { #expect(SourcePattern.isWhole(ranges) == expected) }
}

@Suite struct BenchReportTests {
    private static let report: BenchReport = {
        var report = BenchReport(
            conditions: BenchConditions(
                mountpoint: "/m",
                card: "0000:01:00.0",
                driver: "A & B <C>",
                bus: "simulated",
                kernel: "6.1",
                processor: "\"Fast\" CPU",
                processorCount: 2,
                time: 1_700_000_000,
                load: 0.1
            )
        )
        for (index, size) in BenchRunner.blockSizes.enumerated() {
            report.throughput.append(
                ThroughputFigure(
                    path: .write,
                    blockSize: size,
                    streams: 1,
                    placement: .free,
                    byteCount: 1_000_000_000 << UInt64(index),
                    seconds: 2,
                    check: "crc"
                )
            )
        }
        report.latency.append(
            LatencyFigure(
                name: "read of regs/scratch",
                placement: .same,
                count: 1000,
                minimum: 900,
                maximum: 123_456,
                quantiles: [(50, 1234), (90, 2000), (99, 5678), (99.9, 100_000)].map {
                    LatencyFigure.Point(percentile: $0.0, nanoseconds: $0.1)
                },
                distribution: [(0, 900), (50, 1234), (99, 5678), (100, 123_456)].map {
                    LatencyFigure.Point(percentile: $0.0, nanoseconds: $0.1)
                }
            )
        )
        report.notes.append("a note")
        return report
    }()

    @Test func `the text says figures, conditions, and that a simulated card is no silicon`() {
        let text = BenchText.write(Self.report)
        for part in [
            "512    4K", "4M", "into dma/tx, 1 stream, free", " 500 ", "32000", "no silicon", "Linux 6.1",
            "note: a note",
        ] {
            #expect(text.contains(part), "\(part) in \(text)")
        }
        #expect(text.contains("read of regs/scratch, same core  1.2  2.0  5.7  100.0  123.5     1000"), "\(text)")
    }

    @Test(arguments: [(0.04, 1, "0.0"), (0.05, 1, "0.1"), (12.345, 2, "12.35"), (1999.6, 0, "2000"), (7, 1, "7.0")])
    func `a number has the digits asked for`(value: Double, digits: Int, expected: String) {
        #expect(BenchText.decimal(value, digits: digits) == expected)
    }

    @Test(arguments: [(0.9, 1.0), (1, 1), (1.1, 2), (3, 5), (700, 1000), (1001, 2000)])
    func `lines of a diagram are at round numbers`(least: Double, expected: Double) {
        #expect(abs(BenchSVG.niceStep(least) - expected) < expected / 1e6)
    }

    @Test func `the picture escapes what is not its own`() {
        let picture = BenchSVG.write(Self.report)
        #expect(picture.contains("A &amp; B &lt;C&gt;") && picture.contains("&quot;Fast&quot; CPU"))
        #expect(picture.hasPrefix("<svg ") && picture.hasSuffix("</svg>\n") && !picture.contains("nan"))
    }

    @Test(arguments: [
        ["bench"], ["bench", "/m", "--seconds", "0"], ["bench", "/m", "--samples", "5"],
        ["bench", "/m", "--placement", "x"],
        ["bench", "/m", "--only", "nothing"],
    ])
    func `an option that makes no sense is refused`(arguments: [String]) {
        #expect(throws: (any Error).self) { try CardFSCommand.parseAsRoot(arguments) }
    }

    @Test func `what is no cardfs mount is not measured`() {
        do throws(Refusal) {
            _ = try BenchMount("/tmp")
            Issue.record("it was taken")
        } catch {
            #expect(error == Refusal("no card is mounted on /tmp", hint: "cardfs mount sim /tmp", kind: .absent))
        }
    }
}
