import DriverCore
import PCIBus

/// The commands of `ctl`, in the order in which they are listed.
enum Command: String, CaseIterable {
    case flush
    case reset
    case stop
    case start
    case suspend
    case resume
    case reload
    case remove

    /// One line on what it does.
    var summary: String {
        switch self {
        case .flush: "discard what has not been read, abort what has not been sent"
        case .reset: "function level reset; what was under way ends with an error"
        case .stop: "let the card finish, give its resources back; requests wait for start"
        case .start: "take the card's resources and bring it into D0, also one that was removed and is back"
        case .suspend: "let the card finish and sleep in D3hot; requests wait for resume"
        case .resume: "bring a sleeping card into D0"
        case .reload: "stop, wait until the card has been reprogrammed, restore its configuration, start"
        case .remove: "take the card out of use; every request ends with ENODEV, the mount stays"
        }
    }

    /// Carries the command out. Passive level; may take seconds.
    func run(_ device: Device, _ cancellation: Cancellation) throws(StatusError) {
        switch self {
        case .flush:
            guard device.state.power == .d0, let dma = device.dma else {
                throw StatusError(.deviceNotReady, "\(device.function.address) is not in D0: nothing to flush")
            }
            dma.flush()
        case .reset: try device.reset()
        case .stop: try device.stop(cancellation)
        case .start: try device.start()
        case .suspend: try device.suspend(cancellation)
        case .resume: try device.resume()
        case .reload: try device.reload(cancellation)
        case .remove: try device.remove()
        }
    }
}
