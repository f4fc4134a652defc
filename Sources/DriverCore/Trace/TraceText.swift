import CHardware
import PCIBus

extension RequestTrace.Entry {
    /// One line: `time #request step what`, where the first six steps are numbered as they follow each other.
    ///
    /// `driver` names the driver and its card.
    public func line(driver: String) -> String {
        let fraction = String(time % 1_000_000_000)
        let padding = String(repeating: "0", count: 9 - fraction.utf8.count)
        return "\(time / 1_000_000_000).\(padding)\(fraction) #\(request) \(step.rawValue) \(what(driver))\n"
    }

    private func what(_ driver: String) -> String {
        switch step {
        case .called:
            let process = " pid \(Int32(bitPattern: UInt32(truncatingIfNeeded: detail)))"
            switch kind {
            case .read: return "read(2) of dma/rx, \(count) bytes," + process
            case .write: return "write(2) to dma/tx, \(count) bytes," + process
            case .barrier: return "fsync(2) of dma/tx," + process
            case .close: return "close(2) of dma/tx," + process
            }
        case .received: return "the kernel passes it on as " + kernelName
        case .packet: return "\(packetName) is made, \(method)"
        case .dispatched: return "dispatched to \(driver)"
        case .queued: return "queued, \(count) before it"
        case .handled: return "the queue gives it to \(handlerName)"
        case .completed:
            return "completed with \(Status(rawValue: UInt32(truncatingIfNeeded: detail)).name), \(count) bytes"
        }
    }

    private var kernelName: String {
        switch kind {
        case .read: "FUSE_READ"
        case .write: "FUSE_WRITE"
        case .barrier: "FUSE_FSYNC"
        case .close: "FUSE_FLUSH"
        }
    }

    private var packetName: String {
        switch kind {
        case .read: "IRP_MJ_READ"
        case .write: "IRP_MJ_WRITE"
        case .barrier: "IRP_MJ_FLUSH_BUFFERS"
        case .close: "IRP_MJ_CLEANUP"
        }
    }

    private var method: String {
        let flags = RequestFlags(rawValue: UInt8(truncatingIfNeeded: detail))
        var words = [kind == .write ? flags.contains(.buffered) ? "buffered" : "direct" : "no data yet"]
        if flags.contains(.nonblocking) { words.append("nonblocking") }
        if flags.contains(.synchronous) { words.append("synchronous") }
        return words.joined(separator: ", ")
    }

    private var handlerName: String {
        switch kind {
        case .read: "EvtIoRead"
        case .write: "EvtIoWrite"
        default: "the driver"
        }
    }
}
