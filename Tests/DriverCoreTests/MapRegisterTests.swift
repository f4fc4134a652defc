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

    /// Memory the card cannot reach, its pages numbered by the bytes they hold.
    private func memory(_ byteCount: Int = 16 * 4096) -> UnsafeMutableRawPointer {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: Page.size)
        for index in 0..<byteCount {
            memory.storeBytes(of: UInt8(truncatingIfNeeded: index &* 31 >> 3), toByteOffset: index, as: UInt8.self)
        }
        return memory
    }

    private func mdl(_ memory: UnsafeMutableRawPointer, _ byteCount: Int) -> MemoryDescriptorList {
        MemoryDescriptorList(virtualAddress: VirtualAddress(memory), byteCount: byteCount)
    }

    /// The bytes behind a transfer's runs, as the card sees them.
    private func card(_ transfer: MappedTransfer) -> UnsafeMutableRawPointer {
        var list = transfer.list
        let element = list.element(maximum: .max)!
        let start = function.mappings.keys.first {
            $0 <= element.address.value && element.address.value < $0 + UInt64(function.mappings[$0]!)
        }!
        return function.memories.last! + Int(element.address.value - start)
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

    // MARK: Transfers

    @Test(arguments: [
        (0, 5000, [4096, 904]), (0xf00, 5000, [256, 4096, 648]), (0xfff, 1, [1]), (0xfff, 2, [1, 1]),
        (1, 4096, [4095, 1]), (0, 4096, [4096]), (16, 4 * 4096 - 16, [4080, 4096, 4096, 4096]),
    ])
    func `each register maps a piece of one page, and the card sees one run`(offset: Int, byteCount: Int, pieces: [Int])
        throws
    {
        let registers = try registers(4)
        let source = memory()
        defer { source.deallocate() }
        let granted = Granted<MappedTransfer>()
        #expect(
            adapter.getScatterGatherList(mdl(source + offset, byteCount), .toDevice) { granted.add($0) } == .success
        )
        let transfer = try #require(granted.all.first)
        let mapped = transfer.mapRegisters
        #expect(mapped.map(\.byteCount) == pieces && transfer.base?.count == pieces.count)
        #expect(registers.freeCount == 4 - pieces.count)
        var list = transfer.list
        let element = list.element(maximum: .max)
        #expect(element?.byteCount == byteCount && list.remaining == 0 && element?.address == mapped[0].logicalAddress)
        #expect(mapped[0].logicalAddress.value % 4096 == UInt64(offset))
        for (left, right) in zip(mapped, mapped.dropFirst()) {
            #expect(left.logicalAddress.advanced(by: UInt64(left.byteCount)) == right.logicalAddress)
            #expect(right.logicalAddress.value % 4096 == 0)
        }
        #expect(memcmp(card(transfer), source + offset, byteCount) == 0)
        try adapter.putScatterGatherList(transfer)
        #expect(registers.freeCount == 4)
        #expect(status { () throws(StatusError) in try adapter.putScatterGatherList(transfer) } == .invalidParameter)
    }

    @Test(arguments: [nil, 5000, 100, 0, 9999] as [Int?])
    func `what the card wrote reaches the buffer when the list is put back, and no more of it`(done: Int?) throws {
        _ = try registers(3)
        let buffer = memory()
        defer { buffer.deallocate() }
        let before = [UInt8](UnsafeRawBufferPointer(start: buffer, count: 16 * 4096))
        let granted = Granted<MappedTransfer>()
        #expect(adapter.getScatterGatherList(mdl(buffer + 0xf00, 5000), .fromDevice) { granted.add($0) } == .success)
        memset(card(granted.all[0]), 0xee, 5000)
        #expect([UInt8](UnsafeRawBufferPointer(start: buffer, count: 16 * 4096)) == before)
        try adapter.putScatterGatherList(granted.all[0], byteCount: done)
        let count = min(done ?? 5000, 5000)
        var expected = before
        expected.replaceSubrange(0xf00..<0xf00 + count, with: repeatElement(0xee, count: count))
        #expect([UInt8](UnsafeRawBufferPointer(start: buffer, count: 16 * 4096)) == expected)
    }

    @Test func `a transfer to the card does not change its buffer`() throws {
        _ = try registers(1)
        let buffer = memory()
        defer { buffer.deallocate() }
        let before = [UInt8](UnsafeRawBufferPointer(start: buffer, count: 4096))
        let granted = Granted<MappedTransfer>()
        _ = adapter.getScatterGatherList(mdl(buffer, 4096), .toDevice) { granted.add($0) }
        memset(card(granted.all[0]), 0, 4096)
        granted.all[0].flush(byteCount: 4096)
        try adapter.putScatterGatherList(granted.all[0])
        #expect([UInt8](UnsafeRawBufferPointer(start: buffer, count: 4096)) == before)
    }

    @Test func `a flush shows what the card wrote while the registers stay out`() throws {
        let registers = try registers(1)
        let buffer = memory()
        defer { buffer.deallocate() }
        let granted = Granted<MappedTransfer>()
        _ = adapter.getScatterGatherList(mdl(buffer, 10), .fromDevice) { granted.add($0) }
        memset(card(granted.all[0]), 0xaa, 10)
        granted.all[0].flush(byteCount: 10)
        #expect(buffer.load(as: UInt64.self) == 0xaaaa_aaaa_aaaa_aaaa && registers.freeCount == 0)
        try adapter.putScatterGatherList(granted.all[0])
    }

    @Test func `memory in a common buffer uses no register`() throws {
        let common = try adapter.allocateCommonBuffer(byteCount: 65536)
        let granted = Granted<MappedTransfer>()
        for direction in [TransferPlan.Direction.toDevice, .fromDevice] {
            #expect(
                adapter.getScatterGatherList(mdl(common.base + 5, 60000), direction) { granted.add($0) } == .success
            )
        }
        for transfer in granted.all {
            var list = transfer.list
            #expect(list.element(maximum: .max)?.address == common.logicalAddress.advanced(by: 5))
            #expect(transfer.base == nil && transfer.mapRegisters.isEmpty)
            try adapter.putScatterGatherList(transfer)
        }
        #expect(granted.all.count == 2)
        adapter.releaseAll()
    }

    @Test func `memory that begins in a common buffer and ends outside goes through registers`() throws {
        let common = try adapter.allocateCommonBuffer(byteCount: 8192)
        let registers = try registers(2)
        let inside = CommonBuffer(
            memory: DMAMemory(base: common.base, byteCount: 4096, frames: nil),
            logicalAddress: common.logicalAddress,
            byteCount: 4096
        )
        #expect(inside.scatterGatherList(of: mdl(common.base + 4000, 200)) == nil)
        let granted = Granted<MappedTransfer>()
        let buffer = memory()
        defer { buffer.deallocate() }
        #expect(adapter.getScatterGatherList(mdl(buffer, 8192), .toDevice) { granted.add($0) } == .success)
        #expect(granted.all.count == 1 && registers.freeCount == 0)
    }

    @Test(arguments: [0, -1])
    func `a transfer of no bytes is refused`(byteCount: Int) throws {
        _ = try registers(2)
        let buffer = memory()
        defer { buffer.deallocate() }
        let granted = Granted<MappedTransfer>()
        #expect(
            adapter.getScatterGatherList(mdl(buffer, byteCount), .toDevice) { granted.add($0) } == .invalidParameter
        )
        let nobody = MemoryDescriptorList(virtualAddress: VirtualAddress(0 as UInt), byteCount: 1)
        #expect(adapter.getScatterGatherList(nobody, .toDevice) { granted.add($0) } == .invalidParameter)
        let wrapped = MemoryDescriptorList(virtualAddress: VirtualAddress(.max), byteCount: 2)
        #expect(adapter.getScatterGatherList(wrapped, .toDevice) { granted.add($0) } == .invalidParameter)
        #expect(granted.all.isEmpty)
    }

    @Test func `a transfer of more pages than there are registers is refused, one byte less is not`() throws {
        let granted = Granted<MappedTransfer>()
        let buffer = memory()
        defer { buffer.deallocate() }
        #expect(adapter.getScatterGatherList(mdl(buffer, 1), .toDevice) { granted.add($0) } == .insufficientResources)
        _ = try registers(2)
        #expect(
            adapter.getScatterGatherList(mdl(buffer + 1, 8192), .toDevice) { granted.add($0) } == .insufficientResources
        )
        #expect(granted.all.isEmpty)
        #expect(adapter.getScatterGatherList(mdl(buffer + 1, 8191), .toDevice) { granted.add($0) } == .success)
        #expect(granted.all.count == 1)
    }

    @Test func `a transfer that waits takes its bytes when its turn comes`() throws {
        _ = try registers(1)
        let buffer = memory()
        defer { buffer.deallocate() }
        let granted = Granted<MappedTransfer>()
        for page in 0..<3 {
            #expect(
                adapter.getScatterGatherList(mdl(buffer + page * 4096, 100), .toDevice) { granted.add($0) } == .success
            )
        }
        #expect(granted.all.count == 1)
        memset(buffer + 4096, 0x77, 100)
        try adapter.putScatterGatherList(granted.all[0])
        #expect(granted.all.count == 2 && memcmp(card(granted.all[1]), buffer + 4096, 100) == 0)
        try adapter.putScatterGatherList(granted.all[1])
        #expect(granted.all.map(\.mdl.virtualAddress) == (0..<3).map { VirtualAddress(buffer + $0 * 4096) })
    }
}
