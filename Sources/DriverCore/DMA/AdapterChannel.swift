import CHardware
import PCIBus

/// What a driver keeps when its AdapterControl routine returns (IO_ALLOCATION_ACTION).
public enum AllocationAction: Sendable {
    /// Channel and registers, until ``DMAAdapter/freeAdapterChannel()``: what a slave device must answer.
    case keepObject
    /// Nothing: the transfer is over, or needs nothing.
    case deallocateObject
    /// The registers, until ``DMAAdapter/freeMapRegisters(_:)``: what a bus master answers.
    case deallocateObjectKeepRegisters
}

/// Names the device object on whose behalf a channel is asked for: one request each may wait.
public struct DMARequester: Hashable, Sendable {
    private let identity: UInt

    /// A requester of its own.
    public init(_ object: AnyObject) { identity = UInt(bitPattern: Unmanaged.passUnretained(object).toOpaque()) }
}

/// Who has an adapter's channel, who waits for it, and what is mapped. Its lock is held only for looking and changing.
final class AdapterChannelQueue: @unchecked Sendable {  // guarded by `lock`
    /// One who waits for the channel.
    struct Waiter {
        var count: Int
        var requester: DMARequester
        var control: @Sendable (MapRegisterBase?) -> AllocationAction
    }

    /// A piece of a buffer the card can reach now.
    struct Mapping {
        var address: VirtualAddress
        var byteCount: Int
        var direction: TransferPlan.Direction
        /// Where the bytes are if they had to be copied.
        var bounce: UnsafeMutableRawPointer?
        /// Registers of the base it uses, from the base's first on.
        var registers: Range<Int>
    }

    let lock = Lock()
    var waiting: [Waiter] = []
    /// Who has the channel; nil while it is free.
    var owner: DMARequester?
    /// The AdapterControl routine of the owner has not returned yet.
    var isInControl = false
    /// The registers of the owner that answered ``AllocationAction/keepObject``.
    var keptBase: MapRegisterBase?
    /// What is mapped through each run of registers; 0 for what needs none.
    var mappings: [UInt64: [Mapping]] = [:]
    /// Scatter/gather lists that are out.
    var lists = 0

    deinit { lock.destroy() }

    var isBusy: Bool { lock.locked { owner != nil } }
    var listCount: Int { lock.locked { lists } }
}

// MARK: - Channel and registers

extension DMAAdapter {
    /// Asks for the adapter's channel and `count` map registers (AllocateAdapterChannel). `control` runs at dispatch level as
    /// soon as both are there, before this returns if they are free, else first come first served; it must not wait.
    ///
    /// - Returns: ``Status/success`` whether `control` has run or waits. ``Status/insufficientResources`` for more registers
    ///   than the adapter has, ``Status/invalidParameter`` for a negative number, ``Status/invalidDeviceState`` at another
    ///   level than dispatch, or while a request of the same requester waits or is in its routine; `control` is never
    ///   called then.
    public func allocateAdapterChannel(
        mapRegisters count: Int,
        for requester: DMARequester,
        control: @escaping @Sendable (MapRegisterBase?) -> AllocationAction
    ) -> Status {
        do throws(StatusError) { try LevelRule.allocateAdapterChannel.check() } catch { return error.status }
        guard count >= 0 else { return .invalidParameter }
        guard count <= min(mapRegisters?.count ?? 0, mapRegisterCount) else {
            Verifier.note(.tooManyRegisters, "\(count) map registers are asked for of \(mapRegisterCount)")
            return .insufficientResources
        }
        let isQueued = channel.lock.locked {
            if channel.waiting.contains(where: { $0.requester == requester })
                || (channel.isInControl && channel.owner == requester)
            {
                return false
            }
            channel.waiting.append(.init(count: count, requester: requester, control: control))
            return true
        }
        guard isQueued else {
            Verifier.note(.secondChannel, "a second channel of \(function.address) is asked for by the same device")
            return .invalidDeviceState
        }
        serveChannel()
        return .success
    }

    /// Gives the channel to the oldest request, if it is free. Loops rather than nests: a control routine that keeps nothing
    /// frees the channel for the next one.
    private func serveChannel() {
        while true {
            let next: AdapterChannelQueue.Waiter? = channel.lock.locked {
                guard channel.owner == nil, !channel.waiting.isEmpty else { return nil }
                let waiter = channel.waiting.removeFirst()
                channel.owner = waiter.requester
                channel.isInControl = true
                return waiter
            }
            guard let next else { return }
            guard next.count > 0, let registers = mapRegisters else {
                if !finishControl(next.control(nil), nil) { return }
                continue
            }
            // Registers may have to be waited for: the routine then runs on the thread that frees them.
            let isDone = registers.allocate(next.count) { [self] base in
                let action = ExecutionLevel.dispatch.run { next.control(base) }
                if finishControl(action, base) { serveChannel() }
            }
            guard isDone.isSuccess else { return }
            return
        }
    }

    /// Leaves what the answer of a control routine says. True if the channel is free.
    private func finishControl(_ action: AllocationAction, _ base: MapRegisterBase?) -> Bool {
        channel.lock.locked {
            channel.isInControl = false
            switch action {
            case .keepObject: channel.keptBase = base
            case .deallocateObject, .deallocateObjectKeepRegisters: channel.owner = nil
            }
        }
        switch action {
        case .keepObject: return false
        case .deallocateObjectKeepRegisters: return true
        case .deallocateObject:
            if let base {
                forgetMappings(base)
                try? mapRegisters?.free(base)
            }
            return true
        }
    }

    /// Gives back the channel that ``AllocationAction/keepObject`` kept, and its registers (FreeAdapterChannel).
    /// ``Status/invalidDeviceState`` when it is not kept, as the second time, or while a buffer was not flushed.
    public func freeAdapterChannel() throws(StatusError) {
        try LevelRule.freeAdapterChannel.check()
        let base: MapRegisterBase? = try channel.lock.locked { () throws(StatusError) in
            guard channel.owner != nil, !channel.isInControl else {
                throw StatusError(
                    .invalidDeviceState,
                    "the channel of \(function.address) is freed but not held",
                    misuse: .channelFreedTwice
                )
            }
            guard channel.mappings[channel.keptBase?.serial ?? 0]?.isEmpty ?? true else {
                throw StatusError(
                    .invalidDeviceState,
                    "the channel of \(function.address) is freed before it was flushed",
                    misuse: .notFlushed
                )
            }
            let base = channel.keptBase
            channel.keptBase = nil
            channel.owner = nil
            return base
        }
        if let base { try mapRegisters?.free(base) }
        serveChannel()
    }

    /// Gives back registers that ``AllocationAction/deallocateObjectKeepRegisters`` kept (FreeMapRegisters).
    /// ``Status/invalidParameter`` for registers that are not out, ``Status/invalidDeviceState`` while something mapped
    /// through them was not flushed.
    public func freeMapRegisters(_ base: MapRegisterBase) throws(StatusError) {
        try LevelRule.freeMapRegisters.check()
        try channel.lock.locked { () throws(StatusError) in
            guard channel.mappings[base.serial]?.isEmpty ?? true else {
                throw StatusError(
                    .invalidDeviceState,
                    "map registers \(base.first)… are freed before they were flushed",
                    misuse: .registersFreedWhileMapped
                )
            }
            guard channel.keptBase != base else {
                throw StatusError(.invalidParameter, "map registers \(base.first)… belong to a channel that is held")
            }
        }
        guard let registers = mapRegisters else { throw StatusError(.invalidParameter, "there are no map registers") }
        try registers.free(base)
        serveChannel()
    }

    func forgetMappings(_ base: MapRegisterBase?) {
        let forgotten = channel.lock.locked { channel.mappings.removeValue(forKey: base?.serial ?? 0) }
        if forgotten?.isEmpty == false {
            Verifier.note(.notFlushed, "a channel of \(function.address) keeps nothing and has mapped something")
        }
    }
}
