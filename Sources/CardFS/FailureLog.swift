import CHardware
public import Logging
public import PCIBus

/// The recent failures of the files, which a person reads in `last_error` because a shell shows only the errno.
///
/// Keeps the last 64, as the end of all that was ever written: readers name positions in that, so that one that follows the log
/// misses nothing. Everything here may be called from any thread, but not from the data path: it allocates.
public final class FailureLog: Sendable {
    /// How many failures are kept.
    public static let capacity = 64

    /// The most bytes of a sentence.
    public static let sentenceLimit = 400

    /// What the system log was told of a path and an errno.
    private struct Told {
        var time: UInt64
        var suppressed: UInt64
    }

    private struct Kind: Hashable {
        var path: String
        var code: CInt
    }

    private struct State {
        /// The lines that are kept, each with its newline.
        var lines: [[UInt8]] = []
        /// The position of the first of them, and the one behind the last.
        var start: UInt64 = 0
        var end: UInt64 = 0
        var count: UInt64 = 0
        var told: [Kind: Told] = [:]
    }

    private let guardian = Lock()
    private nonisolated(unsafe) var state = State()  // only with `guardian` held
    private let logger: Logger
    private let clock: Clock
    private let realTime: @Sendable () -> UInt64

    /// Makes an empty log.
    ///
    /// - Parameters:
    ///   - logger: Told of each failure at level notice, of the same path and errno at most once a second.
    ///   - clock: Measures that second. It outlives the log.
    ///   - realTime: Nanoseconds since 1970, which the entries carry; nil for CLOCK_REALTIME.
    public init(logger: Logger, clock: Clock, realTime: (@Sendable () -> UInt64)? = nil) {
        self.logger = logger
        self.clock = clock
        self.realTime = realTime ?? { chw_clock_nanoseconds(CLOCK_REALTIME) }
    }

    deinit { guardian.destroy() }

    /// Failures so far, the forgotten ones too.
    public var count: UInt64 { guardian.locked { state.count } }

    /// Notes a failure.
    ///
    /// - Parameters:
    ///   - code: The errno the caller got.
    ///   - path: The file below the mount point, without a leading slash.
    ///   - pid: Who asked; 0 when that is not known.
    ///   - sentence: Why, and what to do. What is longer than ``sentenceLimit`` is cut.
    public func record(code: CInt, path: String, pid: Int32, sentence: String) {
        let path = QuotedText.field(path)
        let sentence = Self.short(QuotedText.line(sentence))
        let time = realTime()
        let suppressed: UInt64? = guardian.locked {
            state.count += 1
            if state.lines.count == Self.capacity { state.start += UInt64(state.lines.removeFirst().count) }
            let line = Array(
                "\(state.count) \(Self.seconds(time)) \(pid) \(path) \(errnoName(code)) \(sentence)\n".utf8
            )
            state.lines.append(line)
            state.end += UInt64(line.count)
            return toTell(Kind(path: path, code: code))
        }
        guard let suppressed else { return }
        let more = suppressed == 0 ? "" : " (and \(suppressed) more like it)"
        logger.notice("\(path): \(errnoName(code)): \(sentence), process \(pid)\(more)")
    }

    /// One line for each failure, newest last: `sequence time pid path ERRNO sentence`. Blanks in the path are written as
    /// mountinfo writes them, `\040`, so that fields can be counted.
    public var text: String {
        var position: UInt64 = 0
        return String(decoding: read(at: &position, .max), as: UTF8.self)
    }

    /// The position behind the last line: how many bytes were ever written.
    public var end: UInt64 { guardian.locked { state.end } }

    /// At most `count` bytes from a position on; none at the end. A position whose bytes were dropped moves to the first that is
    /// kept.
    public func read(at position: inout UInt64, _ count: Int) -> [UInt8] {
        guardian.locked {
            position = max(position, state.start)
            guard position < state.end, count > 0 else { return [] }
            var skipped = position - state.start
            var bytes: [UInt8] = []
            for line in state.lines where bytes.count < count {
                if skipped >= UInt64(line.count) {
                    skipped -= UInt64(line.count)
                    continue
                }
                bytes += line.dropFirst(Int(skipped)).prefix(count - bytes.count)
                skipped = 0
            }
            return bytes
        }
    }

    /// Forgets the failures; sequence and positions go on.
    public func clear() {
        guardian.locked {
            state.lines.removeAll()
            state.start = state.end
        }
    }

    /// How many of a kind were not told since the last one that was; nil when this one shall not be told either.
    private func toTell(_ kind: Kind) -> UInt64? {
        let now = clock.now()
        if let told = state.told[kind], now &- told.time < 1_000_000_000 {
            state.told[kind]?.suppressed += 1
            return nil
        }
        let suppressed = state.told[kind]?.suppressed ?? 0
        state.told[kind] = Told(time: now, suppressed: 0)
        // Whoever walks over names that do not exist must not make the daemon grow.
        if state.told.count > Self.capacity {
            state.told = state.told.filter { now &- $0.value.time < 1_000_000_000 }
            if state.told.count > Self.capacity { state.told = [kind: Told(time: now, suppressed: 0)] }
        }
        return suppressed
    }

    private static func seconds(_ nanoseconds: UInt64) -> String {
        let fraction = String(nanoseconds % 1_000_000_000)
        return "\(nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 9 - fraction.utf8.count) + fraction
    }

    private static func short(_ sentence: String) -> String {
        guard sentence.utf8.count > sentenceLimit else { return sentence }
        var kept = sentence
        while kept.utf8.count > sentenceLimit { kept.unicodeScalars.removeLast() }
        return kept + "..."
    }
}
