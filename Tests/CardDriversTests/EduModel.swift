import CHardware
import Glibc
import PCIBus
import Testing

/// QEMU's edu as its source and a run of it say it is (hw/misc/edu.c), with an IOMMU in front, its time in the test's hand.
///
/// It is as dangerous as the original: what a transfer does beyond the buffer depends on the version, and is written down.
final class EduModel: PCIFunction, @unchecked Sendable {  // guarded by `lock`
    /// What becomes of a transfer that does not lie inside the buffer.
    enum Version: CaseIterable {
        /// Up to 7.2: a transfer that touches the last byte, or lies outside, ends the emulator.
        case old
        /// The last byte may be touched.
        case later
        /// It is logged, and carried out.
        case newest
    }

    /// What an access finds.
    enum Presence { case there, allOnes, zero }

    static let bufferAddress: UInt64 = 0x40000
    static let bufferByteCount: UInt64 = 4096
    private static let addressMask: UInt64 = (1 << 28) - 1
    private static let transferTime: UInt64 = 100_000_000

    let address = PCIAddress(bus: 1, device: 0, function: 0)
    let busName = "model"
    let configurationSize = 256
    let controls: [BusControl] = []
    let version: Version
    var interruptVectors: [InterruptKind: Int] = [.msi: 1, .intx: 1]
    var logicalAddressRanges = [
        LogicalAddress(0)...LogicalAddress(0xfedf_ffff), LogicalAddress(0xfef0_0000)...LogicalAddress(0x7f_ffff_ffff),
    ]
    var baseAddressRegisters = [
        BaseAddressRegister(
            index: 0,
            kind: .memory32,
            isPrefetchable: false,
            address: PhysicalAddress(0xfe00_0000),
            byteCount: 1 << 20
        )
    ]

    private let lock = Lock()
    private let clock: Clock
    private var configuration = [UInt8](repeating: 0, count: 256)
    private var now = Registers()
    /// The device's own memory: the buffer, with what lies behind it.
    private var buffer = [UInt8](repeating: 0xee, count: 3 * 4096)
    private var transferEnd = UInt64.max
    private var mappings: [UInt64: (base: UnsafeMutableRawPointer, byteCount: Int)] = [:]
    private var allocated: [UnsafeMutableRawPointer] = []
    private var sink: (kind: InterruptKind, sink: InterruptSink)?
    private var notes = Notes()
    private var faults = Faults()

    private struct Registers {
        var liveness: UInt32 = 0
        var factorial: UInt32 = 0
        var status: UInt32 = 0
        var causes: UInt32 = 0
        var source: UInt64 = 0
        var destination: UInt64 = 0
        var count: UInt64 = 0
        var command: UInt64 = 0
    }

    /// What a test wants to know.
    struct Notes: Equatable {
        /// Transfers begun.
        var transfers = 0
        /// Transfers that would have ended the emulator or left the buffer.
        var violations: [String] = []
        /// Host addresses that did not fit the card.
        var clamped = 0
        /// Addresses the IOMMU did not translate.
        var untranslated = 0
        /// Interrupts delivered.
        var interrupts = 0
        /// A level that came again and again.
        var isStorming = false
    }

    /// What a test breaks.
    struct Faults {
        var presence = Presence.there
        /// The IOMMU translates nothing.
        var translatesNothing = false
        /// Interrupts are lost.
        var losesInterrupts = false
        /// Transfers do not end.
        var hangs = false
        /// Called when causes are read, before anything is acknowledged.
        var onCausesRead: (() -> Void)?
    }

    init(_ version: Version = .old, clock: Clock) {
        self.version = version
        self.clock = clock
        put(0x1234, 0)
        put(0x11e8, 2)
        configuration[8] = 0x10
        configuration[0x0a] = 0xff
        put(0xfe00, 0x12)
        configuration[0x34] = 0x40
        configuration[0x3d] = 1
        put(0x0005, 0x40)
        put(0x0080, 0x42)
    }

    deinit {
        for memory in allocated { memory.deallocate() }
        lock.destroy()
    }

    private func put(_ value: UInt16, _ offset: Int) {
        configuration[offset] = UInt8(truncatingIfNeeded: value)
        configuration[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
    }

    /// What has happened so far.
    var seen: Notes { lock.locked { notes } }

    /// Breaks or mends something.
    func set(_ change: (inout Faults) -> Void) { lock.locked { change(&faults) } }

    /// Whether a transfer runs.
    var isMoving: Bool { lock.locked { now.command & 1 != 0 } }

    /// The bytes of the buffer from its beginning.
    func contents(_ count: Int) -> [UInt8] { lock.locked { Array(buffer[..<count]) } }

    /// What lies behind the buffer is as it was.
    var isBeyondIntact: Bool { lock.locked { buffer[4096...].allSatisfy { $0 == 0xee } } }

    /// The driver of a machine that goes down leaves the card as it is.
    var command: UInt16 { lock.locked { UInt16(configuration[4]) | UInt16(configuration[5]) << 8 } }

    // MARK: Time

    /// What the device does by itself when its clock has moved.
    func tick() {
        let causes: UInt32 = lock.locked {
            var causes: UInt32 = 0
            if now.status & 1 != 0 {
                var product: UInt32 = 1
                var factor = now.factorial
                while factor > 0, product != 0 {
                    product = product &* factor
                    factor -= 1
                }
                now.factorial = product
                now.status &= ~1
                if now.status & 0x80 != 0 { causes |= 1 }
            }
            if now.command & 1 != 0, clock.now() >= transferEnd, !faults.hangs {
                transfer()
                if now.command & 4 != 0 { causes |= 0x100 }
                now.command &= ~1
            }
            return causes
        }
        if causes != 0 { raise(causes) }
    }

    private func transfer() {
        let isFromCard = now.command & 2 != 0
        let place = isFromCard ? now.source : now.destination
        let (end, isBeyond) = place.addingReportingOverflow(now.count)
        let limit = Self.bufferAddress + Self.bufferByteCount
        let isInside = !isBeyond && now.count > 0 && place >= Self.bufferAddress && end <= limit
        if !isInside || version == .old && end == limit {
            notes.violations.append("\(now.count) bytes at 0x\(hexadecimal(place, digits: 1))")
            // Both of the others end the emulator, and with it everything.
            guard version == .newest else { return }
        }
        let host = isFromCard ? now.destination : now.source
        if host & ~Self.addressMask != 0 { notes.clamped += 1 }
        guard configuration[4] & 4 != 0 else { return }
        for index in 0..<Int(now.count) {
            let offset = Int(place &- Self.bufferAddress) + index
            guard offset >= 0, offset < buffer.count else { continue }
            guard let byte = translate((host + UInt64(index)) & Self.addressMask) else {
                notes.untranslated += 1
                continue
            }
            if isFromCard { byte.pointee = buffer[offset] } else { buffer[offset] = byte.pointee }
        }
    }

    private func translate(_ logical: UInt64) -> UnsafeMutablePointer<UInt8>? {
        if faults.translatesNothing { return nil }
        for (start, mapping) in mappings where logical >= start && logical - start < UInt64(mapping.byteCount) {
            return (mapping.base + Int(logical - start)).assumingMemoryBound(to: UInt8.self)
        }
        return nil
    }

    // MARK: Interrupts

    private func raise(_ causes: UInt32) {
        let isMessage = lock.locked {
            now.causes |= causes
            return sink?.kind == .msi
        }
        if isMessage { deliver() } else { deliverLevel() }
    }

    private func deliver() {
        let sink: InterruptSink? = lock.locked {
            // A message is a write of the card's.
            guard !faults.losesInterrupts, configuration[4] & 4 != 0 else { return nil }
            notes.interrupts += 1
            return self.sink?.sink
        }
        if let sink { _ = chw_serve(sink.routine, sink.context, 0) }
    }

    /// A level is told of until it is low, or switched off.
    private func deliverLevel() {
        for round in 0... {
            let sink: InterruptSink? = lock.locked {
                guard isAsserted, !faults.losesInterrupts, self.sink?.kind == .intx else { return nil }
                if round == 100 { notes.isStorming = true }
                guard round < 100 else { return nil }
                notes.interrupts += 1
                return self.sink?.sink
            }
            guard let sink else { return }
            _ = chw_serve(sink.routine, sink.context, 0)
        }
    }

    /// Another card on the line of INTx interrupts.
    func interruptLikeANeighbour() {
        guard let sink = lock.locked({ self.sink?.sink }) else { return }
        #expect(!chw_serve(sink.routine, sink.context, 0))
    }

    private var isAsserted: Bool { now.causes != 0 && configuration[5] & 4 == 0 }

    func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        guard interruptVectors[kind] == count else { throw BusError(EINVAL, "no \(count) vectors of \(kind.rawValue)") }
        lock.locked { self.sink = (kind, sink) }
    }

    func disconnectInterrupts() { lock.locked { sink = nil } }

    // MARK: Registers

    func map(bar index: Int) throws(BusError) -> RegisterWindow {
        var raw = chw_window()
        raw.byte_count = 1 << 20
        raw.context = Unmanaged.passUnretained(self).toOpaque()
        raw.load = { context, offset, width in
            Unmanaged<EduModel>.fromOpaque(context!).takeUnretainedValue().load(offset, width)
        }
        raw.store = { context, offset, width, value in
            Unmanaged<EduModel>.fromOpaque(context!).takeUnretainedValue().store(offset, width, value)
        }
        return RegisterWindow(raw)
    }

    func unmap(bar index: Int) {}

    func load(_ offset: UInt64, _ width: UInt32) -> UInt64 {
        let allOnes = AccessWidth(rawValue: width)!.allOnes
        let hook: (() -> Void)? = lock.locked {
            offset == 0x24 && faults.presence == .there ? faults.onCausesRead : nil
        }
        let value: UInt64 = lock.locked {
            switch faults.presence {
            case .there: break
            case .allOnes: return allOnes
            case .zero: return 0
            }
            guard configuration[4] & 2 != 0 else { return allOnes }
            // The bus of QEMU answers what the device does not take.
            if width < 4 { return 0 }
            if offset < 0x80 && width != 4 { return allOnes }
            switch offset {
            case 0x00: return 0x0100_00ed
            case 0x04: return UInt64(now.liveness)
            case 0x08: return UInt64(now.factorial)
            case 0x20: return UInt64(now.status)
            case 0x24: return UInt64(now.causes)
            case 0x80: return now.source & allOnes
            case 0x88: return now.destination & allOnes
            case 0x90: return now.count & allOnes
            case 0x98: return now.command & allOnes
            default: return allOnes
            }
        }
        hook?()
        return value
    }

    func store(_ offset: UInt64, _ width: UInt32, _ value: UInt64) {
        let causes: UInt32 = lock.locked {
            guard faults.presence == .there, configuration[4] & 2 != 0 else { return 0 }
            guard width == 4 || offset >= 0x80 && width == 8 else { return 0 }
            let word = UInt32(truncatingIfNeeded: value)
            let isRunning = now.command & 1 != 0
            switch offset {
            case 0x04: now.liveness = ~word
            case 0x08:
                guard now.status & 1 == 0 else { break }
                now.factorial = word
                now.status |= 1
            case 0x20: now.status = now.status & 1 | word & 0x80
            case 0x60: return word
            case 0x64: now.causes &= ~word
            case 0x80 where !isRunning: now.source = value
            case 0x88 where !isRunning: now.destination = value
            case 0x90 where !isRunning: now.count = value
            case 0x98 where !isRunning && value & 1 != 0:
                now.command = value
                notes.transfers += 1
                transferEnd = clock.now() + Self.transferTime
            default: break
            }
            return 0
        }
        if causes != 0 { raise(causes) }
    }

    // MARK: Configuration

    func readConfiguration(_ offset: Int, _ width: AccessWidth) throws(BusError) -> UInt32 {
        lock.locked {
            switch faults.presence {
            case .there: break
            case .allOnes: return UInt32(truncatingIfNeeded: width.allOnes)
            case .zero: return 0
            }
            var value: UInt32 = 0
            for index in 0..<width.byteCount {
                var byte = configuration[offset + index]
                if offset + index == 0x06 { byte = 0x10 | (now.causes != 0 ? 0x08 : 0) }
                value |= UInt32(byte) << UInt32(8 * index)
            }
            return value
        }
    }

    func writeConfiguration(_ value: UInt32, _ offset: Int, _ width: AccessWidth) throws(BusError) {
        lock.locked {
            guard faults.presence == .there else { return }
            for index in 0..<width.byteCount {
                let byte = UInt8(truncatingIfNeeded: value >> UInt32(8 * index))
                switch offset + index {
                case 0x04: configuration[4] = byte & 0x07
                case 0x05: configuration[5] = byte & 0x05
                case 0x3c: configuration[0x3c] = byte
                default: break
                }
            }
        }
        // A level that was held back.
        deliverLevel()
    }

    func resetFunction() throws(BusError) {
        guard lock.locked({ faults.presence == .there }) else { throw BusError(ENODEV, "nobody answers at \(address)") }
        lock.locked { configuration[4] &= ~4 }
    }

    // MARK: Memory

    func allocateMemory(byteCount: Int) throws(BusError) -> DMAMemory {
        let size = Page.roundedUp(byteCount)
        let base = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: Page.size)
        memset(base, 0, size)
        lock.locked { allocated.append(base) }
        return DMAMemory(base: base, byteCount: size, frames: nil)
    }

    func freeMemory(_ memory: DMAMemory) {
        lock.locked {
            precondition(!mappings.values.contains { $0.base == memory.base })
            allocated.removeAll { $0 == memory.base }
        }
        memory.base.deallocate()
    }

    func mapDMA(_ base: UnsafeMutableRawPointer, byteCount: Int, at logical: LogicalAddress, access: DMAAccess)
        throws(BusError)
    {
        lock.locked { mappings[logical.value] = (base, byteCount) }
    }

    func unmapDMA(at logical: LogicalAddress, byteCount: Int) throws(BusError) {
        let found = lock.locked { mappings.removeValue(forKey: logical.value) }
        guard found?.byteCount == byteCount else { throw BusError(EINVAL, "nothing is mapped at \(logical)") }
    }

    func close() {}
}
