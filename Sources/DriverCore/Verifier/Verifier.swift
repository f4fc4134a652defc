import PCIBus
import Synchronization

/// Watches how a driver uses the framework, as Driver Verifier does, and tells of each misuse once it is refused.
///
/// Any thread. While it is off, nothing is noted; the refusals are the same. One serves the process, which has one card.
public final class Verifier: @unchecked Sendable {  // what changes is guarded by `lock`, or atomic
    /// A misuse that was found.
    public struct Finding: Sendable {
        /// What was done.
        public var misuse: Misuse
        /// The refusal, for a person.
        public var sentence: String
        /// How often.
        public var count: UInt64
    }

    /// The one of the process.
    public static let shared = Verifier()

    /// The one that a test listens to in its own task.
    @TaskLocal public static var scoped: Verifier?

    private let lock = Lock()
    private var found: [Misuse: Finding] = [:]
    private var tell: (@Sendable (Finding) -> Void)?
    private let isOn = Atomic<Bool>(false)

    /// Makes one that is off.
    public init() {}

    deinit { lock.destroy() }

    /// Switches it on; `tell` hears of each misuse, on the thread that did it.
    public func start(_ tell: (@Sendable (Finding) -> Void)? = nil) {
        lock.locked { self.tell = tell }
        isOn.store(true, ordering: .releasing)
    }

    /// Switches it off; what was found stays.
    public func stop() {
        isOn.store(false, ordering: .releasing)
        lock.locked { tell = nil }
    }

    /// Whether it is on.
    public var isRunning: Bool { isOn.load(ordering: .acquiring) }

    /// Whether somebody checks in this task or in this process: what costs time is checked only then.
    static var isChecking: Bool { (scoped ?? shared).isRunning }

    /// What was found, by code.
    public var findings: [Finding] {
        lock.locked { Misuse.allCases.compactMap { found[$0] } }
    }

    /// Notes a misuse. Not for the data path: it allocates.
    static func note(_ misuse: Misuse, _ sentence: @autoclosure () -> String) {
        let verifier = scoped ?? shared
        guard verifier.isRunning else { return }
        verifier.add(misuse, sentence())
    }

    private func add(_ misuse: Misuse, _ sentence: String) {
        let (finding, tell) = lock.locked {
            var finding = found[misuse] ?? Finding(misuse: misuse, sentence: sentence, count: 0)
            finding.count += 1
            finding.sentence = sentence
            found[misuse] = finding
            return (finding, self.tell)
        }
        tell?(finding)
    }
}

extension Verifier {
    /// For a driver that learns of something the framework does not see, such as a fault its card reports.
    public static func report(_ misuse: Misuse, _ sentence: String) { note(misuse, sentence) }
}

extension StatusError {
    /// The refusal of a misuse, which the verifier is told of.
    init(_ status: Status, _ sentence: String, misuse: Misuse) {
        self.init(status, sentence)
        Verifier.note(misuse, sentence)
    }
}
