import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization
import Testing

/// A table with a stepped clock whose calls count how often they ran.
private final class DeferredRig: @unchecked Sendable {  // words shared with the thread are atomic
    final class Counter: Sendable {
        let runs = Atomic<Int>(0)
        let mayReturn = Atomic<Bool>(true)
    }

    let clock = Clock.stepped(from: 1000)
    let table: UnsafeMutablePointer<DeferredThread>
    let counters: [Counter]
    let numbers: [Int]

    init(calls: Int) throws {
        table = .allocate(capacity: 1)
        table.initialize(to: DeferredThread(clock: clock))
        let counters = (0..<calls).map { _ in Counter() }
        self.counters = counters
        let table = table
        numbers = counters.map { counter in
            table.pointee.register(context: Unmanaged.passUnretained(counter).toOpaque()) { context in
                let counter = Unmanaged<Counter>.fromOpaque(context).takeUnretainedValue()
                counter.runs.wrappingAdd(1, ordering: .sequentiallyConsistent)
                while !counter.mayReturn.load(ordering: .sequentiallyConsistent) { sched_yield() }
            }
        }
        try DeferredThread.start(table, name: "dpc-test")
    }

    deinit {
        table.pointee.stop()
        table.deinitialize(count: 1)
        table.deallocate()
        clock.destroy()
    }

    func runs(_ call: Int) -> Int { counters[call].runs.load(ordering: .sequentiallyConsistent) }

    func advance(_ nanoseconds: UInt64) {
        clock.advance(byNanoseconds: nanoseconds)
        table.pointee.clockMoved()
    }

    /// Waits until the thread has looked at everything that was asked before: the last call runs behind the others.
    func settle(_ call: Int) {
        let before = runs(call)
        table.pointee.queue(call)
        #expect(eventually { runs(call) > before })
    }
}

@Suite(.timeLimit(.minutes(10))) struct DeferredThreadTests {
    @Test func `calls are numbered from 0 and run when they are queued`() throws {
        let rig = try DeferredRig(calls: 3)
        #expect(rig.numbers == [0, 1, 2])
        rig.table.pointee.queue(1)
        #expect(eventually { rig.runs(1) == 1 })
        #expect(rig.runs(0) == 0 && rig.runs(2) == 0)
    }

    @Test func `a call that is queued already is queued once, and one that runs is queued again`() throws {
        let rig = try DeferredRig(calls: 2)
        rig.counters[0].mayReturn.store(false, ordering: .sequentiallyConsistent)
        rig.table.pointee.queue(0)
        #expect(eventually { rig.runs(0) == 1 })
        for _ in 0..<5 { rig.table.pointee.queue(0) }
        rig.counters[0].mayReturn.store(true, ordering: .sequentiallyConsistent)
        #expect(eventually { rig.runs(0) == 2 })
        rig.settle(1)
        #expect(rig.runs(0) == 2)
    }

    @Test func `a timer queues its call when the clock reaches it, once`() throws {
        let rig = try DeferredRig(calls: 2)
        rig.table.pointee.setTimer(0, 2000)
        rig.advance(999)
        rig.settle(1)
        #expect(rig.runs(0) == 0)
        rig.advance(1)
        #expect(eventually { rig.runs(0) == 1 })
        rig.advance(10_000)
        rig.settle(1)
        #expect(rig.runs(0) == 1)
    }

    @Test func `the earlier of two deadlines holds`() throws {
        let rig = try DeferredRig(calls: 2)
        rig.table.pointee.setTimer(0, 3000)
        rig.table.pointee.setTimer(0, 2000)
        rig.table.pointee.setTimer(0, 4000)
        rig.advance(1000)
        #expect(eventually { rig.runs(0) == 1 })
        rig.advance(5000)
        rig.settle(1)
        #expect(rig.runs(0) == 1)
    }

    @Test func `a deadline that has passed runs at once`() throws {
        let rig = try DeferredRig(calls: 1)
        rig.settle(0)
        rig.table.pointee.setTimer(0, 5)
        #expect(eventually { rig.runs(0) == 2 })
    }

    @Test func `timers of real time need nobody to move the clock`() throws {
        let clock = Clock.monotonic()
        let table = UnsafeMutablePointer<DeferredThread>.allocate(capacity: 1)
        table.initialize(to: DeferredThread(clock: clock))
        let counter = DeferredRig.Counter()
        let call = table.pointee.register(context: Unmanaged.passUnretained(counter).toOpaque()) { context in
            let counter = Unmanaged<DeferredRig.Counter>.fromOpaque(context).takeUnretainedValue()
            counter.runs.wrappingAdd(1, ordering: .sequentiallyConsistent)
        }
        try DeferredThread.start(table, name: "dpc-test")
        let start = clock.now()
        table.pointee.setTimer(call, start + 20_000_000)
        #expect(eventually { counter.runs.load(ordering: .sequentiallyConsistent) == 1 })
        #expect(clock.now() >= start + 20_000_000)
        table.pointee.stop()
        table.deinitialize(count: 1)
        table.deallocate()
    }

    @Test func `a thread that sleeps for a late timer is woken for an earlier one`() throws {
        let clock = Clock.monotonic()
        let table = UnsafeMutablePointer<DeferredThread>.allocate(capacity: 1)
        table.initialize(to: DeferredThread(clock: clock))
        let counters = (0..<2).map { _ in DeferredRig.Counter() }
        let calls = counters.map { counter in
            table.pointee.register(context: Unmanaged.passUnretained(counter).toOpaque()) { context in
                let counter = Unmanaged<DeferredRig.Counter>.fromOpaque(context).takeUnretainedValue()
                counter.runs.wrappingAdd(1, ordering: .sequentiallyConsistent)
            }
        }
        try DeferredThread.start(table, name: "dpc-test")
        table.pointee.setTimer(calls[0], clock.now() + 3_600_000_000_000)
        // It sleeps when it has looked at everything.
        table.pointee.queue(calls[1])
        #expect(eventually { counters[1].runs.load(ordering: .sequentiallyConsistent) == 1 })
        usleep(10_000)
        table.pointee.setTimer(calls[1], clock.now() + 1_000_000)
        #expect(eventually { counters[1].runs.load(ordering: .sequentiallyConsistent) == 2 })
        #expect(counters[0].runs.load(ordering: .sequentiallyConsistent) == 0)
        table.pointee.stop()
        table.deinitialize(count: 1)
        table.deallocate()
    }

    @Test func `after stop nothing runs`() throws {
        let rig = try DeferredRig(calls: 1)
        rig.table.pointee.stop()
        rig.table.pointee.queue(0)
        rig.table.pointee.stop()
        #expect(rig.runs(0) == 0)
    }
}
