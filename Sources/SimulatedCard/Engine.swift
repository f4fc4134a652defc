import CHardware
import PCIBus
import Synchronization

/// How long an engine looks for work before it sleeps, in nanoseconds: longer than a driver takes from an interrupt to the
/// next doorbell, or a writer of megabytes from one to the next, so that a doorbell need not wake a thread; short enough not
/// to be seen as load.
let engineSpin: UInt64 = 100_000

/// Bytes of a page, as a constant the engines' loops may use.
var pageBytes: Int { @_noLocks get { 4096 } }

/// The most an engine moves between two looks at its registers, in bytes.
var transferLimit: Int { @_noLocks get { 0x10000 } }

/// Word 0 of a descriptor.
enum Descriptor {
    static var length: UInt32 { @_noLocks get { 0xffff } }
    static var enabled: UInt32 { @_noLocks get { 0x10000 } }
    static var wrap: UInt32 { @_noLocks get { 0x20000 } }
    static var interrupt: UInt32 { @_noLocks get { 0x40000 } }
    static var done: UInt32 { @_noLocks get { 0x80000 } }
    static var eop: UInt32 { @_noLocks get { 0x100000 } }
    static var eep: UInt32 { @_noLocks get { 0x200000 } }
    /// The logarithm the control register shows: 1024 descriptors of 8 bytes.
    static var tableSizeLog2: UInt32 { @_noLocks get { 10 } }
    /// The bits of a descriptor pointer that count.
    static var indexMask: UInt32 { @_noLocks get { 0x1ff8 } }
}

/// What an engine does next.
enum Step: Equatable {
    /// Looks again at once.
    case again
    /// Moves the transfer that was planned.
    case move
    /// Sleeps until it is signalled.
    case wait
    /// Sleeps until it is signalled or the clock shows this time.
    case waitUntil(UInt64)
    /// The card is closed.
    case end
}

/// A piece of a descriptor's memory on its way, while no lock is held.
struct Transfer {
    var logical: UInt32 = 0
    var byteCount = 0
    /// What had been moved when it ended.
    var moved = 0
    /// The logical address that could not be translated, when `faulted`.
    var faulted = false
    /// Values at the start: if they have changed at the end, the piece counts as never moved.
    var generation: UInt64 = 0
    var wireGeneration: UInt64 = 0
    var receivedGeneration: UInt64 = 0
    /// The value at the start: once it changes, the piece ends at the next page.
    var attention: UInt64 = 0
    var mode = Wire.Mode.loopback
    /// Where in the far end's memory.
    var ring: UnsafeMutableRawPointer?
    /// Where in the stream of the source.
    var position: UInt64 = 0
    var crc: UInt32 = 0
}

/// The words through which other threads reach an engine's thread.
struct EngineWords: ~Copyable {
    /// Rises whenever there may be work. An engine that saw no work sleeps only if this has not changed since.
    let signal = Atomic<UInt64>(0)
    /// Rises when a transfer must not go on beyond the page it is at.
    let attention = Atomic<UInt64>(0)
    /// Odd while the engine touches memory. Whoever takes memory or translations away waits until it has changed.
    let epoch = Atomic<UInt64>(0)
    let isAsleep = Atomic<Bool>(false)
}

/// A DMA engine and the descriptor it holds. Under the lock of the card.
struct Engine {
    var isRunning = false
    var pointer: UInt32 = 0
    var holdsDescriptor = false
    var flags: UInt32 = 0
    var logical: UInt32 = 0
    /// Transmitter: bytes left. Receiver: capacity.
    var byteCount = 0
    /// Receiver: bytes stored.
    var position = 0
    /// Rises when the descriptor is forgotten.
    var generation: UInt64 = 0
    /// A packet was begun and has not ended.
    var isInPacket = false
    /// Transmitter: where the bytes of that packet go on, for a card that does not gather.
    var runEnd: UInt32 = 0
    /// Transmitter: the rest of the packet is consumed and dropped, since the link was lost in its middle.
    var isDiscarding = false
    /// Receiver: the packet that was cut off by the link ends in EEP.
    var endsInError = false
    /// A piece is being moved, of which nothing is accounted for yet.
    var isMoving = false
    /// Bytes of descriptors and pieces that are done with: taken and sent or dropped, or stored, since the core was reset.
    var byteTotal: UInt32 = 0
    /// Sleeps for room or data on the wire: the other side wakes it.
    var awaitsWire = false
    /// When the rate allows the next piece.
    var nextTransfer: UInt64 = 0
}

/// An engine at its fixed place.
struct EnginePointer {
    let isTransmitter: Bool
    /// Under the lock of the card.
    let state: UnsafeMutablePointer<Engine>
    let words: UnsafeMutablePointer<EngineWords>
    /// Its channel of the slave controller. Under the lock of the card.
    let slave: UnsafeMutablePointer<SlaveState>
    /// Where the thread sleeps.
    let parking = Lock()

    init(isTransmitter: Bool) {
        self.isTransmitter = isTransmitter
        state = .allocate(capacity: 1)
        state.initialize(to: Engine())
        words = .allocate(capacity: 1)
        words.initialize(to: EngineWords())
        slave = .allocate(capacity: 1)
        slave.initialize(to: SlaveState())
    }

    func destroy() {
        state.deallocate()
        words.deinitialize(count: 1)
        words.deallocate()
        slave.pointee.entries.deallocate()
        slave.deallocate()
        parking.destroy()
    }
}

extension Card {
    /// Tells an engine that there may be work.
    @_noLocks func wake(_ engine: EnginePointer) {
        engine.words.pointee.signal.wrappingAdd(1, ordering: .sequentiallyConsistent)
        if engine.words.pointee.isAsleep.load(ordering: .sequentiallyConsistent) {
            engine.parking.lock()
            engine.parking.broadcast()
            engine.parking.unlock()
        }
    }

    /// Ends what an engine moves at the next page and lets it look at its registers.
    @_noLocks func interrupt(_ engine: EnginePointer) {
        engine.words.pointee.attention.wrappingAdd(1, ordering: .sequentiallyConsistent)
        wake(engine)
    }

    /// Makes an engine forget the descriptor it holds; a piece under way will count as never moved.
    @_noLocks func forget(_ engine: EnginePointer) {
        engine.state.pointee.isRunning = false
        engine.state.pointee.holdsDescriptor = false
        engine.state.pointee.awaitsWire = false
        engine.state.pointee.generation &+= 1
        engine.slave.pointee.forget()
        interrupt(engine)
    }

    /// Returns when no access to memory that began before is under way. The lock of the card must not be held; the wait is as
    /// long as the copy of one page.
    @_noLocks func settle(_ engine: EnginePointer) {
        let seen = engine.words.pointee.epoch.load(ordering: .sequentiallyConsistent)
        guard seen & 1 != 0 else { return }
        while engine.words.pointee.epoch.load(ordering: .sequentiallyConsistent) == seen { chw_pause() }
    }

    /// As ``settle(_:)``, for both engines.
    @_noLocks func settle() {
        settle(tx)
        settle(rx)
    }

    /// Begins touching memory: translations looked up from here on stay valid until ``unpin(_:)``.
    @inline(__always) @_noLocks func pin(_ engine: EnginePointer) {
        engine.words.pointee.epoch.wrappingAdd(1, ordering: .sequentiallyConsistent)
    }

    /// Ends touching memory.
    @inline(__always) @_noLocks func unpin(_ engine: EnginePointer) {
        engine.words.pointee.epoch.wrappingAdd(1, ordering: .releasing)
    }

    /// The life of an engine's thread.
    func run(_ engine: EnginePointer) {
        while true {
            let seen = engine.words.pointee.signal.load(ordering: .sequentiallyConsistent)
            switch step(engine) {
            case .again, .move: continue
            case .wait: park(engine, since: seen, until: .max)
            case .waitUntil(let time): park(engine, since: seen, until: time)
            case .end: return
            }
        }
    }

    /// Plans a piece, moves it and accounts for it.
    @_noLocks func step(_ engine: EnginePointer) -> Step {
        var transfer = Transfer()
        lock.lock()
        let next = engine.isTransmitter ? planTransmit(&transfer) : planReceive(&transfer)
        unlockAndDeliver()
        guard next == .move else { return next }
        if engine.isTransmitter {
            moveTransmit(&transfer)
        } else {
            moveReceive(&transfer)
        }
        lock.lock()
        engine.state.pointee.isMoving = false
        if !engine.isTransmitter {
            state.pointee.wire.endReading()
            if tx.state.pointee.awaitsWire { wake(tx) }
        }
        if engine.state.pointee.generation == transfer.generation,
            state.pointee.wire.generation == transfer.wireGeneration
        {
            if engine.isTransmitter { commitTransmit(transfer) } else { commitReceive(transfer) }
        }
        unlockAndDeliver()
        return .again
    }

    /// Spins a little, then sleeps until the engine is signalled or the clock shows `time`.
    private func park(_ engine: EnginePointer, since seen: UInt64, until time: UInt64) {
        let clock = clock
        let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) &+ engineSpin
        while chw_clock_nanoseconds(CLOCK_MONOTONIC) < end {
            for _ in 0..<16 {
                if engine.words.pointee.signal.load(ordering: .acquiring) != seen { return }
                chw_pause()
            }
            // Whoever else wants the processor has work to do.
            sched_yield()
            if time != .max, clock.now() >= time { return }
        }
        let parking = engine.parking
        parking.lock()
        engine.words.pointee.isAsleep.store(true, ordering: .sequentiallyConsistent)
        while engine.words.pointee.signal.load(ordering: .sequentiallyConsistent) == seen {
            if time == .max {
                parking.wait()
            } else if clock.now() >= time {
                break
            } else if clock.isStepped {
                // Nobody tells the card that its clock was moved, so it looks every millisecond.
                _ = parking.wait(until: chw_clock_nanoseconds(CLOCK_MONOTONIC) &+ 1_000_000)
            } else {
                _ = parking.wait(until: time)
            }
        }
        engine.words.pointee.isAsleep.store(false, ordering: .relaxed)
        parking.unlock()
    }
}

// MARK: Descriptors

extension Card {
    /// What fetching a descriptor found.
    enum Fetch { case enabled, disabled, fault, idle }

    /// Reads the descriptor at the engine's pointer. The lock is held.
    @_noLocks func fetch(_ engine: EnginePointer) -> Fetch {
        if engine.slave.pointee.isOn { return fetchFromSlave(engine) ? .enabled : .idle }
        let at = engine.state.pointee.pointer
        pin(engine)
        guard let memory = iommu.translate(at, .read) else {
            unpin(engine)
            busError(at, .read)
            return .fault
        }
        let words = memory.assumingMemoryBound(to: Atomic<UInt32>.self)
        // Acquires what the driver wrote before it set EN: the address in word 1, and the data.
        let flags = words[0].load(ordering: .acquiring)
        let address = words[1].load(ordering: .relaxed)
        unpin(engine)
        guard flags & Descriptor.enabled != 0 else { return .disabled }
        engine.state.pointee.holdsDescriptor = true
        engine.state.pointee.flags = flags
        engine.state.pointee.logical = address & ~3
        engine.state.pointee.position = 0
        let length = Int(flags & Descriptor.length)
        if engine.isTransmitter {
            engine.state.pointee.byteCount = length
            if !isGathering, engine.state.pointee.isInPacket, length > 0,
                engine.state.pointee.runEnd != engine.state.pointee.logical
            {
                busError(engine.state.pointee.logical, .read)
                return .fault
            }
        } else {
            // The core counts words down before it compares with 0, so that 0 words are 16384.
            let words = length >> 2
            engine.state.pointee.byteCount = (words == 0 ? 1 << 14 : words) << 2
        }
        return .enabled
    }

    /// Writes a finished descriptor back and goes to the next one; false after a bus error. The lock is held.
    @_noLocks func finish(_ engine: EnginePointer, _ result: UInt32) -> Bool {
        if engine.slave.pointee.isOn {
            engine.state.pointee.holdsDescriptor = false
            return true
        }
        let at = engine.state.pointee.pointer
        let index = engine.state.pointee.flags & Descriptor.wrap != 0 ? 0 : (at &+ 8) & Descriptor.indexMask
        engine.state.pointee.pointer = at & ~Descriptor.indexMask | index
        engine.state.pointee.holdsDescriptor = false
        pin(engine)
        guard let memory = iommu.translate(at, .write) else {
            unpin(engine)
            busError(at, .write)
            return false
        }
        let kept = engine.state.pointee.flags & (Descriptor.wrap | Descriptor.interrupt)
        // Releases the data: who sees DONE sees every byte.
        memory.assumingMemoryBound(to: Atomic<UInt32>.self)[0]
            .store(kept | Descriptor.done | result, ordering: .releasing)
        unpin(engine)
        return true
    }

    /// An access of the card's bus master was refused: both engines stop until they are reset. The lock is held.
    @_noLocks func busError(_ logical: UInt32, _ direction: IOMMU.Direction) {
        iommu.record(logical, direction)
        state.pointee.core.busError = true
        tx.state.pointee.isRunning = false
        rx.state.pointee.isRunning = false
        interrupt(tx)
        interrupt(rx)
        evaluateInterrupts()
    }
}
