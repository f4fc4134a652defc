import CFuse
import CHardware
import Glibc
import PCIBus

/// A look at a file that may be on a mount whose daemon does not answer.
public enum BoundedStat {
    /// What came of it.
    public enum Outcome: Hashable, Sendable {
        /// There is such a file.
        case found(isDirectory: Bool)
        /// There is none, or it cannot be reached: the errno.
        case failed(CInt)
        /// Nobody answered in time. The thread that asked goes on waiting until the process ends.
        case noAnswer
    }

    /// Asks for a file's attributes and waits at most `seconds`. Not for a daemon's own mount. Throws when there is no thread to
    /// ask with.
    public static func look(at path: String, seconds: Int) throws(Refusal) -> Outcome {
        final class Answer: Sendable {
            let lock = Lock()
            nonisolated(unsafe) var outcome: Outcome?  // only with `lock` held

            deinit { lock.destroy() }
        }
        let answer = Answer()
        let deadline = chw_clock_nanoseconds(CLOCK_MONOTONIC) + UInt64(seconds) * 1_000_000_000
        let ask: @Sendable () -> Void = {
            // The kernel remembers attributes for an hour, also those of a mount whose daemon is dead or hangs.
            var mode: UInt32 = 0
            let code = chw_type_now(path, &mode)
            let outcome: Outcome = code == 0 ? .found(isDirectory: mode & S_IFMT == S_IFDIR) : .failed(code)
            answer.lock.locked {
                answer.outcome = outcome
                answer.lock.signal()
            }
        }
        do throws(BusError) {
            try Thread(starting: "stat", ask).detach()
        } catch {
            throw Refusal(error.sentence, code: error.code)
        }
        return answer.lock.locked {
            while answer.outcome == nil, answer.lock.wait(until: deadline) {}
            return answer.outcome ?? .noAnswer
        }
    }
}
