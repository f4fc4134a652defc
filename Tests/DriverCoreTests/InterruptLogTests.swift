import CHardware
import PCIBus
import Testing

@testable import DriverCore

/// A log at a fixed address, whose answers can be part of an expectation.
private final class Log: @unchecked Sendable {  // the log has its lock
    private let log = UnsafeMutablePointer<InterruptLog>.allocate(capacity: 1)

    init() { log.initialize(to: InterruptLog()) }

    deinit {
        log.deinitialize(count: 1)
        log.deallocate()
    }

    var end: UInt64 { log.pointee.end }
    var totalCount: UInt64 { log.pointee.totalCount }
    func append(_ vector: UInt32, count: UInt32 = 1) -> Bool { log.pointee.append(vector: vector, count: count) }
    func watch(_ on: Bool) { log.pointee.watch(on) }

    func entries(_ cursor: inout UInt64, _ size: Int) -> (first: UInt64, entries: [InterruptLog.Entry], lost: UInt64) {
        var entries = [InterruptLog.Entry](repeating: .init(), count: size)
        let result = entries.withUnsafeMutableBufferPointer { log.pointee.read(from: &cursor, into: $0) }
        return (result.first, Array(entries.prefix(result.count)), result.lost)
    }

    /// First sequence number, vectors, and how many were lost.
    func read(_ cursor: inout UInt64, _ size: Int = 16) -> (UInt64, [UInt32], UInt64) {
        let result = entries(&cursor, size)
        return (result.first, result.entries.map(\.vector), result.lost)
    }
}

@Suite struct InterruptLogTests {
    @Test func `interrupts are read in order, each reader from where it was`() {
        let log = Log()
        var early = log.end
        for vector in 0..<5 as Range<UInt32> { _ = log.append(vector, count: vector + 1) }
        var late = log.end
        _ = log.append(9)
        #expect(log.read(&early, 4) == (0, [0, 1, 2, 3], 0))
        #expect(log.read(&early, 4) == (4, [4, 9], 0))
        #expect(log.read(&early, 4) == (6, [], 0))
        #expect(log.read(&late) == (5, [9], 0))
        #expect(log.totalCount == 16 && log.end == 6)
    }

    @Test func `the last 65,536 are kept, and a reader that is later is told how many it lost`() {
        let log = Log()
        var slow: UInt64 = 0
        var exact: UInt64 = 10
        for index in 0..<65_546 as Range<UInt32> { _ = log.append(index) }
        #expect(log.read(&exact, 2) == (10, [10, 11], 0))
        #expect(log.read(&slow, 2) == (10, [10, 11], 10))
        #expect(log.read(&slow, 1) == (12, [12], 0))
        #expect(log.totalCount == 65_546)
    }

    @Test func `an interrupt is told to somebody only while somebody watches`() {
        let log = Log()
        #expect(!log.append(0))
        log.watch(true)
        log.watch(true)
        #expect(log.append(0))
        log.watch(false)
        #expect(log.append(0))
        log.watch(false)
        #expect(!log.append(0))
    }

    @Test func `times do not go back`() {
        let log = Log()
        for _ in 0..<100 { _ = log.append(0) }
        var cursor: UInt64 = 0
        let entries = log.entries(&cursor, 100).entries
        #expect(entries.allSatisfy { $0.time > 1_500_000_000_000_000_000 })
        #expect(zip(entries, entries.dropFirst()).allSatisfy { $0.time <= $1.time })
    }

    @Test(.timeLimit(.minutes(10))) func `no interrupt is lost between threads`() {
        let log = Log()
        let writers = (0..<2 as Range<UInt32>).map { writer in
            Thread(name: "writer") {
                for index in 0..<10_000 as Range<UInt32> {
                    _ = log.append(index << 1 | writer)
                }
            }
        }
        var cursor: UInt64 = 0
        var next: [UInt32] = [0, 0]
        var inOrder = true
        #expect(
            eventually {
                let (_, vectors, lost) = log.read(&cursor, 128)
                for vector in vectors {
                    inOrder = inOrder && vector >> 1 == next[Int(vector & 1)]
                    next[Int(vector & 1)] = vector >> 1 + 1
                }
                return lost > 0 || cursor == 20_000
            }
        )
        for writer in writers { writer.join() }
        #expect(inOrder && next == [10_000, 10_000] && cursor == 20_000)
    }
}
