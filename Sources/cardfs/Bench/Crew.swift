import CHardware
import CardFS
import Glibc
import PCIBus
import Synchronization

/// Threads that begin together, and the time from their beginning to the end of the last.
enum Crew {
    /// What the threads share.
    private final class Shared<Value: Sendable>: @unchecked Sendable {  // guarded by `lock`, or atomic
        let ready = Atomic<Int>(0)
        let isOn = Atomic<Bool>(false)
        let lock = Lock()
        var results: [Result<Value, Refusal>] = []

        deinit { lock.destroy() }
    }

    /// Runs `work` on `count` threads. Each first calls `prepare`, whose time does not count. The first refusal is thrown after
    /// all have ended; each piece of work has a bound of its own.
    static func run<State, Value: Sendable>(
        _ count: Int,
        prepare: @escaping @Sendable (Int) throws(Refusal) -> State,
        work: @escaping @Sendable (State) throws(Refusal) -> Value
    ) throws(Refusal) -> (seconds: Double, values: [Value]) {
        let shared = Shared<Value>()
        var threads: [Thread] = []
        for index in 0..<count {
            let body: @Sendable () -> Void = {
                var result: Result<Value, Refusal>
                do throws(Refusal) {
                    let state: State
                    do throws(Refusal) { state = try prepare(index) } catch {
                        shared.ready.wrappingAdd(1, ordering: .releasing)
                        throw error
                    }
                    shared.ready.wrappingAdd(1, ordering: .releasing)
                    while !shared.isOn.load(ordering: .acquiring) { sched_yield() }
                    result = .success(try work(state))
                } catch {
                    result = .failure(error)
                }
                shared.lock.locked { shared.results.append(result) }
            }
            do throws(BusError) {
                threads.append(try Thread(starting: "bench-\(index)", body))
            } catch {
                shared.isOn.store(true, ordering: .releasing)
                for thread in threads { thread.join() }
                throw Refusal(error.sentence, code: error.code)
            }
        }
        while shared.ready.load(ordering: .acquiring) < count { sched_yield() }
        let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        shared.isOn.store(true, ordering: .releasing)
        for thread in threads { thread.join() }
        let end = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        var values: [Value] = []
        for result in shared.lock.locked({ shared.results }) { values.append(try result.get()) }
        return (Double(end - start) / 1e9, values)
    }
}

/// Page-aligned memory of a benchmark's own.
final class BenchBuffer: @unchecked Sendable {  // used by one thread at a time
    let bytes: UnsafeMutableRawBufferPointer

    init(byteCount: Int) {
        bytes = .allocate(byteCount: byteCount, alignment: Page.size)
        memset(bytes.baseAddress!, 0, byteCount)
    }

    deinit { bytes.deallocate() }
}
