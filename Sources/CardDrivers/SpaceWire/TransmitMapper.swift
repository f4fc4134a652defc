import DriverCore
import PCIBus

/// Makes the transfers of writes whose memory the card cannot reach: DMA transactions through the adapter's map registers.
///
/// Transactions are made and ended only here, under one lock, on the deferred thread or by who takes the ring back. Several
/// may be with the card; one at a time is still being made, since the bytes of packets must not mix.
final class TransmitMapper: @unchecked Sendable {  // guarded by `lock`
    /// Transactions at a time.
    static let slotCount = 8

    private let transmit: TransmitPort
    /// Taken after the driver's `recovery` and before the lock of the port.
    private let lock = Lock()
    private let slots: [DMATransaction]
    private var isUsed = [Bool](repeating: false, count: slotCount)
    /// Slots with a transfer in the ring.
    private var isWithCard = [Bool](repeating: false, count: slotCount)

    init(_ adapter: DMAAdapter, _ transmit: TransmitPort) throws(StatusError) {
        let enabler = try DMAEnabler(adapter)
        slots = (0..<Self.slotCount).map { _ in DMATransaction(enabler) }
        self.transmit = transmit
    }

    deinit { lock.destroy() }

    /// Ends what the card has done and begins what waits. Dispatch level.
    func run() {
        lock.locked {
            // A signal may have taken the write whose memory would be used next. It calls here again when it has it.
            guard transmit.control({ $0.pinCurrent() }) else { return }
            endAll()
            while let free = isUsed.firstIndex(of: false), let job = transmit.control({ $0.beginMapping(free) }) {
                begin(job, free)
            }
            transmit.control { $0.unpinCurrent() }
        }
    }

    /// Ends every transaction after the ring was taken back from the card. `reclaim` does that.
    func abandon<Result>(_ reclaim: () -> Result) -> Result {
        lock.locked {
            let result = reclaim()
            for slot in 0..<Self.slotCount where isUsed[slot] { end(slot) }
            transmit.control {
                $0.mapping.ended = 0
                $0.mapping.cut = 0
            }
            return result
        }
    }

    private func endAll() {
        while true {
            if let (slot, isCut) = transmit.control({ $0.takeEnded() }) {
                guard isUsed[slot] else { continue }
                isWithCard[slot] = false
                complete(slot, isCut: isCut)
            } else if let slot = transmit.control({ channel in channel.takeCut { isWithCard[$0] } }) {
                if isUsed[slot] { end(slot) }
            } else {
                return
            }
        }
    }

    private func complete(_ slot: Int, isCut: Bool) {
        let transaction = slots[slot]
        if isCut { return end(slot) }
        do throws(StatusError) {
            let completion = try transaction.dmaCompleted()
            guard completion.isDone else { return }
            if !completion.status.isSuccess { transmit.control { $0.refuseCurrent(completion.status, .none) } }
            try transaction.release()
            isUsed[slot] = false
        } catch {
            end(slot)
        }
    }

    /// Ends a transaction as it stands.
    private func end(_ slot: Int) {
        let transaction = slots[slot]
        if transaction.state == .transfer, !transaction.cancel() {
            _ = try? transaction.dmaCompletedFinal(length: 0)
        }
        try? transaction.release()
        isUsed[slot] = false
        isWithCard[slot] = false
    }

    private func begin(_ job: TransmitChannel.MappingJob, _ slot: Int) {
        isUsed[slot] = true
        let transaction = slots[slot]
        do throws(StatusError) {
            let mdl = try MDL(virtualAddress: VirtualAddress(job.payload), byteCount: job.byteCount)
            // The payload memory is resident for the life of the mount.
            try mdl.buildForNonPagedPool()
            try transaction.initialize(mdl, byteCount: job.byteCount, .toDevice) { [self] transaction, list in
                // Called by `execute` and `dmaCompleted`, so the lock is held.
                let isProgrammed = transmit.control { $0.program(list, slot: slot, transaction: transaction) }
                if isProgrammed {
                    isWithCard[slot] = true
                } else {
                    transmit.control { $0.mapping.cut |= 1 << UInt32(slot) }
                }
            }
            try transaction.execute()
        } catch {
            transmit.control { $0.refuseCurrent(error.status, .none) }
            end(slot)
        }
    }
}
