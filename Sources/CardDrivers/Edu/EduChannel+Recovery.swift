import DriverCore
import PCIBus

// Starting and stopping, waits that last too long, and transfers that fail.
extension EduChannel {
    /// Takes over hardware that was just prepared.
    mutating func attach(_ context: EduContext) { self.context = context }

    /// Forgets the hardware; what waits goes on waiting.
    mutating func detach() {
        isHeld = true
        context = nil
    }

    /// Lets requests through to a card whose engine is idle. What waited begins to wait anew.
    mutating func start() {
        phase = .idle
        refusal = nil
        lastProgress = context?.clock.now() ?? 0
        resume()
    }

    /// Lets requests through after ``hold()``.
    mutating func resume() {
        isHeld = false
        writes.start()
        if current == nil { take(writes.next()) }
        pump()
        setTimer()
    }

    /// Begins no request; the transfers of the one that is being carried out go on.
    mutating func hold() {
        isHeld = true
        writes.stop()
    }

    /// Whether no transfer is under way that could still end.
    var isQuiet: Bool {
        switch phase {
        case .idle, .failed, .abandoned: true
        case .load, .verify, .drain: false
        }
    }

    /// Whether the card answers as an edu does. One access.
    var answers: Bool {
        guard let context else { return true }
        return context.window.load32(EduLayout.identification) & 0xff == EduLayout.identificationByte
    }

    /// What was counted so far, and the bytes that nobody was given, in the card's buffer or gathered by a reader, which add up.
    /// A write is accepted as the card takes it, so that nothing waits on the way there.
    func account() -> (counters: EduCounters, waiting: UInt64) {
        var waiting = UInt64(tail - head + (reader?.pointee.accumulated ?? 0))
        var next = readers.oldest
        while let record = next {
            waiting += UInt64(record.pointee.accumulated)
            next = readers.next(after: record)
        }
        return (counters, waiting)
    }

    /// Whether somebody waits.
    var isAwaited: Bool { current != nil || reader != nil || readers.oldest != nil }

    /// Ends the request of the transfer that is under way, or of the one that failed; the rest goes on waiting.
    mutating func abort(_ status: Status, _ cause: FailureCause) {
        var isLoading = false
        switch phase {
        case .idle, .abandoned: return
        case .load, .verify: isLoading = true
        case .failed: isLoading = reader == nil
        case .drain: break
        }
        phase = isQuiet ? .idle : .abandoned
        if let record = reader {
            reader = nil
            finishRead(record, status, cause)
        }
        if isLoading, let record = current {
            current = nil
            finishWrite(record, status, cause)
            take(writes.finished())
        }
    }

    /// Ends the request whose transfer moved nothing, now that it is known why. Bytes that are in the card stay there.
    mutating func resolve(_ status: Status, _ cause: FailureCause) {
        guard case .failed = phase else { return }
        abort(status, cause)
        pump()
        setTimer()
    }

    /// Ends the request of a transfer that does not end.
    mutating func abandon() {
        guard !isQuiet else { return }
        counters.failures += 1
        abort(.ioTimeout, .stuck)
        setTimer()
    }

    /// Ends every request, and each that comes until a start.
    mutating func failAll(_ status: Status, _ cause: FailureCause) {
        refusal = (status, cause)
        abort(status, cause)
        while let record = writes.oldest {
            writes.remove(record)
            if record.pointee.claim() { finishWrite(record, status, cause) }
        }
        if let record = current {
            current = nil
            if record.pointee.claim() { finishWrite(record, status, cause) }
            _ = writes.finished()
        }
        while let record = readers.oldest {
            readers.remove(record)
            if record.pointee.claim() { finishRead(record, status, cause) }
        }
    }

    /// Forgets what nobody has read, unless it is on its way to a reader. False then.
    mutating func discard() -> Bool {
        if case .drain = phase { return false }
        if framing == .packet, lastEnd == .more, head != tail { cut() }
        counters.discardedBytes += UInt64(tail - head)
        head = tail
        pump()
        setTimer()
        return true
    }

    /// A packet of which a part was read goes no further: who waits for the rest is told, else the next read.
    private mutating func cut() {
        lastEnd = .eep
        isCutUntold = true
        guard let record = readers.oldest, record.pointee.claim() else { return }
        readers.remove(record)
        isCutUntold = false
        finishRead(record, .requestAborted, .packetCut)
    }

    /// Ends waits that have lasted long enough.
    mutating func expire(_ context: EduContext) {
        let now = context.clock.now()
        if let record = readers.oldest, record.pointee.accumulated > 0, now >= lastArrival + context.policy.gather,
            record.pointee.claim()
        {
            readers.remove(record)
            finishRead(record, .success, .none)
        }
        if context.policy.receiveTimeout != 0 {
            var next = readers.oldest
            while let record = next {
                next = readers.next(after: record)
                let since = max(record.pointee.waitingSince, lastArrival)
                guard now >= since + context.policy.receiveTimeout, record.pointee.claim() else { continue }
                readers.remove(record)
                counters.timeouts += 1
                timedOut = (.fromDevice, .noData)
                finishRead(record, .ioTimeout, .noData)
            }
        }
        guard context.policy.transmitTimeout != 0 else { return }
        let base = lastProgress
        func isOver(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
            now >= max(record.pointee.waitingSince, base) + context.policy.transmitTimeout
        }
        var cause = FailureCause.receiverFull
        if case .abandoned = phase { cause = .stuck }
        var next = writes.oldest
        while let record = next {
            next = writes.next(after: record)
            guard isOver(record), record.pointee.claim() else { continue }
            writes.remove(record)
            counters.timeouts += 1
            timedOut = (.toDevice, cause)
            finishWrite(record, .ioTimeout, cause)
        }
        if let record = current, isOver(record), record.pointee.claim() {
            current = nil
            counters.timeouts += 1
            timedOut = (.toDevice, cause)
            finishWrite(record, .ioTimeout, cause)
            take(writes.finished())
        }
    }

    /// Sets the timer to the next moment at which something could be due. Nobody tells a driver that its card has left, or
    /// that an interrupt was lost: while anybody waits, it looks.
    @_noLocks mutating func setTimer() {
        guard let context else { return }
        var isBusy = current != nil || reader != nil || readers.oldest != nil
        if case .abandoned = phase { isBusy = true }
        guard isBusy else { return }
        var deadline = context.clock.now() &+ Self.lookInterval
        if let record = readers.oldest, record.pointee.accumulated > 0 {
            let gathered = lastArrival &+ context.policy.gather
            if gathered < deadline { deadline = gathered }
        }
        context.deferred.pointee.setTimer(context.call, deadline)
    }
}
