import CHardware
import DriverCore
import PCIBus
import Synchronization
import Testing

/// A pool whose completions are kept in order.
final class PoolRig: @unchecked Sendable {  // the record of completions is under its lock
    struct Ended: Equatable {
        var index: UInt32
        var status: Status
        var information: Int
        var cause: FailureCause
    }

    let pool: UnsafeMutablePointer<RequestPool>
    private let lock = Lock()
    private var list: [Ended] = []

    init(capacity: Int = 4) {
        pool = .allocate(capacity: 1)
        pool.initialize(
            to: RequestPool(capacity: capacity, completionContext: Unmanaged.passUnretained(self).toOpaque()) {
                context,
                request in
                let rig = Unmanaged<PoolRig>.fromOpaque(context).takeUnretainedValue()
                let record = request.assumingMemoryBound(to: RequestRecord.self)
                rig.lock.locked {
                    rig.list.append(
                        Ended(
                            index: record.pointee.index,
                            status: record.pointee.status,
                            information: record.pointee.information,
                            cause: record.pointee.cause
                        )
                    )
                }
                rig.pool.pointee.release(record)
            }
        )
    }

    deinit {
        pool.deinitialize(count: 1)
        pool.deallocate()
        lock.destroy()
    }

    var ended: [Ended] { lock.locked { list } }

    func make(_ kind: RequestKind = .write, length: Int = 10) -> UnsafeMutablePointer<RequestRecord> {
        pool.pointee.allocate(kind, flags: [], length: length)!
    }

    func complete(_ record: UnsafeMutablePointer<RequestRecord>, _ status: Status, information: Int = 0) {
        IORequest(taking: record, of: pool).complete(status, information: information)
    }
}

// What a record answers, as functions of its pointer: an expectation cannot look into a type that is not copied.
extension UnsafeMutablePointer where Pointee == RequestRecord {
    func markCancelable() -> Bool { pointee.markCancelable() }
    func claim() -> Bool { pointee.claim() }
    func isCancelled() -> Bool { pointee.isCancelled() }
}

@Suite struct RequestTests {
    @Test func `a pool hands out as many records as it has, and fresh ones`() {
        let rig = PoolRig(capacity: 2)
        let first = rig.make(.read, length: 7)
        let second = rig.make()
        #expect(rig.pool.pointee.allocate(.write, flags: [], length: 1) == nil && rig.pool.pointee.inUse == 2)
        first.pointee.accumulated = 5
        first.pointee.segmentCount = 3
        first.pointee.storage = .systemBuffer
        rig.complete(first, .success, information: 7)
        let again = rig.make(.barrier, length: 0)
        #expect(again == first && again.pointee.accumulated == 0 && again.pointee.segmentCount == 0)
        #expect(again.pointee.storage == .none && again.pointee.status == .pending && again.pointee.kind == .barrier)
        rig.complete(again, .success)
        rig.complete(second, .success)
        #expect(rig.pool.pointee.inUse == 0)
    }

    @Test func `a failure tells no bytes`() {
        let rig = PoolRig()
        rig.complete(rig.make(), .success, information: 4)
        rig.complete(rig.make(), .ioTimeout, information: 4)
        rig.complete(rig.make(), .deviceBusy, information: 4)
        #expect(rig.ended.map(\.information) == [4, 0, 0])
    }

    @Test func `a request that is dropped answers STATUS_UNSUCCESSFUL and is counted`() {
        let rig = PoolRig()
        func drop() { _ = IORequest(taking: rig.make(), of: rig.pool) }
        drop()
        #expect(rig.ended == [.init(index: 0, status: .unsuccessful, information: 0, cause: .dropped)])
        #expect(rig.pool.pointee.droppedCount == 1 && rig.pool.pointee.inUse == 0)
        rig.complete(rig.make(), .success)
        let kept = IORequest(taking: rig.make(), of: rig.pool).intoRecord()
        #expect(rig.ended.count == 2 && rig.pool.pointee.droppedCount == 1)
        rig.complete(kept, .success)
    }

    @Test func `decided requests are completed in their order`() {
        let rig = PoolRig()
        var list = CompletionList()
        let records = (0..<4).map { _ in rig.make() }
        for (index, record) in records.enumerated() {
            list.add(record, index % 2 == 0 ? .success : .cancelled, information: index, cause: .interrupted)
        }
        #expect(!list.isEmpty && rig.ended.isEmpty)
        list.completeAll(rig.pool)
        #expect(list.isEmpty)
        #expect(rig.ended.map(\.index) == records.map { $0.pointee.index })
        #expect(rig.ended.map(\.information) == [0, 0, 2, 0])
        #expect(rig.ended.map(\.status) == [.success, .cancelled, .success, .cancelled])
    }

    // MARK: Cancel

    @Test func `a cancel claims a request that waits, and only once`() {
        let rig = PoolRig()
        let record = rig.make()
        let cookie = record.pointee.cookie()
        #expect(record.markCancelable())
        #expect(rig.pool.pointee.cancel(cookie) == .claimed)
        #expect(rig.pool.pointee.cancel(cookie) == .gone)
        #expect(!record.claim())
        #expect(rig.pool.pointee.record(at: cookie) == record)
        rig.complete(record, .cancelled)
        #expect(rig.pool.pointee.cancel(cookie) == .gone)
    }

    @Test func `a cancel of what the driver holds is noted, and the driver sees it before it lets the request wait`() {
        let rig = PoolRig()
        let record = rig.make()
        #expect(!record.isCancelled())
        #expect(rig.pool.pointee.cancel(record.pointee.cookie()) == .noted)
        #expect(record.isCancelled() && !record.markCancelable())
        rig.complete(record, .cancelled)
        let next = rig.make()
        #expect(next == record && !next.isCancelled() && next.markCancelable())
        #expect(next.claim() && !next.claim())
        rig.complete(next, .success)
    }

    @Test func `a stale cookie is gone, whatever its record does now`() {
        let rig = PoolRig(capacity: 1)
        let stale = rig.make().pointee.cookie()
        rig.complete(rig.pool.pointee.record(at: stale), .success)
        #expect(rig.pool.pointee.cancel(stale) == .gone)
        let record = rig.make()
        #expect(record.pointee.cookie() != stale && rig.pool.pointee.cancel(stale) == .gone)
        #expect(record.markCancelable() && rig.pool.pointee.cancel(stale) == .gone)
        #expect(!record.isCancelled() && record.claim())
        rig.complete(record, .success)
    }

    @Test func `cancel and completion race for one claim: there is exactly one winner`() {
        let rig = PoolRig(capacity: 1)
        race(rig, 20_000)
    }

    /// One thread lets requests wait and takes them back, the other cancels them.
    private func race(_ rig: PoolRig, _ rounds: Int) {
        final class Shared: Sendable {
            /// 2n+1 when round n may begin, 2n+2 when the canceller has had its turn.
            let turn = Atomic<Int>(0)
            let cookie = Atomic<UInt64>(0)
            let claimed = Atomic<Int>(0)
            let wins = Atomic<Int>(0)
        }
        let shared = Shared()
        let canceller = Thread(name: "canceller") {
            for round in 0..<rounds {
                while shared.turn.load(ordering: .acquiring) < 2 * round + 1 { chw_pause() }
                let cookie = shared.cookie.load(ordering: .relaxed)
                if case .claimed = rig.pool.pointee.cancel(cookie) {
                    shared.claimed.wrappingAdd(1, ordering: .relaxed)
                    rig.complete(rig.pool.pointee.record(at: cookie), .cancelled)
                }
                shared.turn.store(2 * round + 2, ordering: .releasing)
            }
        }
        for round in 0..<rounds {
            let record = rig.make()
            shared.cookie.store(record.pointee.cookie(), ordering: .relaxed)
            let isWaiting = record.markCancelable()
            shared.turn.store(2 * round + 1, ordering: .releasing)
            for _ in 0..<round % 97 { chw_pause() }
            if !isWaiting || record.claim() {
                shared.wins.wrappingAdd(1, ordering: .relaxed)
                rig.complete(record, .success)
            }
            while shared.turn.load(ordering: .acquiring) < 2 * round + 2 { chw_pause() }
        }
        canceller.join()
        #expect(rig.ended.count == rounds && rig.pool.pointee.inUse == 0)
        let claimed = shared.claimed.load(ordering: .relaxed)
        #expect(claimed + shared.wins.load(ordering: .relaxed) == rounds)
        #expect(rig.ended.count { $0.status == .cancelled } == claimed)
    }

    @Test func `a mount that ends claims what waits and nothing else`() {
        let rig = PoolRig()
        let records = (0..<3).map { _ in rig.make() }
        #expect(records[1].markCancelable())
        #expect(rig.pool.pointee.claimWaiting() == [records[1]])
        #expect(rig.pool.pointee.claimWaiting().isEmpty && records[0].isCancelled())
        for record in records { rig.complete(record, .deviceNotConnected) }
    }
}
