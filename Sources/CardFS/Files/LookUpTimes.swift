import Glibc
import PCIBus

/// When each node of the tree was looked up last: what its file says is of then. Number 0 is all of `regs/0x…`.
final class LookUpTimes: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var times: [timespec]

    init(_ count: Int, _ time: timespec) { times = [timespec](repeating: time, count: count) }

    deinit { lock.destroy() }

    subscript(_ node: Int) -> timespec { lock.locked { times[node] } }

    func set(_ node: Int, _ time: timespec) { lock.locked { times[node] = time } }
}
