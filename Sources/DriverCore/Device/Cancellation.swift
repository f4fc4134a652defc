import Synchronization

/// Lets whoever asked for something that takes time take it back. Any thread.
public final class Cancellation: Sendable {
    private let word = Atomic<Bool>(false)

    /// Nothing was taken back yet.
    public init() {}

    /// Takes it back. What was begun ends as soon as it can leave everything in order.
    public func cancel() { word.store(true, ordering: .releasing) }

    /// Whether it was taken back.
    public var isCancelled: Bool { word.load(ordering: .acquiring) }
}
