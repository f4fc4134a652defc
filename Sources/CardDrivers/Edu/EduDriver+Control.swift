import CHardware
public import DriverCore
import Glibc
import PCIBus

// What is not on the path of a request that goes well: the deferred call, failures, and the controls of `dma/`.
extension EduDriver {
    /// The channel's deferred call and timer.
    func runDeferred() {
        let finding = port.control { channel in
            let finding = channel.look()
            if let (direction, cause) = channel.timedOut {
                // Before its caller is told.
                channel.timedOut = nil
                device.note(failure(.ioTimeout, cause, "data", direction, channel.counters))
            }
            return finding
        }
        if port.control({ $0.isAwaited && !$0.answers }), device.examine() == .gone {
            device.reportMissing()
        } else {
            switch finding {
            case .fine: break
            case .nothingMoved:
                let (status, cause) = diagnose()
                tell(status, cause, "data")
                port.control { $0.resolve(status, cause) }
                if case .gone = cause { device.reportMissing() }
            case .stuck:
                tell(.ioTimeout, .stuck, "completion")
                port.control { $0.abandon() }
            }
        }
        for direction in 0...1 as ClosedRange<UInt32> where isWatchedAndReady(direction) {
            device.readinessChanged(direction)
        }
    }

    private func isWatchedAndReady(_ direction: UInt32) -> Bool {
        port.control { direction == 0 ? $0.watchers.0 > 0 && $0.isWritable : $0.watchers.1 > 0 && $0.isReadable }
    }

    /// Why a transfer moved nothing.
    private func diagnose() -> (Status, FailureCause) {
        switch device.examine() {
        case .gone: return (.deviceNotConnected, .gone)
        case .asleep: return (.deviceNotReady, .asleep)
        default: break
        }
        let command = (try? device.function.readConfiguration(ConfigurationSpace.command, .word)) ?? 0
        let isMaster = UInt16(truncatingIfNeeded: command) & ConfigurationSpace.Command.busMaster.rawValue != 0
        return (.ioDeviceError, isMaster ? .busError : .busMasterOff)
    }

    /// Makes a failure the text of `dma/last_error`. No byte that was accepted is lost: the write or read is told.
    private func tell(_ status: Status, _ cause: FailureCause, _ stage: String) {
        let (direction, counters) = port.control { channel -> (TransferPlan.Direction, EduCounters) in
            (channel.reader == nil ? .toDevice : .fromDevice, channel.counters)
        }
        device.report(failure(status, cause, stage, direction, counters))
    }

    private func failure(
        _ status: Status,
        _ cause: FailureCause,
        _ stage: String,
        _ direction: TransferPlan.Direction,
        _ counters: EduCounters
    ) -> TransferFailure {
        TransferFailure(
            stage: stage,
            direction: direction,
            bytesDone: direction == .toDevice ? counters.sentBytes : counters.readBytes,
            bytesLost: 0,
            status: status,
            cause: causeText(cause),
            advice: adviceText(cause)
        )
    }
}

extension EduDriver: DMAControl {
    /// Whether one write is one packet, kept apart from the next in the card's buffer.
    public var framing: Framing {
        get { port.control { $0.framing } }
        set {
            port.control {
                $0.framing = newValue
                $0.pump()
                $0.setTimer()
            }
        }
    }

    /// How the last packet read ended.
    public var lastPacketEnd: PacketEnd { port.control { $0.lastEnd } }

    /// The last write or read that ended.
    public var lastPlan: TransferPlan { port.control { $0.plan } }

    /// Everything goes through one common buffer.
    public var engine: DMAEngine { .common }

    /// What the card's buffer holds.
    public var maximumPacketLength: Int { EduLayout.bufferByteCount }

    /// Forgets what is in the card's buffer, after the transfer that may be taking it out. A write is in the card when it
    /// returns: there is nothing to abort.
    public func flush() {
        for _ in 0..<500 {
            if port.control({ $0.discard() }) { return }
            usleep(1000)
        }
    }

    /// The counters of the channel.
    public var counters: [(name: String, help: String, value: UInt64)] {
        let (counters, unread) = port.control { $0.account() }
        return [
            ("tx_requests_total", "Writes.", counters.writeRequests),
            ("tx_accepted_bytes_total", "Bytes accepted from writers.", counters.sentBytes),
            ("tx_sent_bytes_total", "Bytes the card has taken, read back and compared.", counters.sentBytes),
            ("tx_lost_bytes_total", "Accepted bytes that were lost.", 0),
            ("tx_waiting_bytes", "Accepted bytes that the card has still to take.", 0),
            ("rx_requests_total", "Reads.", counters.readRequests),
            ("rx_arrived_bytes_total", "Bytes that came into the card's buffer, to be read.", counters.sentBytes),
            ("rx_read_bytes_total", "Bytes given to readers.", counters.readBytes),
            ("rx_discarded_bytes_total", "Bytes discarded by a command or a reset.", counters.discardedBytes),
            ("rx_waiting_bytes", "Bytes that nobody was given.", unread),
            ("dma_timeouts_total", "Writes and reads that ended with ETIMEDOUT.", counters.timeouts),
            ("dma_transfers_total", "Transfers of the card's engine.", counters.transfers),
            ("dma_failures_total", "Transfers that moved nothing or did not end.", counters.failures),
        ]
    }

    /// Counts those who poll a direction.
    public func watchReadiness(_ direction: UInt32, _ on: Bool) {
        port.control { if direction == 0 { $0.watchers.0 += on ? 1 : -1 } else { $0.watchers.1 += on ? 1 : -1 } }
    }

    /// What to tell the caller of a failed request.
    public func sentence(for cause: FailureCause, kind: RequestKind) -> String {
        let advice = adviceText(cause)
        return advice.isEmpty ? causeText(cause) : "\(causeText(cause)): \(advice)"
    }

    private func causeText(_ cause: FailureCause) -> String {
        let card = device.function.address
        switch cause {
        case .receiverFull: return "the buffer of \(card) is full"
        case .busMasterOff:
            return "bus mastering of \(card) is off: it reported the end of a transfer and moved nothing"
        case .stuck: return "\(card) began a transfer that does not end"
        case .busError:
            return "\(card) reported the end of a transfer and moved nothing: its IOMMU does not translate the address"
        case .noData: return "nothing was written to \(card) in time"
        case .packetTooLong: return "a packet is at most the \(maximumPacketLength) bytes of the buffer of \(card)"
        case .outOfBuffers: return "all request buffers of \(card) are held by requests that wait"
        case .interrupted: return "interrupted by a signal"
        case .wouldBlock: return "the request would have to wait and the file is nonblocking"
        case .discarded: return "the transfer was cut off by a command"
        case .gone: return "\(card) does not answer any more"
        case .removed: return "\(card) was taken out of use"
        case .startFailed: return "\(card) could not be brought back to work"
        case .notInD0: return "\(card) is not in D0"
        case .packetCut: return "the rest of a packet from \(card) was discarded before it was read"
        case .asleep: return "\(card) was put to sleep by a write to its power register PMCSR"
        case .dropped: return "the driver dropped the request"
        default: return "the transfer failed on \(card)"
        }
    }

    private func adviceText(_ cause: FailureCause) -> String {
        switch cause {
        case .receiverFull: return "read dma/rx, or write flush to ctl"
        case .busMasterOff: return "switch it on with setpci COMMAND=0004:0004"
        case .busError: return "the kernel's log names the address; write reset to ctl"
        case .stuck: return "write reset to ctl"
        case .packetCut: return "read on: what comes next is whole"
        case .noData: return "write dma/tx, or mount with rx_timeout=0 to wait for ever"
        case .packetTooLong: return "write shorter packets, or set dma/framing to stream"
        case .outOfBuffers: return "let some of the waiting requests finish"
        case .wouldBlock: return "poll first"
        case .discarded: return "write what is still needed again"
        case .gone: return "write start to ctl when it is back"
        case .removed: return "open anew after start was written to ctl"
        case .startFailed: return "see last_error, then write start to ctl"
        case .notInD0: return "see state"
        case .asleep: return "wake it with setpci CAP_PM+4.w=0:3"
        default: return ""
        }
    }
}
