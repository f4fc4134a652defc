import CHardware
import Glibc
import PCIBus

/// The place of a simulated card in this machine, which one process has at a time, whoever runs it.
///
/// It is a name among the abstract names of Unix sockets: nothing stays behind in a file system, and the kernel gives it back
/// however the process ends.
struct Slot: Sendable {
    private let descriptor: CInt

    /// Takes the place; nil when another card sits there. Throws when the host gives no socket.
    static func take(_ address: PCIAddress) throws(BusError) -> Slot? {
        let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else {
            throw BusError(errno, "the host gives no socket to hold the place of a simulated card")
        }
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let text = Array("\0cardfs/sim/\(address)".utf8)
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: text) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + text.count)
        let result = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        if result == 0 { return Slot(descriptor: descriptor) }
        let code = errno
        close(descriptor)
        if code == EADDRINUSE { return nil }
        throw BusError(code, "the place \(address) of a simulated card cannot be taken")
    }

    /// Gives the place back.
    func leave() { close(descriptor) }
}
