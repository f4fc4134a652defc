import Glibc
import PCIBus
import Testing

@testable import DriverCore

@Suite struct PassiveWorkerTests {
    @Test func `work is done in order, one piece at a time, at passive level and on another thread`() throws {
        let worker = try PassiveWorker(name: "worker")
        let order = Trace()
        let here = pthread_self()
        for number in 0..<100 {
            let isTaken = worker.enqueue {
                order.add("\(number)")
                #expect(ExecutionLevel.current == .passive && pthread_equal(here, pthread_self()) == 0)
            }
            #expect(isTaken)
        }
        worker.drain()
        #expect(order.all == (0..<100).map(String.init))
        worker.stop()
    }

    @Test func `a worker that ends does what was queued, and takes nothing more`() throws {
        let worker = try PassiveWorker(name: "worker")
        let gate = Cancellation()
        let order = Trace()
        worker.enqueue { #expect(eventually { gate.isCancelled }) }
        for number in 0..<5 { worker.enqueue { order.add("\(number)") } }
        gate.cancel()
        worker.stop()
        #expect(order.all == ["0", "1", "2", "3", "4"])
        #expect(!worker.enqueue { order.add("late") })
        worker.stop()
        #expect(order.all.count == 5)
    }

    @Test func `work may queue work`() throws {
        let worker = try PassiveWorker(name: "worker")
        let order = Trace()
        worker.enqueue {
            order.add("outer")
            worker.enqueue { order.add("inner") }
        }
        #expect(eventually { order.all == ["outer", "inner"] })
        worker.stop()
    }
}
