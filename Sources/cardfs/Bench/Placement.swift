import CHardware
import CardFS
import Glibc

/// On which processors the benchmark and the daemon run.
enum Placement: String, CaseIterable, Sendable {
    /// Where the scheduler puts them.
    case free
    /// Both on one processor.
    case same
    /// Each on one of its own.
    case other

    var words: String {
        switch self {
        case .free: "free"
        case .same: "same core"
        case .other: "other core"
        }
    }

    /// Runs `body` with both processes placed, and lets them go where they were before.
    func place<Result>(daemon: pid_t, _ body: () throws -> Result) throws -> Result {
        let here = Affinity(of: 0)
        let there = Affinity.threads(of: daemon).map { ($0, Affinity(of: $0)) }
        if self != .free {
            let processors = here.processors
            guard let first = processors.first, self == .same || processors.count > 1 else {
                throw Refusal(
                    "this machine has one processor only: there is no other core",
                    hint: "--placement same",
                    kind: .unavailable
                )
            }
            try Affinity([first]).apply(to: 0)
            // Every thread: those of the file system, of the driver, and of a simulated card.
            let target = Affinity([self == .same ? first : processors[1]])
            for (thread, _) in there { try target.apply(to: thread) }
        }
        defer {
            if self != .free {
                try? here.apply(to: 0)
                for (thread, old) in there { try? old.apply(to: thread) }
            }
        }
        return try body()
    }
}

/// The processors a thread may run on (sched_setaffinity(2)).
private struct Affinity {
    /// A bit for each processor; the kernel takes any length.
    private var bits = [UInt8](repeating: 0, count: 1024)

    init(_ processors: [Int]) {
        for processor in processors { bits[processor / 8] |= 1 << UInt8(processor % 8) }
    }

    /// Those of a thread; 0 is the calling one.
    init(of thread: pid_t) {
        _ = bits.withUnsafeMutableBytes { chw_get_processors(thread, $0.baseAddress!, $0.count) }
    }

    var processors: [Int] { (0..<bits.count * 8).filter { bits[$0 / 8] & 1 << UInt8($0 % 8) != 0 } }

    func apply(to thread: pid_t) throws(Refusal) {
        let code = bits.withUnsafeBytes { chw_set_processors(thread, $0.baseAddress!, $0.count) }
        // A thread that has ended meanwhile needs no place.
        guard code != 0, code != ESRCH else { return }
        throw Refusal(
            "the processors of thread \(thread) cannot be set: \(errnoMeaning(code))",
            hint: "run as the user who mounted, or with --placement free",
            kind: Refusal.Kind(errno: code)
        )
    }

    static func threads(of process: pid_t) -> [pid_t] {
        (SystemFile.list("/proc/\(process)/task") ?? []).compactMap { pid_t($0) }
    }
}
