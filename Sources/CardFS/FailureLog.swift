import CHardware
public import Logging
public import PCIBus

/// The recent failures of the files, which a person reads in `last_error` because a shell shows only the errno.
///
/// Keeps the last 64. Everything here may be called from any thread, but not from the data path: it allocates.
public final class FailureLog: Sendable {
    /// How many failures are kept.
    public static let capacity = 64

    private struct Entry {
        var sequence: UInt64
        var time: UInt64
        var pid: Int32
        var path: String
        var code: CInt
        var sentence: String
    }

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
        var entries: [Entry] = []
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
    ///   - sentence: Why, and what to do. Newlines become blanks.
    public func record(code: CInt, path: String, pid: Int32, sentence: String) {
        let path = Self.oneWord(path)
        let sentence = Self.oneLine(sentence)
        let time = realTime()
        let suppressed: UInt64? = guardian.locked {
            state.count += 1
            if state.entries.count == Self.capacity { state.entries.removeFirst() }
            state.entries.append(
                Entry(sequence: state.count, time: time, pid: pid, path: path, code: code, sentence: sentence)
            )
            return toTell(Kind(path: path, code: code))
        }
        guard let suppressed else { return }
        let more = suppressed == 0 ? "" : " (and \(suppressed) more like it)"
        logger.notice("\(path): \(errnoName(code)): \(sentence), process \(pid)\(more)")
    }

    /// One line for each failure, newest last: `sequence time pid path ERRNO sentence`. Blanks in the path are written as
    /// mountinfo writes them, `\040`, so that fields can be counted.
    public var text: String {
        let entries = guardian.locked { state.entries }
        var text = ""
        for entry in entries {
            text += "\(entry.sequence) \(Self.seconds(entry.time)) \(entry.pid) \(entry.path)"
            text += " \(errnoName(entry.code)) \(entry.sentence)\n"
        }
        return text
    }

    /// Forgets the failures; the sequence goes on.
    public func clear() { guardian.locked { state.entries.removeAll() } }

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

    private static func oneLine(_ text: String) -> String {
        String(
            decoding: text.utf8.map { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") ? 0x20 : $0 },
            as: UTF8.self
        )
    }

    private static func oneWord(_ path: String) -> String {
        var word: [UInt8] = []
        for byte in path.utf8 {
            if byte <= 0x20 || byte == 0x7f || byte == UInt8(ascii: "\\") {
                let digits = String(byte, radix: 8)
                word += Array("\\".utf8) + Array(String(repeating: "0", count: 3 - digits.utf8.count).utf8)
                word += Array(digits.utf8)
            } else {
                word.append(byte)
            }
        }
        return String(decoding: word, as: UTF8.self)
    }
}
