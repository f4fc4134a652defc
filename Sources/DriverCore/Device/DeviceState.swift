/// Plug and Play state of a device, by the names Windows gives them.
public enum PnPState: String, Sendable {
    /// Found, not started.
    case notStarted = "NotStarted"
    /// Working.
    case started = "Started"
    /// Could not be started, or not again after a reset.
    case failed = "Failed"
    /// It left without notice.
    case surpriseRemoved = "SurpriseRemovePending"
    /// Taken out of use.
    case removed = "Removed"
}

/// Device power state.
public enum PowerState: String, Sendable {
    /// Working.
    case d0 = "D0"
    /// Off.
    case d3 = "D3"
}
