import CHardware
import Glibc
import PCIBus

/// How long the processors may take to wake (PM QoS): the kernel keeps to a number as long as it stands in
/// `/dev/cpu_dma_latency`.
///
/// The number stands there while files are open that reach the card or wait for it, and a second longer, so that a shell that
/// opens one file after the other does not set it each time.
public final class WakeLatency: @unchecked Sendable {  // guarded by `lock`
    /// Where the kernel takes the number.
    public static let device = "/dev/cpu_dma_latency"

    private static let nanosecondsHeld: UInt64 = 1_000_000_000
    private static let noLimit: Int32 = -1

    private let descriptor: CInt
    private let microseconds: Int32
    private let lock = Lock()
    private var users = 0
    private var isHeld = false
    private var deadline: UInt64?
    private var isEnding = false
    private var thread: Thread?

    /// Opens the device; nothing is asked of the kernel yet. Throws when this user may not, or there is none.
    public init(microseconds: Int32, device: String = WakeLatency.device) throws(Refusal) {
        self.microseconds = microseconds
        descriptor = open(device, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let code = errno
            throw Refusal(
                "the option latency needs \(device): \(errnoMeaning(code))",
                hint: code == ENOENT
                    ? "this kernel has none: leave the option out" : "mount as root, or let the user write it",
                kind: Refusal.Kind(errno: code)
            )
        }
    }

    /// Starts the thread that lets go of the number.
    public func start() throws(Refusal) {
        do throws(BusError) {
            thread = try Thread(starting: "latency") { [unowned self] in self.run() }
        } catch {
            throw Refusal(error.sentence, code: error.code)
        }
    }

    /// Ends the thread and lets go of the number. A second call does nothing.
    public func end() {
        let ending = lock.locked { () -> Thread? in
            isEnding = true
            lock.broadcast()
            defer { thread = nil }
            return thread
        }
        ending?.join()
        lock.locked { if isHeld { release() } }
    }

    deinit {
        end()
        if descriptor >= 0 { close(descriptor) }
        lock.destroy()
    }

    /// A file that counts was opened; the number stands when this returns.
    func opened() {
        lock.locked {
            users += 1
            deadline = nil
            if !isHeld { isHeld = ask(microseconds) }
        }
    }

    /// A file that counts was closed.
    func closed() {
        lock.locked {
            users -= 1
            guard users == 0 else { return }
            deadline = chw_clock_nanoseconds(CLOCK_MONOTONIC) + Self.nanosecondsHeld
            lock.broadcast()
        }
    }

    private func run() {
        lock.lock()
        while !isEnding {
            guard let deadline else {
                lock.wait()
                continue
            }
            if chw_clock_nanoseconds(CLOCK_MONOTONIC) >= deadline {
                self.deadline = nil
                release()
            } else {
                _ = lock.wait(until: deadline)
            }
        }
        lock.unlock()
    }

    private func release() {
        _ = ask(Self.noLimit)
        isHeld = false
    }

    private func ask(_ number: Int32) -> Bool {
        withUnsafeBytes(of: number) { write(descriptor, $0.baseAddress, $0.count) } == MemoryLayout<Int32>.size
    }
}

extension FileKind {
    /// Whether programs reach the card by a file of this kind, or wait for it.
    var concernsCard: Bool {
        switch self {
        case .windowRegister, .register, .resource, .transmit, .receive, .interruptLog: true
        default: false
        }
    }
}
