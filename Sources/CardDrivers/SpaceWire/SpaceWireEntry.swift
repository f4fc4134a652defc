import CHardware
import DriverCore

/// The crossing from the file layer: sorts requests to the two channels.
struct SpaceWireEntry {
    let transmit: UnsafeMutablePointer<TransmitChannel>
    let receive: UnsafeMutablePointer<ReceiveChannel>

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
    case .read: ReceiveChannel.perform(entry.pointee.receive) { $0.submit(record) }
    case .write, .barrier, .close: TransmitChannel.perform(entry.pointee.transmit) { $0.submit(record) }
    }
}

@_noLocks private func withdrawRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let entry = context.assumingMemoryBound(to: SpaceWireEntry.self)
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    switch record.pointee.kind {
    case .read: ReceiveChannel.perform(entry.pointee.receive) { $0.withdraw(record) }
    case .write, .barrier, .close: TransmitChannel.perform(entry.pointee.transmit) { $0.withdraw(record) }
    }
}

@_noLocks private func readiness(_ context: UnsafeMutableRawPointer, _ direction: UInt32) -> UInt32 {
    let entry = context.assumingMemoryBound(to: SpaceWireEntry.self)
    var isReady = false
    if direction == 0 {
        TransmitChannel.perform(entry.pointee.transmit) { isReady = $0.isWritable() }
        return isReady ? UInt32(POLLOUT) | UInt32(POLLWRNORM) : 0
    }
    ReceiveChannel.perform(entry.pointee.receive) { isReady = $0.isReadable() }
    return isReady ? UInt32(POLLIN) | UInt32(POLLRDNORM) : 0
}
