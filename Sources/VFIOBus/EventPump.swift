import CHardware
import Glibc
import PCIBus

/// A thread that waits for eventfds and tells which one counted how far.
///
/// The descriptors are the pump's: it makes them, and closes them when it ends.
final class EventPump: @unchecked Sendable {  // the descriptors are fixed; the thread is touched by the owner alone
    /// One eventfd for each source.
    let descriptors: [CInt]
    private let ending: CInt
    private var thread: Thread?

    /// Makes `count` eventfds; the thread starts with ``start(name:_:)``. Throws EMFILE and its like.
    init(count: Int) throws(BusError) {
        var made: [CInt] = []
        for _ in 0...count {
            let descriptor = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
            guard descriptor >= 0 else {
                let code = errno
                for other in made { close(other) }
                throw BusError(
                    code,
                    "\(count + 1) event descriptors are needed and the process may not have as many: raise it with ulimit -n"
                )
            }
            made.append(descriptor)
        }
        ending = made.removeLast()
        descriptors = made
    }

    /// Starts the thread. `body` is called on it with the number of a source and what it counted since the last call.
    /// Throws when the host gives no thread.
    func start(name: String, _ body: @escaping @Sendable (Int, UInt64) -> Void) throws(BusError) {
        let descriptors = descriptors
        let ending = ending
        thread = try Thread(starting: name) { Self.run(descriptors, ending, body) }
    }

    /// Waits on the thread of the pump, at most `milliseconds`; not longer once the pump is to end.
    func pause(milliseconds: CInt) {
        var poller = pollfd(fd: ending, events: Int16(POLLIN), revents: 0)
        _ = poll(&poller, 1, milliseconds)
    }

    /// Ends the thread: no call of the body is running or will come when this returns. Not to be called by the body.
    func stop() {
        chw_eventfd_signal(ending)
        thread?.join()
        thread = nil
    }

    deinit {
        stop()
        for descriptor in descriptors { close(descriptor) }
        close(ending)
    }

    private static func run(_ descriptors: [CInt], _ ending: CInt, _ body: (Int, UInt64) -> Void) {
        // Fixed memory, since the loop is how an interrupt comes in: nothing is allocated in it.
        let count = descriptors.count
        let pollers = UnsafeMutablePointer<pollfd>.allocate(capacity: count + 1)
        defer { pollers.deallocate() }
        for index in 0..<count { pollers[index] = pollfd(fd: descriptors[index], events: Int16(POLLIN), revents: 0) }
        pollers[count] = pollfd(fd: ending, events: Int16(POLLIN), revents: 0)
        while true {
            guard poll(pollers, nfds_t(count + 1), -1) > 0 else { continue }
            if pollers[count].revents != 0 { return }
            for index in 0..<count where pollers[index].revents != 0 {
                var counted: UInt64 = 0
                guard read(pollers[index].fd, &counted, 8) == 8 else { continue }
                body(index, counted)
            }
        }
    }
}
