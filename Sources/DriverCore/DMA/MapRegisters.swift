public import PCIBus

/// What one map register maps: a piece of a buffer within one page, at least one byte of it.
public struct MapRegister: Equatable, Sendable {
    /// Where the card finds the piece.
    public var logicalAddress: LogicalAddress
    /// Bytes of the piece, 1…``PCIBus/Page/size``.
    public var byteCount: Int
}

/// Registers that follow each other, handed out for one transfer (MapRegisterBase).
public struct MapRegisterBase: Equatable, Sendable {
    /// The first register.
    public let first: Int
    /// How many.
    public let count: Int
    let serial: UInt64
}

/// The map registers of an adapter: pages the card can reach, through which memory it cannot reach is copied.
///
/// Registers are handed out in runs, first come first served: a small request does not overtake a large one that waits for
/// registers to become free. Any thread; callbacks run with no lock held.
public final class MapRegisterFile: @unchecked Sendable {  // guarded by `lock`
    private struct Waiter {
        var count: Int
        var grant: @Sendable (MapRegisterBase) -> Void
    }

    /// Registers there are.
    public let count: Int
    private let buffer: CommonBuffer
    private let lock = Lock()
    private var isTaken: [Bool]
    private var waiting: [Waiter] = []
    private var held: [UInt64: MapRegisterBase] = [:]
    private var serial: UInt64 = 0
    private var isServing = false

    /// Makes one register of each page of a common buffer.
    public init(buffer: CommonBuffer) {
        self.buffer = buffer
        count = buffer.memory.byteCount / Page.size
        isTaken = [Bool](repeating: false, count: count)
    }

    deinit { lock.destroy() }

    /// Hands `count` registers to `grant`: before this returns if they are free and nobody waits, else when they become free,
    /// on the thread that frees them. A call from within a callback waits until that returns.
    ///
    /// ``Status/insufficientResources`` for more registers than there are, ``Status/invalidParameter`` for none; `grant` is
    /// not called then.
    public func allocate(_ count: Int, _ grant: @escaping @Sendable (MapRegisterBase) -> Void) -> Status {
        guard count > 0 else { return .invalidParameter }
        guard count <= self.count else { return .insufficientResources }
        lock.locked { waiting.append(Waiter(count: count, grant: grant)) }
        serve()
        return .success
    }

    /// Takes registers back and serves who waits (FreeMapRegisters). Throws ``Status/invalidParameter`` for registers that
    /// are not out.
    public func free(_ base: MapRegisterBase) throws(StatusError) {
        try lock.locked { () throws(StatusError) in
            guard held[base.serial] == base else {
                throw StatusError(
                    .invalidParameter,
                    "map registers \(base.first)… are not out, or were freed already",
                    misuse: .registersFreedTwice
                )
            }
            held[base.serial] = nil
            for index in base.first..<base.first + base.count { isTaken[index] = false }
        }
        serve()
    }

    /// Where a run of registers lies for this process.
    func memory(_ base: MapRegisterBase) -> UnsafeMutableRawPointer { buffer.base + base.first * Page.size }

    /// Where a run of registers lies for the card.
    func logical(_ base: MapRegisterBase) -> LogicalAddress { buffer.logical(memory(base)) }

    /// Whether a run of registers is out.
    func isHeld(_ base: MapRegisterBase) -> Bool { lock.locked { held[base.serial] == base } }

    /// Registers nobody has.
    public var freeCount: Int { lock.locked { isTaken.count { !$0 } } }

    /// Requests that wait for registers.
    public var waitingCount: Int { lock.locked { waiting.count } }

    /// Runs of registers that are out.
    public var heldCount: Int { lock.locked { held.count } }

    /// Serves the oldest requests as far as registers are free. One thread at a time does so, in a loop, so that the order is
    /// kept and a callback that frees its registers at once leads to no deeper call.
    private func serve() {
        lock.lock()
        guard !isServing else {
            lock.unlock()
            return
        }
        isServing = true
        while let waiter = waiting.first, let base = take(waiter.count) {
            waiting.removeFirst()
            lock.unlock()
            waiter.grant(base)
            lock.lock()
        }
        isServing = false
        lock.unlock()
    }

    private func take(_ count: Int) -> MapRegisterBase? {
        var first = 0
        var run = 0
        for index in isTaken.indices {
            if isTaken[index] {
                run = 0
                first = index + 1
                continue
            }
            run += 1
            guard run == count else { continue }
            for taken in first...index { isTaken[taken] = true }
            serial += 1
            let base = MapRegisterBase(first: first, count: count, serial: serial)
            held[serial] = base
            return base
        }
        return nil
    }
}
