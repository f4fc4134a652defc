import CHardware
import CardDrivers
import DriverCore
import Glibc
import PCIBus
import SimulatedCard
import Testing

/// How the requests of a station ended. An object of its own: the driver's threads hold it while they tell of an end, and may
/// be the last to let go, while a station ends on the thread of its test.
private final class Ledger: @unchecked Sendable {  // guarded by `lock`; `owner` is set before the first request
    var owner: (arena: UnsafeMutablePointer<PayloadArena>, pool: UnsafeMutablePointer<RequestPool>)?
    private let lock = Lock()
    private var outcomes: [UInt: Station.Outcome] = [:]
    private var ended: [UInt] = []

    deinit { lock.destroy() }

    func outcome(_ id: UInt) -> Station.Outcome? { lock.locked { outcomes[id] } }

    /// The requests that have ended, in order.
    var order: [UInt] { lock.locked { ended } }

    func ending(_ record: UnsafeMutablePointer<RequestRecord>) {
        var outcome = Station.Outcome(status: record.pointee.status)
        outcome.cause = record.pointee.cause
        outcome.information = record.pointee.information
        if record.pointee.status.isSuccess {
            for index in 0..<record.pointee.segmentCount {
                let segment = record.pointee.segments[index]
                if record.pointee.flags.contains(.mapped) {
                    let start = Int(bitPattern: segment.iov_base)
                    outcome.places.append(start..<start + segment.iov_len)
                    outcome.end = PacketEnd(rawValue: UInt32(record.pointee.sequence))
                    continue
                }
                outcome.bytes += UnsafeRawBufferPointer(start: segment.iov_base, count: segment.iov_len)
            }
        }
        guard let owner else { preconditionFailure("a request ended before there was one") }
        let id = UInt(bitPattern: record.pointee.replyContext)
        owner.arena.pointee.give(record.pointee.storage, record.pointee.bufferIndex)
        owner.pool.pointee.release(record)
        lock.locked {
            #expect(outcomes[id] == nil)
            outcomes[id] = outcome
            ended.append(id)
        }
    }
}

/// A card with its driver started (a simulated one, or another), and a file layer of the test's own in front: makes requests, and keeps how they
/// ended, in order. The driver's time is stepped; the card's is real.
final class Station: @unchecked Sendable {  // what threads share is guarded by `lock`
    /// How a request ended.
    struct Outcome: Equatable {
        var status: Status
        var cause = FailureCause.none
        var information = 0
        var bytes: [UInt8] = []
        /// Of a mapped read: where in the ring the bytes lie, and how the packet ended.
        var places: [Range<Int>] = []
        var end: PacketEnd?
    }

    /// A request that was submitted.
    struct Request {
        var id: UInt
        var cookie: UInt64
    }

    let clock = Clock.stepped(from: 1_000_000_000_000)
    let device: Device
    let function: any PCIFunction
    private var entry: chw_entry_points
    private let ledger: Ledger
    private let lock = Lock()
    private var nextID: UInt = 1

    init(
        receiverMemory: Int = 8 << 20,
        framing: Framing = .stream,
        card: SimulatedBus.Configuration = SimulatedBus.Configuration(),
        driver: any CardDriver.Type = SpaceWireDriver.self,
        policy change: (inout TransferPolicy) -> Void = { _ in },
        function other: ((Clock) -> any PCIFunction)? = nil
    ) throws {
        var card = card
        card.receiverMemory = receiverMemory
        let bus = SimulatedBus(card)
        function = try other?(clock) ?? bus.open(PCIAddress(bus: 1, device: 0, function: 0))
        var policy = TransferPolicy()
        change(&policy)
        let ledger = Ledger()
        self.ledger = ledger
        device = try Device(
            function: function,
            drivers: [driver],
            clock: clock,
            policy: policy,
            completionContext: Unmanaged.passUnretained(ledger).toOpaque()
        ) { context, request in
            Unmanaged<Ledger>.fromOpaque(context).takeUnretainedValue()
                .ending(request.assumingMemoryBound(to: RequestRecord.self))
        }
        entry = device.entryPoints!
        ledger.owner = (device.arena, device.pool)
        try device.start()
        dma.framing = framing
    }

    deinit {
        device.close()
        lock.destroy()
        clock.destroy()
    }

    var dma: any DMAControl { device.dma! }

    // MARK: Requests

    private func submit(_ record: UnsafeMutablePointer<RequestRecord>, cancelled: Bool = false) -> Request {
        let id = lock.locked {
            nextID += 1
            return nextID
        }
        record.pointee.replyContext = UnsafeMutableRawPointer(bitPattern: id)
        let request = Request(id: id, cookie: record.pointee.cookie())
        if cancelled { #expect(device.pool.pointee.cancel(request.cookie) == .noted) }
        chw_entry_submit(&entry, record)
        return request
    }

    /// Writes as the file layer does: short ones from a system buffer, others from the buffer they were received into.
    /// `cancelled`: the signal comes before the driver has the request.
    @discardableResult
    func write(
        _ bytes: [UInt8],
        _ stream: UnsafeMutablePointer<StreamRecord>? = nil,
        _ flags: RequestFlags = [],
        offset: Int = 0,
        cancelled: Bool = false
    ) -> Request {
        let record = device.pool.pointee.allocate(.write, flags: flags, length: bytes.count)!
        record.pointee.stream = stream
        if bytes.count < device.policy.directThreshold, !flags.contains(.direct), offset == 0,
            let index = device.arena.pointee.takeSystemBuffer()
        {
            record.pointee.flags = flags.union(.buffered)
            record.pointee.storage = .systemBuffer
            record.pointee.bufferIndex = index
            record.pointee.payload = device.arena.pointee.systemBuffer(record.pointee.bufferIndex)
        } else {
            record.pointee.storage = .receiveBuffer
            record.pointee.bufferIndex = patiently { device.arena.pointee.takeReceiveBuffer() }
            record.pointee.payload = device.arena.pointee.payload(record.pointee.bufferIndex) + offset
        }
        bytes.withUnsafeBytes { if let base = $0.baseAddress { memcpy(record.pointee.payload!, base, $0.count) } }
        return submit(record, cancelled: cancelled)
    }

    func read(_ count: Int, _ flags: RequestFlags = [], cancelled: Bool = false) -> Request {
        submit(device.pool.pointee.allocate(.read, flags: flags, length: count)!, cancelled: cancelled)
    }

    /// A mapped read, which first gives back the oldest `release` results.
    func borrow(
        _ stream: UnsafeMutablePointer<StreamRecord>,
        _ count: Int,
        release: UInt64 = .max,
        _ flags: RequestFlags = []
    ) -> Request {
        let record = device.pool.pointee.allocate(.read, flags: flags.union(.mapped), length: count)!
        record.pointee.stream = stream
        record.pointee.sequence = release
        return submit(record)
    }

    /// fsync, or with `.close` what close does.
    func barrier(
        _ stream: UnsafeMutablePointer<StreamRecord>?,
        _ kind: RequestKind = .barrier,
        cancelled: Bool = false
    ) -> Request {
        let record = device.pool.pointee.allocate(kind, flags: [], length: 0)!
        record.pointee.stream = stream
        return submit(record, cancelled: cancelled)
    }

    /// A signal: what the file layer does when it claims a request.
    @discardableResult
    func cancel(_ request: Request) -> RequestPool.CancelOutcome {
        let outcome = device.pool.pointee.cancel(request.cookie)
        guard case .claimed = outcome else { return outcome }
        let record = device.pool.pointee.record(at: request.cookie)
        record.pointee.status = .cancelled
        record.pointee.cause = .interrupted
        chw_entry_withdraw(&entry, record)
        return outcome
    }

    func readiness(_ direction: UInt32) -> UInt32 { chw_entry_readiness(&entry, direction) }

    // MARK: How it ended

    func outcome(_ request: Request) -> Outcome? { ledger.outcome(request.id) }

    /// The requests that have ended, in order.
    func order(of requests: [Request]) -> [Int] {
        ledger.order.compactMap { id in requests.firstIndex { $0.id == id } }
    }

    /// Waits for the end of a request, at most ten seconds.
    func wait(_ request: Request) throws -> Outcome {
        try #require(eventually { outcome(request) != nil })
        return outcome(request)!
    }

    /// Moves the driver's time, after the driver has looked at the card: what that did, it did before.
    func advance(milliseconds: UInt64) {
        _ = device.dma?.counters
        clock.advance(byNanoseconds: milliseconds * 1_000_000)
        device.deferred.pointee.clockMoved()
    }

    /// Reads until `count` bytes have come, each read of at most `size`; time moves while a read waits and the card
    /// has nothing to send.
    func collect(_ count: Int, by size: Int, _ flags: RequestFlags = []) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let request = read(size, flags)
            #expect(
                eventually {
                    if outcome(request) == nil, isAllSent { advance(milliseconds: 1) }
                    return outcome(request) != nil
                }
            )
            let result = try wait(request)
            try #require(result.status == .success && result.information == result.bytes.count)
            try #require((1...size).contains(result.bytes.count))
            bytes += result.bytes
        }
        return bytes
    }

    // MARK: The card and what the driver counts

    func set(_ control: String, _ text: String) throws {
        try function.controls.first { $0.name == control }!.write!(text)
    }

    func get(_ control: String) -> String { function.controls.first { $0.name == control }!.read() }

    func counter(_ name: String) -> Int { Int(dma.counters.first { $0.name == name }!.value) }

    /// Whether the card has nothing left to take.
    var isAllSent: Bool {
        counter("tx_accepted_bytes_total") == counter("tx_sent_bytes_total") + counter("tx_lost_bytes_total")
    }

    /// One look at the counters adds up in both directions, whatever is under way.
    func expectAccounts(_ location: SourceLocation = #_sourceLocation) {
        let numbers = Dictionary(uniqueKeysWithValues: dma.counters.map { ($0.name, $0.value) })
        func of(_ name: String) -> UInt64 { numbers[name + "_bytes_total"] ?? numbers[name + "_bytes"] ?? .max / 8 }
        #expect(
            of("tx_accepted") == of("tx_sent") + of("tx_lost") + of("tx_waiting"),
            "\(numbers)",
            sourceLocation: location
        )
        #expect(
            of("rx_arrived") == of("rx_read") + of("rx_discarded") + of("rx_waiting"),
            "\(numbers)",
            sourceLocation: location
        )
    }

    /// Waits until every byte accepted was sent or lost, and no buffer or record is in use.
    func expectBalance(records: Int = 0, _ location: SourceLocation = #_sourceLocation) {
        expectAccounts(location)
        #expect(eventually { isAllSent }, sourceLocation: location)
        #expect(eventually { device.arena.pointee.freeReceiveBuffers == 48 }, sourceLocation: location)
        #expect(eventually { device.pool.pointee.inUse == records }, sourceLocation: location)
        #expect(device.pool.pointee.droppedCount == 0, sourceLocation: location)
    }

    /// Whether the card has no credit left, as its register says: from then on a wait is one for the receiver.
    var isOutOfCredit: Bool {
        var value: UInt64 = 0
        guard let flow = device.registerMap.registers.first(where: { $0.name == "flow" }),
            device.registers.pointee.read(bar: 0, offset: flow.offset, width: .long, into: &value) == .none
        else { return false }
        return value & 1 != 0
    }

    /// The far end takes nothing more: what is sent stays with the card.
    func fillReceiver() throws {
        try set("fault", "hang-rx")
        write(pattern(8192), nil)
    }
}

/// Bytes whose place can be told from their value.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    // A plain loop: a closure for each byte takes seconds where a sanitizer watches it.
    [UInt8](unsafeUninitializedCapacity: count) { bytes, made in
        guard let byte = bytes.baseAddress else { return }
        var k = 0
        while k < count {
            byte[k] = UInt8(truncatingIfNeeded: (k &+ seed) &* 0x9e37_79b9 >> 13)
            k &+= 1
        }
        made = count
    }
}

/// Waits until there is something, at most ten seconds.
func patiently<Value>(_ body: () -> Value?) -> Value {
    var value = body()
    #expect(
        eventually {
            value = value ?? body()
            return value != nil
        }
    )
    return value!
}

/// Waits until a condition holds, at most a minute: the machine may be busy.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 60_000_000_000
    while !condition() {
        if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
        sched_yield()
    }
    return true
}
