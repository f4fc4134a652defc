import CHardware
import PCIBus
import Synchronization

/// The MSI-X table and the pending bits (PCI Local Bus Specification 3.0, 6.8.2). Under the lock of the card.
struct MSIXTable {
    static var vectorCount: Int { @_noLocks get { 4 } }
    static var pendingOffset: UInt64 { @_noLocks get { 0x800 } }
    /// Four words a vector: address, upper address, data, control.
    var words = InlineArray<16, UInt32>(repeating: 0)
    /// A bit for each vector whose message waits.
    var pending: UInt32 = 0

    init() {
        for vector in 0..<Self.vectorCount { words[vector * 4 + 3] = 1 }
    }

    @_noLocks func load(_ offset: UInt64) -> UInt32 {
        if offset < 64 { return words[Int(offset >> 2)] }
        return offset == Self.pendingOffset ? pending : 0
    }

    @_noLocks mutating func store(_ value: UInt32, _ offset: UInt64) {
        guard offset < 64 else { return }
        switch offset & 12 {
        case 0: words[Int(offset >> 2)] = value & ~3
        case 12: words[Int(offset >> 2)] = value & 1
        default: words[Int(offset >> 2)] = value
        }
    }

    @_noLocks func isMasked(_ vector: Int) -> Bool { words[vector &* 4 &+ 3] & 1 != 0 }
}

/// From levels to messages. Under the lock of the card, except the gate.
struct InterruptController {
    /// Where the platform's interrupt controller takes messages, and the data of vector 0.
    static var messageAddress: UInt32 { @_noLocks get { 0xfee0_0000 } }
    static var messageData: UInt32 { @_noLocks get { 0x40 } }
    /// The levels of the four vectors when they were last looked at.
    var levels: UInt32 = 0
    /// The pending bit of vector 2 stands for a change of the link, which has no level that could fall.
    var holdsLinkChange = false
    /// Vectors whose message has left the card and whose routine is called once the lock is given back.
    var toDeliver: UInt32 = 0
    /// Vectors that are connected; 0 when none.
    var connectedCount = 0
    /// How they interrupt.
    var kind = InterruptKind.msix
    /// What has happened and has no level of its own: bit 0 a change of the link, bit 1 a bus error. They pull the line until
    /// the status register is read.
    var events: UInt32 = 0
    /// Another function pulls the line that this card shares.
    var isNeighbourPulling = false
    /// Calls of the routine that found nothing to do, and calls for which nobody on the line had anything to do.
    var declined: UInt64 = 0
    var unclaimed: UInt64 = 0

    static var linkEvent: UInt32 { @_noLocks get { 1 } }
    static var busErrorEvent: UInt32 { @_noLocks get { 2 } }

    mutating func forgetLevels() {
        levels = 0
        holdsLinkChange = false
        toDeliver = 0
        events = 0
    }
}

/// What threads that deliver and the thread that disconnects agree on.
struct InterruptGate {
    /// Of each vector: 0 nobody is in the routine, 1 somebody is, 2 somebody is and must call it once more.
    let states: UnsafeMutablePointer<Atomic<UInt32>>
    let isConnected: UnsafeMutablePointer<Atomic<Bool>>
    /// Written while disconnected and with all states 0; read after `isConnected` was seen.
    let sink: UnsafeMutablePointer<InterruptSink?>
    /// The sink is called as long as the line is pulled; written as `sink` is.
    let isLine: UnsafeMutablePointer<Bool>

    init() {
        states = .allocate(capacity: MSIXTable.vectorCount)
        for vector in 0..<MSIXTable.vectorCount { (states + vector).initialize(to: Atomic(0)) }
        isConnected = .allocate(capacity: 1)
        isConnected.initialize(to: Atomic(false))
        sink = .allocate(capacity: 1)
        sink.initialize(to: nil)
        isLine = .allocate(capacity: 1)
        isLine.initialize(to: false)
    }

    func destroy() {
        states.deinitialize(count: MSIXTable.vectorCount)
        states.deallocate()
        isConnected.deinitialize(count: 1)
        isConnected.deallocate()
        sink.deallocate()
        isLine.deallocate()
    }
}

extension Card {
    /// Looks at the levels and sends a message for each that has risen, or lets the pin follow them. The lock is held.
    @_noLocks func evaluateInterrupts() {
        guard isPresent else {
            state.pointee.interrupts.levels = 0
            return
        }
        let core = state.pointee.core
        let on = core.sticky & core.enabledStatus
        var levels: UInt32 = 0
        if on & Status.transmitDescriptor != 0 { levels |= 1 }
        if on & (Status.receiveDescriptor | Status.receivePacket) != 0 { levels |= 2 }
        if on & Status.timeCode != 0 { levels |= 4 }
        if core.busError { levels |= 8 }
        let old = state.pointee.interrupts.levels
        state.pointee.interrupts.levels = levels
        guard usesMessages else {
            if levels & ~old & 8 != 0 { state.pointee.interrupts.events |= InterruptController.busErrorEvent }
            return pullLine()
        }
        guard levels != old else { return }
        // A reason that has gone before its message could leave takes the message with it.
        var fallen = old & ~levels
        if state.pointee.interrupts.holdsLinkChange { fallen &= ~4 }
        state.pointee.msix.pending &= ~fallen
        let risen = levels & ~old
        for vector in 0..<MSIXTable.vectorCount where risen & 1 << UInt32(vector) != 0 { request(vector) }
    }

    /// MSI-X or MSI is enabled: the pin is out of use.
    private var usesMessages: Bool {
        @_noLocks get {
            state.pointee.configuration.isMSIXEnabled || state.pointee.configuration.isMSIEnabled
        }
    }

    // MARK: The pin

    /// Whether this card has a reason to pull the line. The lock is held.
    private var hasLineReason: Bool {
        @_noLocks get { state.pointee.interrupts.levels & 7 != 0 || state.pointee.interrupts.events != 0 }
    }

    /// Whether anybody pulls the line. The lock is held.
    private var isLinePulled: Bool {
        @_noLocks get {
            state.pointee.interrupts.isNeighbourPulling
                || isPresent && hasLineReason && state.pointee.configuration.isLineEnabled && !usesMessages
        }
    }

    /// Lets the pin follow its reasons, and calls the routine while the line is pulled. The lock is held.
    @_noLocks func pullLine() {
        state.pointee.configuration.setInterruptStatus(hasLineReason)
        if gate.isLine.pointee, isLinePulled { state.pointee.interrupts.toDeliver |= 1 }
    }

    /// The status register was read: the card knows that the driver knows. The lock is held.
    @_noLocks func acknowledgeEvents() {
        guard state.pointee.interrupts.events != 0 else { return }
        state.pointee.interrupts.events = 0
        state.pointee.configuration.setInterruptStatus(hasLineReason)
    }

    /// Calls the routine as long as the line is pulled and somebody on it claims the interrupt. Nobody holds the lock.
    @_noLocks private func serveLine(_ sink: InterruptSink) {
        var goesOn = true
        while goesOn, gate.isConnected.pointee.load(ordering: .sequentiallyConsistent) {
            lock.lock()
            goesOn = isLinePulled
            lock.unlock()
            guard goesOn, !chw_serve(sink.routine, sink.context, 0) else { continue }
            lock.lock()
            state.pointee.interrupts.declined &+= 1
            if state.pointee.interrupts.isNeighbourPulling {
                // The next on the line: its own routine serves it.
                state.pointee.interrupts.isNeighbourPulling = false
            } else {
                // As an operating system does with a line that nobody claims: it is left alone.
                if isLinePulled { state.pointee.interrupts.unclaimed &+= 1 }
                goesOn = false
            }
            lock.unlock()
        }
    }

    // MARK: Messages

    /// The link came or went. The lock is held.
    @_noLocks func announceLinkChange() {
        guard isPresent else { return }
        guard usesMessages else {
            state.pointee.interrupts.events |= InterruptController.linkEvent
            return pullLine()
        }
        request(2)
        state.pointee.interrupts.holdsLinkChange = state.pointee.msix.pending & 4 != 0
    }

    /// Sends the message of a vector, or keeps it pending while it may not leave.
    @_noLocks private func request(_ vector: Int) {
        let configuration = state.pointee.configuration
        if !configuration.isMSIXEnabled {
            // MSI without masks: what may not leave waits for bus mastering.
            if isBusMaster { sendMSI(vector) } else { state.pointee.msix.pending |= 1 << UInt32(vector) }
        } else if configuration.isMSIXMasked || state.pointee.msix.isMasked(vector) || !isBusMaster {
            state.pointee.msix.pending |= 1 << UInt32(vector)
        } else {
            send(vector)
        }
    }

    @_noLocks private func send(_ vector: Int) {
        let address = state.pointee.msix.words[vector &* 4]
        let upper = state.pointee.msix.words[vector &* 4 &+ 1]
        let data = state.pointee.msix.words[vector &* 4 &+ 2] &- InterruptController.messageData
        // A message to anywhere else is a write the platform drops.
        guard address == InterruptController.messageAddress, upper == 0, data < UInt32(MSIXTable.vectorCount) else {
            return
        }
        state.pointee.interrupts.toDeliver |= 1 << data
    }

    /// With fewer vectors granted than the card has reasons, reasons share them.
    @_noLocks private func sendMSI(_ vector: Int) {
        let configuration = state.pointee.configuration
        let at = ConfigurationSpaceModel.msi
        let data = UInt32(configuration.load16(at + 12)) &- InterruptController.messageData
        guard configuration.load32(at + 4) == InterruptController.messageAddress, configuration.load32(at + 8) == 0,
            data == 0
        else { return }
        state.pointee.interrupts.toDeliver |= 1 << (UInt32(vector) & (configuration.grantedVectors &- 1))
    }

    /// Sends pending messages that may leave now. The lock is held.
    @_noLocks func releasePending() {
        let configuration = state.pointee.configuration
        if configuration.isMSIEnabled, !configuration.isMSIXEnabled, isBusMaster {
            let pending = state.pointee.msix.pending
            state.pointee.msix.pending = 0
            state.pointee.interrupts.holdsLinkChange = false
            for vector in 0..<MSIXTable.vectorCount where pending & 1 << UInt32(vector) != 0 { sendMSI(vector) }
            return
        }
        guard state.pointee.msix.pending != 0, configuration.isMSIXEnabled, !configuration.isMSIXMasked, isBusMaster
        else { return }
        for vector in 0..<MSIXTable.vectorCount {
            let bit: UInt32 = 1 << UInt32(vector)
            guard state.pointee.msix.pending & bit != 0, !state.pointee.msix.isMasked(vector) else { continue }
            state.pointee.msix.pending &= ~bit
            if vector == 2 { state.pointee.interrupts.holdsLinkChange = false }
            send(vector)
        }
    }

    /// Calls the routine for each vector, with no lock held; if another thread is in it, that one calls it once more.
    @_noLocks func deliver(_ vectors: UInt32) {
        for vector in 0..<UInt32(MSIXTable.vectorCount) where vectors & 1 << vector != 0 {
            let word = gate.states + Int(vector)
            while true {
                let (entered, seen) = word.pointee.compareExchange(
                    expected: 0,
                    desired: 1,
                    ordering: .sequentiallyConsistent
                )
                if entered { break }
                if seen == 2
                    || word.pointee.compareExchange(expected: 1, desired: 2, ordering: .sequentiallyConsistent).0
                {
                    return deliver(vectors & ~(2 << vector &- 1))
                }
            }
            while true {
                if gate.isConnected.pointee.load(ordering: .sequentiallyConsistent),
                    let sink = gate.sink.pointee
                {
                    if gate.isLine.pointee {
                        serveLine(sink)
                    } else {
                        _ = chw_serve(sink.routine, sink.context, vector)
                    }
                }
                if word.pointee.compareExchange(expected: 1, desired: 0, ordering: .sequentiallyConsistent).0 { break }
                word.pointee.store(1, ordering: .sequentiallyConsistent)
            }
        }
    }

    // MARK: The platform's part

    /// Routes vectors to a sink and enables them; false when something is connected.
    func connect(_ kind: InterruptKind, _ count: Int, _ sink: InterruptSink) -> Bool {
        lock.lock()
        guard state.pointee.interrupts.connectedCount == 0 else {
            lock.unlock()
            return false
        }
        gate.sink.pointee = sink
        gate.isLine.pointee = kind == .intx
        gate.isConnected.pointee.store(true, ordering: .sequentiallyConsistent)
        state.pointee.interrupts.connectedCount = count
        state.pointee.interrupts.kind = kind
        programVectors()
        // What is asserted already is told now.
        state.pointee.interrupts.forgetLevels()
        evaluateInterrupts()
        unlockAndDeliver()
        return true
    }

    /// Enables the connected vectors where the card has them. The lock is held.
    func programVectors() {
        switch state.pointee.interrupts.kind {
        case .msi: return state.pointee.configuration.setMSI(vectors: state.pointee.interrupts.connectedCount)
        case .intx: return state.pointee.configuration.enableLine()
        case .msix: break
        }
        for vector in 0..<MSIXTable.vectorCount {
            state.pointee.msix.words[vector * 4] = InterruptController.messageAddress
            state.pointee.msix.words[vector * 4 + 1] = 0
            state.pointee.msix.words[vector * 4 + 2] = InterruptController.messageData + UInt32(vector)
            state.pointee.msix.words[vector * 4 + 3] = vector < state.pointee.interrupts.connectedCount ? 0 : 1
        }
        state.pointee.configuration.setMSIX(enabled: true)
    }

    /// Disables the vectors; no call of the sink runs or comes when this returns.
    func disconnect() {
        lock.lock()
        if state.pointee.interrupts.connectedCount > 0 {
            state.pointee.configuration.setMSIX(enabled: false)
            state.pointee.configuration.setMSI(vectors: 0)
            state.pointee.msix = MSIXTable()
            state.pointee.interrupts.forgetLevels()
        }
        gate.isConnected.pointee.store(false, ordering: .sequentiallyConsistent)
        lock.unlock()
        for vector in 0..<MSIXTable.vectorCount {
            while gate.states[vector].load(ordering: .sequentiallyConsistent) != 0 { sched_yield() }
        }
        // Only now may another sink be connected.
        lock.locked { state.pointee.interrupts.connectedCount = 0 }
    }
}
