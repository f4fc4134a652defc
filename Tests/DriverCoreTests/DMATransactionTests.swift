import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct DMATransactionTests {
    /// A card that keeps the lists it was given.
    private final class Engine: @unchecked Sendable {  // guarded by the collections
        let lists = Collected<MappedScatterGatherList>()
        let fixture: PacketFixture
        let transaction: DMATransaction

        init(_ fixture: PacketFixture) throws {
            self.fixture = fixture
            transaction = DMATransaction(try DMAEnabler(fixture.adapter))
        }

        func initialize(_ mdl: MDL, _ byteCount: Int, _ direction: TransferPlan.Direction, single: Bool = false)
            throws(StatusError)
        {
            try transaction.initialize(mdl, byteCount: byteCount, direction, singleTransfer: single) {
                [lists] _, list in
                lists.add(list)
            }
        }
    }

    @Test(arguments: [
        (16, 1 << 20, 61440), (16, 65536, 61440), (16, 5000, 5000), (2, 1 << 20, 4096), (257, 1 << 20, 1 << 20),
    ])
    func `a transfer is a page less than the registers cover, at most what the card can do`(
        registers: Int,
        maximum: Int,
        expected: Int
    ) throws {
        let fixture = try PacketFixture(registers: registers, maximumLength: maximum)
        fixture.function.mapRegisterLimit = registers
        let limited = try DMAAdapter(function: fixture.function, description: fixture.adapter.description)
        #expect(try DMAEnabler(limited).maximumFragmentLength == expected)
    }

    @Test func `a single map register is too few for transactions`() throws {
        let fixture = try PacketFixture()
        fixture.function.mapRegisterLimit = 1
        let adapter = try DMAAdapter(function: fixture.function, description: fixture.adapter.description)
        #expect(status { () throws(StatusError) in _ = try DMAEnabler(adapter) } == .insufficientResources)
    }

    @Test func `each profile has its width, and says which others it takes`() throws {
        for (profile, width, expected) in [
            (DMAProfile.packet, nil, Status.success), (.packet, 24, .success), (.packet, 33, .invalidParameter),
            (.scatterGather64, 63, .success), (.scatterGather64, 64, .invalidParameter),
            (.scatterGather64Duplex, 23, .invalidParameter), (.packet64, 40, .success),
        ] as [(DMAProfile, Int?, Status)] {
            let made = status { () throws(StatusError) in
                let description = try profile.description(maximumLength: 4096, addressWidth: width)
                #expect(description.addressWidth == width ?? profile.addressWidth)
                #expect(description.scatterGather == profile.hasScatterGather)
            }
            #expect(made == expected)
        }
    }

    @Test func `12 pages through 5 registers are three transfers, each told to the card`() throws {
        let fixture = try PacketFixture(registers: 5)
        let memory = fixture.memory(12 * 4096)
        let engine = try Engine(fixture)
        try engine.initialize(fixture.mdl(memory, 12 * 4096), 12 * 4096, .toDevice)
        try engine.transaction.execute()
        var seen: [UInt8] = []
        for index in 0..<3 {
            #expect(engine.lists.all.count == index + 1 && engine.transaction.state == .transfer)
            seen += fixture.read(engine.lists.all[index])
            let completion = try engine.transaction.dmaCompleted()
            #expect(completion.isDone == (index == 2))
            #expect(completion.status == (index == 2 ? .success : .moreProcessingRequired))
        }
        #expect(engine.lists.all.map(\.byteCount) == [20480, 20480, 8192] && seen == contents(memory, 12 * 4096))
        #expect(engine.transaction.transferCount == 3 && engine.transaction.bytesTransferred == 12 * 4096)
        #expect(engine.transaction.state == .transferCompleted && fixture.adapter.mapRegisters?.freeCount == 5)
        try engine.transaction.release()
    }

    @Test func `a transfer that was made in part goes on where it ended, and one of nothing is tried again`() throws {
        let fixture = try PacketFixture(registers: 8)
        let memory = fixture.memory(10_000)
        let engine = try Engine(fixture)
        let bytes = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 13 >> 2) }
        try engine.initialize(fixture.mdl(memory, 10_000), 10_000, .fromDevice)
        try engine.transaction.execute()
        var moved = 0
        for (count, current) in [(0, 10_000), (1, 10_000), (4999, 9999), (5000, 5000)] {
            let list = try #require(engine.lists.all.last)
            #expect(engine.transaction.currentTransferLength == current && list.byteCount == current)
            fixture.write(Array(bytes[moved..<moved + count]) + [UInt8](repeating: 0xff, count: current - count), list)
            moved += count
            let completion = try engine.transaction.dmaCompleted(length: count)
            #expect(completion.isDone == (moved == 10_000) && engine.transaction.bytesTransferred == moved)
        }
        #expect(contents(memory, 10_000) == bytes)
    }

    @Test func `a final completion ends the transaction with what there is`() throws {
        let fixture = try PacketFixture(registers: 3)
        let memory = fixture.memory(5 * 4096)
        let engine = try Engine(fixture)
        try engine.initialize(fixture.mdl(memory, 5 * 4096), 5 * 4096, .fromDevice)
        try engine.transaction.execute()
        #expect(engine.transaction.remaining == 5 * 4096 - 3 * 4096)
        let completion = try engine.transaction.dmaCompletedFinal(length: 100)
        #expect(completion == .init(isDone: true, status: .success) && engine.lists.all.count == 1)
        #expect(engine.transaction.bytesTransferred == 100 && engine.transaction.state == .transferCompleted)
        #expect(fixture.adapter.mapRegisters?.freeCount == 3)
    }

    @Test func `calls in a wrong order are refused, and change nothing`() throws {
        let fixture = try PacketFixture(registers: 4)
        let engine = try Engine(fixture)
        let transaction = engine.transaction
        let mdl = try fixture.mdl(fixture.memory(8192), 8192)
        func execute() -> Status { status { () throws(StatusError) in try transaction.execute() } }
        func complete(_ length: Int? = nil) -> Status {
            status { () throws(StatusError) in _ = try transaction.dmaCompleted(length: length) }
        }
        func initialize(_ count: Int = 8192) -> Status {
            status { () throws(StatusError) in try engine.initialize(mdl, count, .toDevice) }
        }
        #expect(execute() == .invalidDeviceRequest && complete() == .invalidDeviceState)
        #expect(initialize(0) == .invalidParameter && initialize(8193) == .invalidParameter)
        #expect(transaction.state == .created)
        #expect(initialize() == .success && initialize() == .invalidDeviceState && complete() == .invalidDeviceState)
        #expect(ExecutionLevel.device.run { execute() } == .invalidDeviceState)
        #expect(execute() == .success && execute() == .invalidDeviceRequest && initialize() == .invalidDeviceState)
        #expect(status { () throws(StatusError) in try transaction.release() } == .invalidDeviceState)
        #expect(complete(8193) == .invalidParameter && complete(-1) == .invalidParameter)
        #expect(transaction.state == .transfer && transaction.currentTransferLength == 8192)
        #expect(complete() == .success && complete() == .invalidDeviceState)
        try transaction.release()
        try transaction.release()
        #expect(transaction.state == .released && initialize() == .success)
    }

    @Test func `what cannot be made is refused by execute, and the transaction released`() throws {
        let fixture = try PacketFixture(registers: 2)
        let engine = try Engine(fixture)
        let mdl = try fixture.mdl(fixture.memory(5 * 4096), 5 * 4096)
        try engine.initialize(mdl, 5 * 4096, .toDevice, single: true)
        #expect(status { () throws(StatusError) in try engine.transaction.execute() } == .tooManyTransfers)
        #expect(engine.transaction.state == .transferFailed && engine.lists.all.isEmpty)
        try engine.transaction.release()
        #expect(
            status { () throws(StatusError) in try engine.transaction.reserve(mapRegisters: 258) }
                == .notEnoughMapRegisters
        )
        try engine.transaction.reserve(mapRegisters: 1)
        try engine.initialize(mdl, 5 * 4096, .toDevice)
        try engine.transaction.execute()
        #expect(engine.lists.all.map(\.byteCount) == [4096])

        let scattered = try PacketFixture(width: 64, translation: .identity)
        let enabler = try DMAEnabler(scattered.adapter)
        enabler.maximumElements = 2
        let transaction = DMATransaction(enabler)
        let pieces = try scattered.mdl(scattered.memory(3 * 4096), 3 * 4096, frames: [1, 3, 5])
        try transaction.initialize(pieces, byteCount: 3 * 4096, .toDevice) { _, _ in Issue.record("not to be called") }
        #expect(status { () throws(StatusError) in try transaction.execute() } == .tooFragmented)
        #expect(scattered.adapter.channel.listCount == 0)
    }

    @Test func `a transaction is taken back while it waits for registers, and not once it runs`() throws {
        let fixture = try PacketFixture(registers: 2)
        let first = try Engine(fixture)
        let second = try Engine(fixture)
        let memory = fixture.memory(2 * 4096)
        try first.initialize(fixture.mdl(memory, 8192), 8192, .toDevice)
        try second.initialize(fixture.mdl(memory, 100), 100, .toDevice)
        #expect(!first.transaction.cancel())
        try first.transaction.execute()
        try second.transaction.execute()
        #expect(first.lists.all.count == 1 && second.lists.all.isEmpty)
        #expect(!first.transaction.cancel())
        #expect(second.transaction.cancel() && !second.transaction.cancel())
        _ = try first.transaction.dmaCompleted()
        #expect(second.lists.all.isEmpty && fixture.adapter.mapRegisters?.freeCount == 2)
        try second.transaction.release()
    }

    @Test func `registers that come for a transaction that was taken back are not for its next use`() throws {
        let fixture = try PacketFixture(registers: 2)
        let first = try Engine(fixture)
        let second = try Engine(fixture)
        let memory = fixture.memory(2 * 4096)
        try first.initialize(fixture.mdl(memory, 8192), 8192, .toDevice)
        try second.initialize(fixture.mdl(memory, 100), 100, .toDevice)
        try first.transaction.execute()
        try second.transaction.execute()
        #expect(second.transaction.cancel())
        try second.transaction.release()
        // The wait of its first use is still in the queue, before that of the second.
        try second.initialize(fixture.mdl(memory, 200), 200, .toDevice)
        try second.transaction.execute()
        _ = try first.transaction.dmaCompleted()
        #expect(second.lists.all.map(\.byteCount) == [200])
        _ = try second.transaction.dmaCompleted()
        try second.transaction.release()
        #expect(fixture.adapter.mapRegisters?.freeCount == 2)
    }

    @Test func `the direction is that of the request`() throws {
        #expect(try DMATransaction.direction(of: .read) == .fromDevice)
        #expect(try DMATransaction.direction(of: .write) == .toDevice)
        #expect(status { () throws(StatusError) in _ = try DMATransaction.direction(of: .close) } == .invalidParameter)
    }

    /// Random buffers, limits and register counts: the transfers put together give back the data.
    @Test(arguments: 0..<60)
    func `whatever the card's limits, the transfers put together are the buffer`(seed: Int) throws {
        var random = Generator(seed: UInt64(seed))
        let registers = Int.random(in: 2...9, using: &random)
        let fixture = try PacketFixture(
            registers: registers,
            width: Int.random(in: 24...32, using: &random),
            scatterGather: Bool.random(using: &random),
            maximumLength: Int.random(in: 1...40_000, using: &random)
        )
        let common = try fixture.adapter.allocateCommonBuffer(byteCount: 5 * 4096)
        let outside = fixture.memory(6 * 4096)
        let count = Int.random(in: 1...4, using: &random)
        var parts: [(base: UnsafeMutableRawPointer, byteCount: Int)] = []
        for index in 0..<count {
            let isCommon = Bool.random(using: &random)
            // Each part has a place of its own, so that what is written in one is not seen in another.
            let length = Int.random(in: 1...(isCommon ? 5120 : 6144), using: &random)
            parts.append(((isCommon ? common.base : outside) + index * (isCommon ? 5120 : 6144), length))
        }
        let mdl = try fixture.mdl(parts[0].base, parts[0].byteCount)
        for part in parts.dropFirst() { try mdl.append(fixture.mdl(part.base, part.byteCount)) }
        let total = parts.reduce(0) { $0 + $1.byteCount }
        let engine = try Engine(fixture)
        for direction in [TransferPlan.Direction.toDevice, .fromDevice] {
            let expected =
                direction == .toDevice
                ? parts.flatMap { contents($0.base, $0.byteCount) }
                : (0..<total).map { _ in UInt8.random(in: 0...255, using: &random) }
            try engine.initialize(mdl, total, direction)
            try engine.transaction.execute()
            var moved = 0
            var isDone = false
            while !isDone {
                let list = try #require(engine.lists.all.last)
                #expect(list.byteCount <= fixture.adapter.description.maximumLength)
                #expect(
                    list.mapRegisterCount <= registers
                        && list.mapRegisters.allSatisfy { (1...4096).contains($0.byteCount) }
                )
                #expect(fixture.adapter.description.scatterGather || list.elements.count == 1)
                #expect(
                    list.elements.allSatisfy { $0.address.value + UInt64($0.byteCount) - 1 <= fixture.adapter.limit }
                )
                let length = Int.random(in: moved == 0 ? 1...list.byteCount : 0...list.byteCount, using: &random)
                if direction == .toDevice {
                    #expect(Array(fixture.read(list)[..<length]) == Array(expected[moved..<moved + length]))
                } else {
                    fixture.write(Array(expected[moved..<moved + length]), list)
                }
                moved += length
                isDone = try engine.transaction.dmaCompleted(length: length).isDone
            }
            #expect(moved == total && fixture.adapter.mapRegisters?.freeCount == registers)
            if direction == .fromDevice { #expect(parts.flatMap { contents($0.base, $0.byteCount) } == expected) }
            try engine.transaction.release()
        }
    }
}

/// A sequence that is the same in every run (SplitMix64).
struct Generator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
