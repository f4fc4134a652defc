import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

// The end of a request: the driver has decided, and the caller is told.

/// The completion routine of a mount's request pool. Any thread of the device, no lock held.
func completeRequest(_ context: UnsafeMutableRawPointer, _ request: UnsafeMutableRawPointer) {
    let mount = context.assumingMemoryBound(to: MountState.self)
    let record = request.assumingMemoryBound(to: RequestRecord.self)
    if endedShort(record),
        mount.pointee.handles.pointee.marks(of: record.pointee.fileNumber).pointee.isPolled
            .load(ordering: .relaxed)
    {
        // Before the reply: afterwards the file may be closed.
        let number = record.pointee.fileNumber
        mount.pointee.fileSystem?._withUnsafeGuaranteedRef { $0.armAgain(number) }
    }
    if record.pointee.flags.contains(.mapped), record.pointee.status.isSuccess,
        let request = OpaquePointer(record.pointee.replyContext)
    {
        replyPlaces(request, record)
    } else if !replyHot(mount, record) {
        // Told before the reply, so that whoever sees the errno finds the sentence.
        let caller = OpaquePointer(record.pointee.replyContext)
        let status = record.pointee.status
        mount.pointee.fileSystem?._withUnsafeGuaranteedRef { fileSystem in
            fileSystem.failRequest(caller, record, status)
        }
    }
    mount.pointee.arena.pointee.give(record.pointee.storage, record.pointee.bufferIndex)
    release(mount, record)
}

/// Whether a read or write got less than it asked for, so that who polls its file waits for more.
@_noLocks private func endedShort(_ record: UnsafeMutablePointer<RequestRecord>) -> Bool {
    guard record.pointee.status.isSuccess else {
        if case .wouldBlock = record.pointee.cause { return true }
        return false
    }
    return record.pointee.information < record.pointee.length
}

/// Answers a request that went well, straight from the memory the card wrote. False for a failure.
@_noLocks private func replyHot(
    _ mount: UnsafeMutablePointer<MountState>,
    _ record: UnsafeMutablePointer<RequestRecord>
) -> Bool {
    guard record.pointee.status.isSuccess, let request = OpaquePointer(record.pointee.replyContext) else {
        return false
    }
    switch record.pointee.kind {
    case .write:
        _ = fuse_reply_write(request, record.pointee.information)
    case .read:
        if record.pointee.segmentCount == 1 {
            let segment = record.pointee.segments[0]
            _ = cfuse_reply_bytes(request, segment.iov_base.unsafelyUnwrapped, segment.iov_len)
        } else {
            _ = fuse_reply_iov(request, record.pointee.segments, CInt(truncatingIfNeeded: record.pointee.segmentCount))
        }
    case .barrier, .close:
        _ = fuse_reply_err(request, 0)
    }
    return true
}

/// Answers a mapped read with where its bytes lie in the ring. (The message is on the stack, for which the compiler's check has
/// no word.)
private func replyPlaces(
    _ request: fuse_req_t,
    _ record: UnsafeMutablePointer<RequestRecord>
) {
    withUnsafeTemporaryAllocation(byteCount: RingMessage.byteCount, alignment: 8) { bytes in
        guard let message = bytes.baseAddress else { return }
        memset(message, 0, RingMessage.byteCount)
        message.storeBytes(
            of: UInt32(truncatingIfNeeded: record.pointee.segmentCount),
            toByteOffset: RingMessage.count,
            as: UInt32.self
        )
        message.storeBytes(
            of: UInt64(truncatingIfNeeded: record.pointee.information),
            toByteOffset: RingMessage.bytes,
            as: UInt64.self
        )
        message.storeBytes(
            of: UInt32(truncatingIfNeeded: record.pointee.sequence),
            toByteOffset: RingMessage.end,
            as: UInt32.self
        )
        var index = 0
        while index < record.pointee.segmentCount {
            let segment = record.pointee.segments[index]
            let place = UInt(bitPattern: segment.iov_base)
            let entry = RingMessage.pieces &+ index &* 8
            message.storeBytes(of: UInt32(truncatingIfNeeded: place), toByteOffset: entry, as: UInt32.self)
            message.storeBytes(
                of: UInt32(truncatingIfNeeded: segment.iov_len),
                toByteOffset: entry &+ 4,
                as: UInt32.self
            )
            index &+= 1
        }
        _ = cfuse_reply_control(request, message, RingMessage.byteCount)
    }
}

/// The caller of a request got a signal. Called by libfuse on a receive thread, perhaps more than once, perhaps when the
/// request has ended.
func cancelRequest(_ request: fuse_req_t?, _ data: UnsafeMutableRawPointer?) {
    guard let request, let context = fuse_req_userdata(request) else { return }
    let mount = context.assumingMemoryBound(to: MountState.self)
    let cookie = UInt64(UInt(bitPattern: data))
    guard case .claimed = mount.pointee.pool.pointee.cancel(cookie), let entry = mount.pointee.entry else { return }
    let record = mount.pointee.pool.pointee.record(at: cookie)
    endEarly(entry, record, .cancelled, .interrupted)
}

/// Has the driver end a request that was claimed: with the bytes it has got so far, which the driver counts, or with the failure.
func endEarly(
    _ entry: UnsafePointer<chw_entry_points>,
    _ record: UnsafeMutablePointer<RequestRecord>,
    _ status: Status,
    _ cause: FailureCause
) {
    record.pointee.status = status
    record.pointee.cause = cause
    chw_entry_withdraw(entry, record)
}
