import DriverCore
import PCIBus
import Testing

/// A queue whose changes can be part of an expectation.
private final class Queue {
    typealias Record = UnsafeMutablePointer<RequestRecord>

    private var queue: IOQueue

    init(_ dispatch: IOQueue.Dispatch, started: Bool) {
        queue = IOQueue(dispatch)
        if started { queue.start() }
    }

    var waitingCount: Int { queue.waitingCount }
    var delivered: Int { queue.delivered }
    var oldest: Record? { queue.oldest }
    func wouldDeliver() -> Bool { queue.wouldDeliver() }
    func submit(_ record: Record) -> IOQueue.Disposition { queue.submit(record) }
    func finished() -> Record? { queue.finished() }
    func next() -> Record? { queue.next() }
    func next(after record: Record) -> Record? { queue.next(after: record) }
    func retrieveNext() -> Record? { queue.retrieveNext() }
    func start() { queue.start() }
    func stop() { queue.stop() }
    func remove(_ record: Record) { queue.remove(record) }
    func putBack(_ record: Record) { queue.putBack(record) }
}

@Suite struct IOQueueTests {
    private let rig = PoolRig(capacity: 16)

    private func queue(_ dispatch: IOQueue.Dispatch, started: Bool = true) -> Queue {
        Queue(dispatch, started: started)
    }

    @Test func `a sequential queue delivers one at a time, in order`() {
        let queue = queue(.sequential)
        let records = (0..<4).map { _ in rig.make() }
        #expect(records.map { queue.submit($0) } == [.deliver, .waits, .waits, .waits])
        #expect(queue.delivered == 1 && queue.waitingCount == 3 && queue.next() == nil)
        var order = [records[0]]
        while let next = queue.finished() {
            #expect(queue.delivered == 1)
            order.append(next)
        }
        #expect(order == records && queue.delivered == 0 && queue.waitingCount == 0)
        #expect(queue.wouldDeliver())
    }

    @Test func `a parallel queue delivers all at once`() {
        let queue = queue(.parallel)
        #expect((0..<4).map { _ in queue.submit(rig.make()) } == [.deliver, .deliver, .deliver, .deliver])
        #expect(queue.delivered == 4)
        #expect(queue.finished() == nil && queue.delivered == 3)
    }

    @Test func `a manual queue delivers when it is asked`() {
        let queue = queue(.manual)
        let records = (0..<3).map { _ in rig.make() }
        #expect(records.map { queue.submit($0) } == [.waits, .waits, .waits] && !queue.wouldDeliver())
        #expect(queue.next() == nil)
        #expect(queue.retrieveNext() == records[0] && queue.retrieveNext() == records[1])
        #expect(queue.finished() == nil && queue.delivered == 1 && queue.oldest == records[2])
    }

    @Test(arguments: [IOQueue.Dispatch.sequential, .parallel, .manual])
    func `a stopped queue holds what arrives`(dispatch: IOQueue.Dispatch) {
        let queue = queue(dispatch, started: false)
        let records = (0..<3).map { _ in rig.make() }
        #expect(records.map { queue.submit($0) } == [.waits, .waits, .waits])
        #expect(queue.next() == nil && queue.retrieveNext() == nil)
        queue.start()
        var order: [UnsafeMutablePointer<RequestRecord>] = []
        switch dispatch {
        case .sequential:
            var next = queue.next()
            while let record = next {
                order.append(record)
                next = queue.finished()
            }
        case .parallel: while let record = queue.next() { order.append(record) }
        case .manual: while let record = queue.retrieveNext() { order.append(record) }
        }
        #expect(order == records)
    }

    @Test func `a queue that is stopped keeps what the driver has, and gives nothing more`() {
        let queue = queue(.sequential)
        let records = (0..<3).map { _ in rig.make() }
        for record in records { _ = queue.submit(record) }
        queue.stop()
        #expect(queue.delivered == 1 && queue.finished() == nil && queue.waitingCount == 2)
        queue.start()
        #expect(queue.next() == records[1])
    }

    @Test func `after a restart the old come before the new`() {
        let queue = queue(.parallel, started: false)
        let old = rig.make()
        #expect(queue.submit(old) == .waits)
        queue.start()
        let new = rig.make()
        #expect(queue.submit(new) == .waits)
        #expect(queue.next() == old && queue.next() == new)
    }

    @Test func `a request that is cancelled while it waits is not delivered`() {
        let queue = queue(.sequential)
        let records = (0..<4).map { _ in rig.make() }
        for record in records { _ = queue.submit(record) }
        #expect(rig.pool.pointee.cancel(records[1].pointee.cookie()) == .claimed)
        queue.remove(records[1])
        // The canceller of this one has not come to take it out yet.
        #expect(rig.pool.pointee.cancel(records[2].pointee.cookie()) == .claimed)
        #expect(queue.finished() == records[3])
        queue.remove(records[2])
        #expect(queue.waitingCount == 0)
    }

    @Test func `one that was cancelled before it could wait is given back`() {
        let queue = queue(.manual)
        let record = rig.make()
        #expect(rig.pool.pointee.cancel(record.pointee.cookie()) == .noted)
        #expect(queue.submit(record) == .cancelled && queue.waitingCount == 0)
    }

    @Test func `a delivered request cannot be claimed by a cancel`() {
        let queue = queue(.sequential)
        let records = (0..<2).map { _ in rig.make() }
        for record in records { _ = queue.submit(record) }
        #expect(queue.finished() == records[1])
        #expect(rig.pool.pointee.cancel(records[1].pointee.cookie()) == .noted)
    }

    @Test func `a request that was put back is the first again`() {
        let queue = queue(.manual)
        let records = (0..<3).map { _ in rig.make() }
        for record in records { _ = queue.submit(record) }
        queue.remove(records[0])
        queue.putBack(records[0])
        #expect(queue.oldest == records[0] && queue.next(after: records[0]) == records[1])
        #expect(queue.next(after: records[2]) == nil && queue.waitingCount == 3)
    }
}
