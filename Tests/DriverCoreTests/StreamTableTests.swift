import DriverCore
import Testing

@Suite struct StreamTableTests {
    private typealias Record = UnsafeMutablePointer<StreamRecord>

    private let device: Device
    private var table: StreamTable { device.streams }

    init() throws { device = try makeDevice(FakeFunction()) }

    private func opening(_ record: Record) -> UInt64 { record.pointee.opening() }
    private func accepted(_ record: Record) -> UInt64 { record.pointee.lastAccepted }
    private func lost(_ record: Record) -> StreamLoss? { record.pointee.lost }
    private func bind(_ record: Record, _ epoch: UInt64) -> Bool { record.pointee.bindRing(epoch) }

    @Test func `an open file has a record of its own, and one that is used again knows nothing of the file before`() {
        let first = table.open()
        let second = table.open()
        let before = opening(first)
        #expect(first != second && before != opening(second))
        first.pointee.accept(7)
        first.pointee.lose(10, of: before, .ioTimeout, .stuck)
        #expect(bind(first, 3) && accepted(first) == 7 && lost(first)?.byteCount == 10)
        #expect(accepted(second) == 0 && lost(second) == nil)
        table.close(first)
        // Late ends of requests of a file that is closed find nobody.
        first.pointee.lose(5, of: before, .ioTimeout, .stuck)
        let again = table.open()
        #expect(again == first && opening(again) != before)
        again.pointee.lose(5, of: before, .ioTimeout, .stuck)
        #expect(accepted(again) == 0 && lost(again) == nil)
        // It is tied to the ring as it is at its first call.
        #expect(bind(again, 4) && bind(again, 4) && !bind(again, 5))
        table.close(again)
        table.close(second)
    }

    @Test func `losses of a file add up, and the last reason is told`() {
        let record = table.open()
        let now = opening(record)
        record.pointee.lose(10, of: now, .ioTimeout, .stuck)
        record.pointee.lose(32, of: now, .requestAborted, .busError)
        #expect(lost(record)?.byteCount == 42)
        #expect(lost(record)?.status == .requestAborted && lost(record)?.cause == .busError)
        record.pointee.lose(100, of: now + 1, .ioTimeout, .stuck)
        #expect(lost(record)?.byteCount == 42)
        table.close(record)
    }
}
