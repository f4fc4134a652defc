import CHardware
import CVFIO
import Glibc
import PCIBus
import Synchronization
import Testing

@testable import VFIOBus

/// What a service routine counted.
private final class Counter: Sendable {
    let calls = Atomic<Int>(0)
    let vectors = Atomic<Int>(0)
    let serves = Atomic<Bool>(true)

    var sink: InterruptSink {
        InterruptSink(context: Unmanaged.passUnretained(self).toOpaque()) { context, vector in
            let counter = Unmanaged<Counter>.fromOpaque(context).takeUnretainedValue()
            counter.vectors.wrappingAdd(1 << (8 * Int(vector)), ordering: .sequentiallyConsistent)
            counter.calls.wrappingAdd(1, ordering: .sequentiallyConsistent)
            return counter.serves.load(ordering: .sequentiallyConsistent)
        }
    }

    var count: Int { calls.load(ordering: .sequentiallyConsistent) }
}

@Suite(.timeLimit(.minutes(1))) struct InterruptTests {
    private let kernel = FakeVFIO()
    private let function: any PCIFunction
    private let counter = Counter()

    init() throws { function = try VFIOBus(kernel: kernel).open(FakeVFIO.address) }

    @Test func `each message calls the routine once, with its vector`() throws {
        try function.connectInterrupts(.msix, count: 4, to: counter.sink)
        for vector in 0..<4 { kernel.fire(InterruptIndex.msix, vector: vector, times: UInt64(vector) + 1) }
        #expect(eventually { counter.count == 10 })
        #expect(counter.vectors.load(ordering: .sequentiallyConsistent) == 0x0403_0201)
        #expect(kernel.unmasks == 0)
        function.close()
    }

    @Test func `a level interrupt is masked until its routine has returned`() throws {
        try function.connectInterrupts(.intx, count: 1, to: counter.sink)
        for expected in 1...3 {
            kernel.fire(InterruptIndex.intx)
            #expect(eventually { counter.count == expected && kernel.lock.locked { kernel.unmasks } == expected })
        }
        function.close()
    }

    @Test func `a level that nobody serves is unmasked all the same, but not at once`() throws {
        counter.serves.store(false, ordering: .sequentiallyConsistent)
        try function.connectInterrupts(.intx, count: 1, to: counter.sink)
        let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        kernel.fire(InterruptIndex.intx)
        #expect(eventually { kernel.lock.locked { kernel.unmasks } == 1 })
        #expect(chw_clock_nanoseconds(CLOCK_MONOTONIC) - start >= 10_000_000)
        function.close()
    }

    @Test func `after disconnecting the routine is not called any more, and another can be connected`() throws {
        try function.connectInterrupts(.msix, count: 1, to: counter.sink)
        #expect(
            refusal { () throws(BusError) in try function.connectInterrupts(.msi, count: 1, to: counter.sink) }?.code
                == EBUSY
        )
        let descriptor = kernel.lock.locked { kernel.connected[InterruptIndex.msix]?.first ?? -1 }
        let kept = dup(descriptor)
        defer { close(kept) }
        function.disconnectInterrupts()
        function.disconnectInterrupts()
        #expect(kernel.lock.locked { kernel.connected[InterruptIndex.msix] } == nil)
        chw_eventfd_signal(kept)
        let other = Counter()
        try function.connectInterrupts(.msi, count: 1, to: other.sink)
        kernel.fire(InterruptIndex.msi)
        #expect(eventually { other.count == 1 })
        #expect(counter.count == 0)
        function.close()
    }

    @Test func `a kind or number the card lacks, and what the kernel refuses, connects nothing`() throws {
        for (kind, count) in [(InterruptKind.msix, 5), (.msix, 0), (.intx, 2)] {
            let error = refusal { () throws(BusError) in
                try function.connectInterrupts(kind, count: count, to: counter.sink)
            }
            #expect(error?.code == EINVAL)
        }
        kernel.lock.locked { kernel.answers[cvfio_device_set_irqs] = -ENOMEM }
        let error = refusal { () throws(BusError) in try function.connectInterrupts(.msix, count: 4, to: counter.sink) }
        #expect(error?.code == ENOMEM && error?.sentence.contains("MSI-X of 0000:03:00.0") ?? false)
        kernel.lock.locked { kernel.answers = [:] }
        try function.connectInterrupts(.msix, count: 4, to: counter.sink)
        function.close()
    }

    @Test func `a platform with fewer vectors is told of MSI-X; MSI gets those there are`() throws {
        function.release()
        kernel.vectors[InterruptIndex.msi] = 8
        kernel.platformVectors = 2
        try function.reclaim()
        let error = refusal { () throws(BusError) in try function.connectInterrupts(.msix, count: 4, to: counter.sink) }
        #expect(error?.code == ENOSPC && error?.sentence.contains("2 vectors left") ?? false)
        try function.connectInterrupts(.msi, count: 8, to: counter.sink)
        #expect(kernel.connected[InterruptIndex.msi]?.count == 2)
        kernel.fire(InterruptIndex.msi, vector: 1)
        #expect(eventually { counter.count == 1 })
        function.close()
    }

    @Test func `the kernel's wish for the function and an error of the card reach the sink`() throws {
        let events = Lock()
        defer { events.destroy() }
        final class Box: @unchecked Sendable { var all: [FunctionEvent] = [] }  // guarded by `events`
        let box = Box()
        function.setEventSink { event in events.locked { box.all.append(event) } }
        kernel.fire(InterruptIndex.error)
        #expect(eventually { events.locked { box.all } == [.errorReported] })
        kernel.fire(InterruptIndex.request)
        #expect(eventually { events.locked { box.all } == [.errorReported, .releaseRequested] })
        function.close()
        #expect(kernel.open.isEmpty)
    }

    @Test func `a function without events opens all the same`() throws {
        let kernel = FakeVFIO()
        kernel.vectors = [0, 0, 0, 0, 0]
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(function.interruptVectors.isEmpty)
        function.close()
    }
}
