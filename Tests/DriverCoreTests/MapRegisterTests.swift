import CHardware
import PCIBus
import Testing

@testable import DriverCore

/// What callbacks were handed, in order.
private final class Granted<Value: Sendable>: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var values: [Value] = []

    deinit { lock.destroy() }

    func add(_ value: Value) { lock.locked { values.append(value) } }
    var all: [Value] { lock.locked { values } }
}

@Suite struct MapRegisterTests {
    let function = FakeFunction()
    let adapter: DMAAdapter

    init() throws {
        adapter = try DMAAdapter(
            function: function,
            description: DeviceDescription(addressWidth: 24, scatterGather: false, maximumLength: 65536, alignment: 1)
        )
    }

    private func registers(_ count: Int) throws -> MapRegisterFile {
        try adapter.reserveMapRegisters(count)
        return try #require(adapter.mapRegisters)
    }

    @Test func `registers are pages of one common buffer below the card's limit`() throws {
        let registers = try registers(5)
        #expect(registers.count == 5 && registers.freeCount == 5)
        #expect(
            function.mappings.values.sorted() == [5 * 4096]
                && function.mappings.keys.allSatisfy { $0 + 5 * 4096 <= 1 << 24 }
        )
        #expect(status { () throws(StatusError) in try adapter.reserveMapRegisters(1) } == .invalidDeviceState)
        adapter.releaseAll()
        #expect(function.memories.isEmpty && adapter.mapRegisters == nil)
    }

    @Test(arguments: [
        (6, Status.insufficientResources), (.max, .insufficientResources), (0, .invalidParameter),
        (-1, .invalidParameter),
    ])
    func `more registers than there are, or none, is refused at once and for ever`(count: Int, expected: Status) throws
    {
        let registers = try registers(5)
        let granted = Granted<MapRegisterBase>()
        #expect(registers.allocate(count) { granted.add($0) } == expected)
        #expect(granted.all.isEmpty && registers.waitingCount == 0 && registers.freeCount == 5)
    }

    @Test func `registers of a transfer follow each other`() throws {
        let registers = try registers(6)
        let granted = Granted<MapRegisterBase>()
        for count in [2, 1, 3] { #expect(registers.allocate(count) { granted.add($0) } == .success) }
        #expect(granted.all.map(\.first) == [0, 2, 3] && registers.freeCount == 0)
        try registers.free(granted.all[0])
        try registers.free(granted.all[2])
        // Five are free, but no four of them follow each other.
        #expect(registers.allocate(4) { granted.add($0) } == .success)
        #expect(granted.all.count == 3 && registers.waitingCount == 1)
        try registers.free(granted.all[1])
        #expect(granted.all.last?.first == 0 && granted.all.last?.count == 4)
    }

    @Test func `who waits is served first come first served, and nobody overtakes`() throws {
        let registers = try registers(4)
        let order = Trace()
        let granted = Granted<MapRegisterBase>()
        func ask(_ name: String, _ count: Int) {
            #expect(
                registers.allocate(count) {
                    order.add(name); granted.add($0)
                } == .success
            )
        }
        ask("first", 3)
        ask("large", 4)
        ask("small", 1)
        #expect(order.all == ["first"] && registers.waitingCount == 2 && registers.freeCount == 1)
        try registers.free(granted.all[0])
        #expect(order.all == ["first", "large"])
        try registers.free(granted.all[1])
        #expect(order.all == ["first", "large", "small"])
    }

    @Test func `registers are freed once`() throws {
        let registers = try registers(2)
        let granted = Granted<MapRegisterBase>()
        _ = registers.allocate(2) { granted.add($0) }
        try registers.free(granted.all[0])
        #expect(status { () throws(StatusError) in try registers.free(granted.all[0]) } == .invalidParameter)
        _ = registers.allocate(2) { granted.add($0) }
        #expect(status { () throws(StatusError) in try registers.free(granted.all[0]) } == .invalidParameter)
        #expect(registers.freeCount == 0)
    }

    @Test func `a callback that frees at once serves thousands in a loop, not in depth`() throws {
        let registers = try registers(1)
        let granted = Granted<MapRegisterBase>()
        let served = Trace()
        _ = registers.allocate(1) { granted.add($0) }
        for index in 0..<20_000 {
            _ = registers.allocate(1) { base in
                served.add("\(index)")
                try? registers.free(base)
            }
        }
        try registers.free(granted.all[0])
        #expect(served.all == (0..<20_000).map(String.init))
        #expect(registers.freeCount == 1)
    }

    @Test func `threads that take and give keep every register single`() throws {
        let registers = try registers(7)
        let inUse = Granted<Int>()
        let threads = (0..<4).map { seed in
            Thread(name: "registers") {
                for round in 0..<500 {
                    _ = registers.allocate(1 + (round + seed) % 7) { base in
                        inUse.add(base.count)
                        try? registers.free(base)
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(inUse.all.count == 2000 && registers.freeCount == 7 && registers.waitingCount == 0)
    }
}
