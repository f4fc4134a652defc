import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct TraceTests {
    private func makeRecords() throws -> (Device, UnsafeMutablePointer<RequestRecord>) {
        let device = try makeDevice(FakeFunction())
        return (device, device.pool.pointee.allocate(.write, flags: [.buffered, .synchronous], length: 500)!)
    }

    @Test func `a request that was not followed from its beginning is not followed at all`() throws {
        let (device, record) = try makeRecords()
        RequestRecord.note(record, .queued, 1)
        IORequest(taking: record, of: device.pool).complete(.success, information: 500)
        var cursor: UInt64 = 0
        #expect(device.trace.pointee.read(from: &cursor, limit: 10).entries.isEmpty)
    }

    @Test func `each step has its line`() throws {
        let (device, record) = try makeRecords()
        let trace = device.trace
        trace.pointee.begin(trace, record, process: 4711)
        RequestRecord.note(record, .dispatched)
        var queue = IOQueue(.sequential)
        queue.start()
        guard case .deliver = queue.submit(record) else {
            Issue.record("it waits")
            return
        }
        IORequest(taking: record, of: device.pool).complete(.ioTimeout)
        var cursor: UInt64 = 0
        let (entries, lost) = trace.pointee.read(from: &cursor, limit: 100)
        let lines = entries.map {
            $0.line(driver: "fake at 03:00.0").split(separator: " ").dropFirst().joined(separator: " ")
        }
        #expect(lost == 0 && cursor == 7)
        #expect(
            lines == [
                "#1 1 write(2) to dma/tx, 500 bytes, pid 4711\n", "#1 2 the kernel passes it on as FUSE_WRITE\n",
                "#1 3 IRP_MJ_WRITE is made, buffered, synchronous\n", "#1 4 dispatched to fake at 03:00.0\n",
                "#1 5 queued, 0 before it\n", "#1 6 the queue gives it to EvtIoWrite\n",
                "#1 7 completed with STATUS_IO_TIMEOUT, 0 bytes\n",
            ]
        )
        #expect(entries.map(\.time) == entries.map(\.time).sorted())
    }

    @Test func `the last 16384 steps are kept, and who is later is told how many are lost`() throws {
        let (device, record) = try makeRecords()
        let trace = device.trace
        trace.pointee.begin(trace, record, process: 1)
        for index in 0..<20_000 { RequestRecord.note(record, .queued, UInt64(index)) }
        var cursor: UInt64 = 0
        let (entries, lost) = trace.pointee.read(from: &cursor, limit: 5)
        #expect(lost == 20_003 - 16_384 && entries.count == 5 && cursor == lost + 5)
        #expect(entries.first?.count == 20_000 - 16_384 && trace.pointee.bounds == lost..<20_003)
    }

    @Test func `a record that is used again is followed anew or not`() throws {
        let (device, record) = try makeRecords()
        device.trace.pointee.begin(device.trace, record, process: 1)
        device.pool.pointee.release(record)
        let records = (0..<4).compactMap { _ in device.pool.pointee.allocate(.read, flags: [], length: 1) }
        #expect(records.count == 4 && records.allSatisfy { $0.pointee.trace == nil })
    }
}
