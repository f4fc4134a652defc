import CHardware
import DriverCore

/// The crossing from the file layer: sorts requests to the two channels.
struct SpaceWireEntry {
    let transmit: TransmitPort
    let receive: ReceivePort

    /// The table of entry points for the record at `entry`.
    static func table(_ entry: UnsafeMutablePointer<SpaceWireEntry>) -> chw_entry_points {
        chw_entry_points(
            context: UnsafeMutableRawPointer(entry),
            submit: { submitRequest($0, $1) },
            withdraw: { withdrawRequest($0, $1) },
            readiness: { readiness($0, $1) }
        )
    }
}

@_noLocks private func submitRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let entry = context.assumingMemoryBound(to: SpaceWireEntry.self)
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    switch record.pointee.kind {
    case .read: entry.pointee.receive.perform { $0.submit(record) }
    case .write, .barrier, .close: entry.pointee.transmit.perform { $0.submit(record) }
    }
}

@_noLocks private func withdrawRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let entry = context.assumingMemoryBound(to: SpaceWireEntry.self)
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    switch record.pointee.kind {
    case .read: entry.pointee.receive.perform { $0.withdraw(record) }
    case .write, .barrier, .close: entry.pointee.transmit.perform { $0.withdraw(record) }
    }
}

@_noLocks private func readiness(_ context: UnsafeMutableRawPointer, _ direction: UInt32) -> UInt32 {
    let entry = context.assumingMemoryBound(to: SpaceWireEntry.self)
    var isReady = false
    if direction == 0 {
        entry.pointee.transmit.perform { isReady = $0.isWritable() }
        return isReady ? UInt32(POLLOUT) | UInt32(POLLWRNORM) : 0
    }
    entry.pointee.receive.perform { isReady = $0.isReadable() }
    return isReady ? UInt32(POLLIN) | UInt32(POLLRDNORM) : 0
}
