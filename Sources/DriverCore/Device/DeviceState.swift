/// Plug and Play state of a device, by the names Windows gives them.
public enum PnPState: String, Sendable, CaseIterable {
    /// Found, not started.
    case notStarted = "NotStarted"
    /// Working, or suspended with its resources kept.
    case started = "Started"
    /// Asked whether it can stop: nothing new is begun, what the card has is finished.
    case stopPending = "StopPending"
    /// Stopped: its resources are given back, what comes waits for a start.
    case stopped = "Stopped"
    /// About to be taken out of use.
    case removePending = "RemovePending"
    /// It left without notice.
    case surpriseRemoved = "SurpriseRemovePending"
    /// Taken out of use.
    case removed = "Removed"
    /// Could not be started, or not again after a reset.
    case failed = "Failed"
}

/// Device power state.
public enum PowerState: String, Sendable {
    /// Working.
    case d0 = "D0"
    /// Off.
    case d3 = "D3"
}

/// Why a card leaves D0, which decides what becomes of requests and bytes.
public enum Departure: Sendable, CaseIterable {
    /// It does not.
    case none
    /// To be stopped, perhaps to get other resources: requests wait for the start.
    case stop
    /// To sleep: requests wait, and memory with what has been received stays.
    case suspend
    /// To be reset: what is under way ends with an error, what waits goes on waiting.
    case reset
    /// To be taken out of use: every request ends.
    case remove
    /// It is gone already: every request ends.
    case gone
    /// It could not be brought back into D0: every request ends.
    case failed

    /// How requests and bytes end that do not survive it.
    public var status: Status {
        switch self {
        case .remove, .gone: .deviceNotConnected
        case .failed: .ioDeviceError
        default: .requestAborted
        }
    }

    /// Why they do, for the sentence.
    public var cause: FailureCause {
        switch self {
        case .remove: .removed
        case .gone: .gone
        case .failed: .startFailed
        default: .discarded
        }
    }
}
