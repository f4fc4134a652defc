import CHardware
public import DriverCore
import PCIBus
import Synchronization

// What is not on the path of a request that goes well: deferred calls, recovery, and the controls of `dma/`.
extension SpaceWireDriver {
    /// The transmitter's deferred call and timer.
    func transmitDeferred() {
        let stall = transmit.control { channel in
            notingTimeouts(&channel, .stillSending) { $0.runDeferred() }
        }
        if let fault = transmit.control({ $0.fault }) {
            recover(.cardError, .ioDeviceError, fault.text(device.function.address)) { [transmit] in
                transmit.control { $0.fault != nil }
            }
        }
        if transmit.control({ $0.isAwaited }), looksGone() {
            device.reportMissing()
        } else if case .stalled = stall, let cause = recovery.locked({ isWorking ? diagnose() : nil }) {
            // A flush may have put things right meanwhile.
            let isStillStalled = { [transmit] in
                if case .stalled = transmit.control({ $0.stall }) { true } else { false }
            }
            switch cause {
            case .receiverFull, .linkDown:
                transmit.control { channel in notingTimeouts(&channel, cause) { $0.expire(cause) } }
            case .gone: device.reportMissing()
            case .asleep: recover(cause, .deviceNotReady, ifNeeded: isStillStalled)
            case .busError: recover(cause, .ioDeviceError, ifNeeded: isStillStalled)
            default: recover(cause, .ioTimeout, ifNeeded: isStillStalled)
            }
        }
        tellIfReady(0)
    }

    /// The deferred call of a bus error, which stands until the engines are reset.
    func errorDeferred() {
        Verifier.report(.iommuFault, "\(device.function.address) met an address that is not mapped for it")
        recover(.busError, .ioDeviceError) { [signals] in
            signals.pointee.window.load32(SpaceWireLayout.status) & SpaceWireLayout.Status.busError != 0
        }
    }

    /// The receiver's deferred call and timer.
    func receiveDeferred() {
        receive.control {
            let before = $0.counters.timeouts
            $0.runDeferred()
            guard $0.counters.timeouts != before else { return }
            device.note(failure(0, "data", .fromDevice, $0.counters.readBytes, .ioTimeout, .noData))
        }
        recoverReceiver()
        if receive.control({ $0.readers.oldest != nil }), looksGone() { device.reportMissing() }
        tellIfReady(1)
    }

    /// The card gave the receiver an impossible number: both engines are reset, and the receiver restarts once a reader was told.
    private func recoverReceiver() {
        let (found, count) = receive.control { ($0.fault, $0.counters.cardErrors) }
        guard let found else { return }
        if !found.isReported {
            let text = found.text(device.function.address)
            recover(.cardError, .ioDeviceError, text) { [receive] in receive.control { $0.fault != nil } }
            let arrived = receive.control { $0.counters.arrivedBytes }
            device.report(
                TransferFailure(
                    stage: "descriptor",
                    direction: .fromDevice,
                    bytesDone: arrived,
                    bytesLost: 0,
                    status: .ioDeviceError,
                    cause: text,
                    advice: adviceText(.cardError)
                )
            )
            receive.control {
                if $0.counters.cardErrors == count { $0.fault?.isReported = true }
                $0.settle()
            }
        }
        recovery.locked { if isWorking { receive.control { $0.restartAfterFault() } } }
    }

    /// A status register that cannot read so makes the card suspect; its vendor ID decides.
    private func looksGone() -> Bool {
        recovery.locked {
            guard isWorking else { return false }
            let status = signals.pointee.window.load32(SpaceWireLayout.status)
            return (status == .max || status == 0) && device.examine() == .gone
        }
    }

    /// Notes a wait that `body` ends for lack of progress, before its caller is told.
    private func notingTimeouts<Result>(
        _ channel: inout TransmitChannel,
        _ cause: FailureCause,
        _ body: (inout TransmitChannel) -> Result
    ) -> Result {
        let before = channel.counters.timeouts
        let result = body(&channel)
        if channel.counters.timeouts != before {
            device.note(failure(0, "data", .toDevice, channel.counters.sentBytes, .ioTimeout, cause))
        }
        return result
    }

    private func tellIfReady(_ direction: UInt32) {
        let isAwaited =
            direction == 0
            ? transmit.control { $0.watchers > 0 && $0.isWritable() }
            : receive.control { $0.watchers > 0 && $0.isReadable() }
        if isAwaited { device.readinessChanged(direction) }
    }

    /// Why the transmitter makes no progress.
    private func diagnose() -> FailureCause {
        switch device.examine() {
        case .gone: return .gone
        case .asleep: return .asleep
        default: break
        }
        let command = (try? device.function.readConfiguration(ConfigurationSpace.command, .word)) ?? 0
        if UInt16(truncatingIfNeeded: command) & ConfigurationSpace.Command.busMaster.rawValue == 0 {
            return .busMasterOff
        }
        let window = signals.pointee.window
        let status = window.load32(SpaceWireLayout.status)
        if status & SpaceWireLayout.Status.busError != 0 { return .busError }
        if status & SpaceWireLayout.Status.linkMask != SpaceWireLayout.Status.linkRun { return .linkDown }
        if isFullCard { return window.load32(SpaceWireLayout.flow) & 1 != 0 ? .receiverFull : .stuck }
        // A bare core does not show its credit: running on a link that runs is taken for back-pressure.
        return status & SpaceWireLayout.Status.transmitRunning != 0 ? .receiverFull : .stuck
    }

    /// Takes the transmit ring back from a card that does not go on, accounts for what is lost, and lets it start anew.
    ///
    /// One recovery at a time, and none of a card that is suspended; `isNeeded` is asked when it is this one's turn. `text`
    /// says what happened better than the cause alone.
    func recover(
        _ cause: FailureCause,
        _ status: Status,
        _ text: String? = nil,
        ifNeeded isNeeded: () -> Bool = { true }
    ) {
        var stage = "data"
        let told: TransferFailure? = recovery.locked {
            guard isWorking, isNeeded() else { return nil }
            transmit.control { $0.hold() }
            let window = signals.pointee.window
            if cause == .busError || cause == .cardError {
                // Both engines stopped at a bus error, and only a DMA reset lets them start again. After numbers that cannot be
                // so nobody knows what they do.
                restartEngines(window)
            } else if !cancelTransmitter(window) {
                stage = "descriptor"
                restartEngines(window)
            }
            let told = reclaim(stage, status, cause, text, endPacket: true)
            transmit.control { $0.resume() }
            return told
        }
        if let told { device.tell(told) }
    }

    /// Takes back what a stopped transmitter left in the ring, and notes what was lost before those are told who wrote it. Answers
    /// what is to be told of it.
    func reclaim(
        _ stage: String,
        _ status: Status,
        _ cause: FailureCause,
        _ text: String? = nil,
        endPacket: Bool
    ) -> TransferFailure? {
        takeBack {
            let wasEnd = $0.holdsOnlyEnd
            let lost = $0.reclaim(status, cause, endPacket: endPacket)
            // What a command discards or ends is worth a word only if there was something. Neither is the end of a packet that was
            // lost, which was told of: the card that did not take the packet does not take its end either.
            if lost == 0, cause == .discarded || !isWorking || wasEnd { return nil }
            let failure = failure(lost, stage, .toDevice, $0.counters.sentBytes, status, cause, text)
            device.note(failure)
            return failure
        }
    }

    /// Asks the transmitter to stop, and waits at most 10 ms. Nothing new gets into the ring meanwhile, and no lock is held.
    private func cancelTransmitter(_ window: RegisterWindow) -> Bool {
        guard window.load32(SpaceWireLayout.status) != .max else { return false }
        link.act(SpaceWireLayout.Control.transmitCancel)
        for _ in 0..<100 {
            if window.load32(SpaceWireLayout.status) & SpaceWireLayout.Status.transmitRunning == 0 { return true }
            usleep(100)
        }
        return false
    }

    private func restartEngines(_ window: RegisterWindow) {
        guard window.load32(SpaceWireLayout.status) != .max else { return }
        // The card forgets which packets have ended.
        receive.control { $0.reap() }
        resetDMA()
        receive.control {
            $0.reap()
            $0.takePart()
            $0.restartEngine()
        }
    }

    private func failure(
        _ lost: UInt64,
        _ stage: String,
        _ direction: TransferPlan.Direction,
        _ done: UInt64,
        _ status: Status,
        _ cause: FailureCause,
        _ text: String? = nil
    ) -> TransferFailure {
        TransferFailure(
            stage: stage,
            direction: direction,
            bytesDone: done,
            bytesLost: lost,
            status: status,
            cause: text ?? causeText(cause),
            advice: adviceText(cause)
        )
    }
}

extension SpaceWireDriver: DMAControl {
    /// Whether packet boundaries are kept by reads. Every write is a packet on the wire in either framing.
    public var framing: Framing {
        get {
            receive.control { $0.framing }
        }
        set {
            receive.control {
                $0.framing = newValue
                $0.settle()
            }
        }
    }

    /// How the last packet read ended.
    public var lastPacketEnd: PacketEnd {
        receive.control { $0.lastEnd }
    }

    /// The transmitter's plan or the receiver's, whichever is younger.
    public var lastPlan: TransferPlan {
        let sent = transmit.control { $0.plan }
        let received = receive.control { $0.plan }
        return received.time > sent.time ? received : sent
    }

    /// 255 pages: what one FUSE request carries from memory that does not begin on a page.
    public var maximumPacketLength: Int { 255 * Page.size }

    /// Aborts the transmitter, then discards what comes until nothing has come for the gather time. A source without end
    /// is left after a second.
    public func flush() {
        recover(.discarded, .requestAborted)
        let quiet = min(max(device.policy.gather, 1_000_000), 100_000_000)
        let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        var lastByte = start
        var discarded: UInt64?
        while true {
            let total = receive.control { $0.discard() }
            let now = chw_clock_nanoseconds(CLOCK_MONOTONIC)
            if total != discarded { lastByte = now }
            discarded = total
            if now &- lastByte >= quiet || now &- start >= 1_000_000_000 { return }
            usleep(200)
        }
    }

    /// Programs may look at the receive ring.
    public var lendsRing: Bool { true }

    /// The receive ring's slots, while the card is prepared.
    public var mappableRing: MappableRing? {
        guard let data = receive.control({ $0.data }), let file = data.memory.file else { return nil }
        return MappableRing(file: file, byteCount: data.byteCount)
    }

    /// Gives back what was lent through a file.
    public func streamClosed(_ stream: UnsafeMutablePointer<StreamRecord>) {
        receive.control { $0.endLoans(of: stream) }
    }

    /// The counters of both channels.
    public var counters: [(name: String, help: String, value: UInt64)] {
        let (sent, unsent) = transmit.control {
            $0.reap()
            $0.settle()
            $0.followBytes()
            return $0.account()
        }
        let (received, unread) = receive.control {
            $0.reap()
            return $0.account()
        }
        return [
            ("tx_requests_total", "Writes accepted.", sent.requests),
            ("tx_accepted_bytes_total", "Bytes accepted from writers.", sent.acceptedBytes),
            ("tx_sent_bytes_total", "Bytes the card has taken.", sent.sentBytes),
            ("tx_sent_requests_total", "Writes the card has taken.", sent.sentRequests),
            ("tx_lost_bytes_total", "Accepted bytes that were lost and reported to their writers.", sent.lostBytes),
            ("tx_waiting_bytes", "Accepted bytes that the card has still to take.", unsent),
            ("tx_buffered_requests_total", "Writes that went through a system buffer.", sent.bufferedRequests),
            ("tx_direct_requests_total", "Writes that went out of the request's own memory.", sent.directRequests),
            ("tx_timeouts_total", "Writes, fsyncs and closes that ended with ETIMEDOUT.", sent.timeouts),
            ("tx_recoveries_total", "Times the transmit ring was taken back from the card.", sent.recoveries),
            ("rx_requests_total", "Reads.", received.requests),
            ("rx_arrived_bytes_total", "Bytes the card has delivered.", received.arrivedBytes),
            ("rx_read_bytes_total", "Bytes given to readers, copied or lent.", received.readBytes),
            ("rx_discarded_bytes_total", "Bytes discarded by a command or a reset.", received.discardedBytes),
            ("rx_waiting_bytes", "Bytes that have arrived and nobody was given.", unread),
            ("rx_packets_total", "Packets that ended at the receiver.", received.packets),
            ("rx_error_packets_total", "Packets that ended in EEP.", received.errorPackets),
            ("rx_empty_packets_total", "Packets without data, which are never returned.", received.emptyPackets),
            ("rx_buffered_requests_total", "Reads answered from a copy.", received.bufferedRequests),
            ("rx_direct_requests_total", "Reads answered from the ring.", received.directRequests),
            ("rx_lent_bytes_total", "Bytes that programs looked at in the ring.", received.lentBytes),
            (
                "rx_recalled_loans_total",
                "Pieces of the ring taken back from programs that kept them while others waited.",
                received.recalledLoans
            ),
            ("rx_timeouts_total", "Reads that ended with ETIMEDOUT.", received.timeouts),
            (
                "link_changes_total",
                "Interrupts that found the link in another state than the one before.",
                signals.pointee.linkChanges.load(ordering: .relaxed)
            ),
            ("time_codes_total", "Time-codes received.", signals.pointee.timeCodes.load(ordering: .relaxed)),
            (
                "card_errors_total",
                "Numbers of the card's that could not be so: lengths, counters, descriptors.",
                sent.cardErrors + received.cardErrors
            ),
            ("bus_errors_total", "Bus errors the card reported.", signals.pointee.busErrors.load(ordering: .relaxed)),
        ]
    }

    /// Errors of the link by cause.
    public var countersByCause: [(name: String, help: String, causes: [(cause: String, value: UInt64)])] {
        let signals = signals
        return [
            (
                "link_errors_total",
                "Errors of the link, at least so many: the card keeps one of each cause between two looks.",
                [
                    ("disconnect", signals.pointee.disconnectErrors.load(ordering: .relaxed)),
                    ("parity", signals.pointee.parityErrors.load(ordering: .relaxed)),
                    ("escape", signals.pointee.escapeErrors.load(ordering: .relaxed)),
                    ("credit", signals.pointee.creditErrors.load(ordering: .relaxed)),
                ]
            )
        ]
    }

    /// Counts those who poll a direction.
    public func watchReadiness(_ direction: UInt32, _ on: Bool) {
        if direction == 0 {
            transmit.control {
                $0.watchers += on ? 1 : -1
                $0.settle()
            }
        } else {
            receive.control {
                $0.watchers += on ? 1 : -1
                $0.settle()
                $0.watchLoans()
            }
        }
    }

    /// What to tell the caller of a failed request.
    public func sentence(for cause: FailureCause, kind: RequestKind) -> String {
        let advice = adviceText(cause)
        return advice.isEmpty ? causeText(cause) : "\(causeText(cause)): \(advice)"
    }

    private func causeText(_ cause: FailureCause) -> String {
        let card = device.function.address
        switch cause {
        case .none: return "the transfer failed on \(card)"
        case .receiverFull: return "the receiver is full"
        case .linkDown: return "the SpaceWire link of \(card) is not in Run"
        case .busMasterOff: return "bus mastering of \(card) is off, so that it cannot fetch descriptors"
        case .stuck: return "\(card) kept a descriptor without progress and was stopped"
        case .busError: return "\(card) met a bus error: an address its IOMMU does not translate"
        case .cardError:
            return "\(card) told a length, a counter or a descriptor that cannot be so, and was stopped"
        case .noData: return "nothing came from \(card) in time"
        case .packetTooLong:
            return "a packet is at most \(maximumPacketLength) bytes in packet framing"
        case .outOfBuffers: return "all request buffers of \(card) are held by requests that wait"
        case .interrupted: return "interrupted by a signal"
        case .wouldBlock: return "the request would have to wait and the file is nonblocking"
        case .deferred: return "bytes accepted earlier were lost"
        case .discarded: return "bytes that were accepted and not sent were discarded by a command"
        case .gone: return "\(card) does not answer any more"
        case .removed: return "\(card) was taken out of use"
        case .startFailed: return "\(card) could not be brought back to work"
        case .notInD0: return "\(card) is not in D0"
        case .asleep: return "\(card) was put to sleep by a write to its power register PMCSR"
        case .stillSending: return "close waited for the linger time and \(card) still has bytes to take"
        case .ringTaken:
            return "\(card) was stopped or reset since this file was opened, and the pieces of its ring were taken back"
        case .ringHeld: return "all of the ring that can be lent is held, so that nothing can come"
        case .ringShared: return "this program holds half of the ring, and others wait for what comes"
        case .ringExpired:
            return
                "what this program held of the ring of \(card) was taken back: it kept it for too long while others waited"
        case .ringNotLent: return "the ring is not lent while dma/engine is system"
        case .packetCut:
            return
                "bytes from \(card) are missing here: it was stopped, or told to discard, in the middle of what was being read"
        case .dropped: return "the driver dropped the request"
        }
    }

    private func adviceText(_ cause: FailureCause) -> String {
        switch cause {
        case .receiverFull: return "read dma/rx, or write sink to sim/wire"
        case .linkDown: return "check the cable and the far end; regs/status bits 1:0 read 3 in Run"
        case .busMasterOff: return "switch it on with setpci COMMAND=0004:0004"
        case .cardError: return "reset the card if it happens again"
        case .stuck, .busError: return "write again, and if it comes back write reset to ctl"
        case .discarded: return "write what is still needed again"
        case .noData: return "check that the far end sends, or mount with rx_timeout=0 to wait for ever"
        case .packetTooLong: return "write shorter packets, or set dma/framing to stream"
        case .outOfBuffers: return "let some of the waiting writers finish"
        case .wouldBlock: return "poll first"
        case .gone: return "write start to ctl when it is back"
        case .removed: return "open anew after start was written to ctl"
        case .startFailed: return "see last_error, then write start to ctl"
        case .notInD0: return "see state"
        case .asleep: return "wake it with setpci CAP_PM+4.w=0:3"
        case .ringTaken: return "open dma/rx and dma/buffer anew"
        case .packetCut: return "read on: what comes next is whole"
        case .ringHeld, .ringShared: return "give pieces back before asking for more"
        case .ringExpired:
            return "the pieces may have been overwritten while they were looked at; ask again for what comes next"
        case .ringNotLent: return "write sg or common to dma/engine, or use read"
        case .stillSending: return "read dma/rx, or mount with a longer linger"
        default: return ""
        }
    }
}
