import CFuse
import CHardware
import DriverCore
import PCIBus
import Synchronization

// Streams, and the way to registers, from the callback to the reply. Nothing here allocates, retains or waits; the compiler checks
// it. What fails is described to the caller, which makes a sentence of it elsewhere.

/// Serves a read of a register or a stream. `info` names the open file, and has the flags it has now.
@_noLocks func hotRead(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ info: UnsafePointer<fuse_file_info>,
    _ size: Int,
    _ offset: Int
) -> HotResult {
    let number = info.pointee.fh
    let handle = mount.pointee.handles.pointee[number]
    if isDead(mount, handle) { return .dead }
    switch handle.pointee.kind {
    case .receive:
        return readStream(request, mount, number, handle, size, requestFlags(info.pointee.flags))
    case .register:
        return readSample(request, mount, number, handle, size, offset, bar: handle.pointee.bar)
    case .windowRegister:
        return readSample(request, mount, number, handle, size, offset, bar: 0)
    case .windowOffset:
        return readSample(request, mount, number, handle, size, offset, bar: -1)
    case .resource:
        return readResource(request, mount, handle, size, offset)
    default:
        return .elsewhere
    }
}

/// Serves a write to a register or a stream. `info` names the open file and who writes, as the kernel will name them at close,
/// and has the flags the file has now, with what pwritev2(2) adds.
@_noLocks func hotWrite(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ info: UnsafePointer<fuse_file_info>,
    _ bytes: UnsafeRawPointer,
    _ size: Int,
    _ offset: Int
) -> HotResult {
    let number = info.pointee.fh
    let handle = mount.pointee.handles.pointee[number]
    if isDead(mount, handle) { return .dead }
    switch handle.pointee.kind {
    case .transmit:
        mount.pointee.handles.pointee.marks(of: number).pointee.noteWriter(info.pointee.lock_owner)
        return writeStream(request, mount, number, handle, bytes, size, requestFlags(info.pointee.flags))
    case .register:
        return writeRegister(
            request,
            mount,
            number,
            handle,
            UnsafeRawBufferPointer(start: bytes, count: size),
            at: offset,
            bar: handle.pointee.bar,
            offset: handle.pointee.offset,
            width: handle.pointee.width
        )
    case .windowRegister:
        let selected = mount.pointee.windowOffset.load(ordering: .relaxed)
        return writeRegister(
            request,
            mount,
            number,
            handle,
            UnsafeRawBufferPointer(start: bytes, count: size),
            at: offset,
            bar: 0,
            offset: mount.pointee.windowStart &+ selected,
            width: .long
        )
    case .windowOffset:
        return writeWindowOffset(request, mount, number, UnsafeRawBufferPointer(start: bytes, count: size), at: offset)
    case .resource:
        let fault = resourceCheck(mount, handle, size, offset)
        guard fault == .none else { return .fault(fault) }
        mount.pointee.counters.registerWrites.wrappingAdd(accessCount(size), ordering: .relaxed)
        let written = mount.pointee.registers.pointee.write(
            bar: handle.pointee.bar,
            offset: UInt64(offset),
            from: bytes,
            byteCount: size
        )
        guard written == .none else { return .fault(written) }
        _ = fuse_reply_write(request, size)
        return .done
    default:
        return .elsewhere
    }
}

/// Starts the wait of fsync and close for what was written through a stream. A close by an `owner` who wrote nothing, such as a
/// child that inherited the file, is told of bytes that were lost and does not wait for the others.
@_noLocks func hotBarrier(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ kind: RequestKind,
    _ owner: UInt64
) -> HotResult {
    let handle = mount.pointee.handles.pointee[number]
    guard case .transmit = handle.pointee.kind, let stream = handle.pointee.stream else { return .elsewhere }
    var flags = RequestFlags(rawValue: 0)
    if case .close = kind, !mount.pointee.handles.pointee.marks(of: number).pointee.mayHaveWritten(owner) {
        flags = .nonblocking
    }
    switch allocate(request, mount, kind, flags, length: 0) {
    case .refused(let result): return result
    case .allocated(let record):
        record.pointee.stream = stream
        submit(request, mount, number, record)
        return .done
    }
}

/// Serves ioctl(2) on `dma/rx`: lends bytes of the receive ring to a program that has mapped it. As many of its oldest loans as
/// it says come back, then it borrows up to what it wants, as a read of as many bytes would get.
@_noLocks func hotControl(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ command: UInt32,
    _ input: UnsafeRawBufferPointer
) -> HotResult {
    let handle = mount.pointee.handles.pointee[number]
    guard case .receive = handle.pointee.kind, command == RingMessage.command, mount.pointee.lendsRing,
        input.count == RingMessage.byteCount, let message = input.baseAddress,
        mount.pointee.mayMapRing(callingUser(request))
    else { return .elsewhere }
    if isDead(mount, handle) { return .dead }
    let wanted = message.loadUnaligned(fromByteOffset: RingMessage.bytes, as: UInt64.self)
    let size = wanted > UInt64(Int.max) ? Int.max : Int(truncatingIfNeeded: wanted)
    mount.pointee.counters.streamReads.wrappingAdd(1, ordering: .relaxed)
    // An ioctl does not carry the file's present flags.
    let flags = RequestFlags(rawValue: requestFlags(handle.pointee.flags).rawValue | RequestFlags.mapped.rawValue)
    switch allocate(request, mount, .read, flags, length: size) {
    case .refused(let result): return result
    case .allocated(let record):
        record.pointee.stream = handle.pointee.stream
        record.pointee.sequence =
            UInt64(message.loadUnaligned(fromByteOffset: RingMessage.release, as: UInt32.self))
        submit(request, mount, number, record)
        return .done
    }
}

/// The file-system user ID of who makes a request.
@_noLocks func callingUser(_ request: fuse_req_t) -> UInt32 {
    fuse_req_ctx(request).unsafelyUnwrapped.pointee.uid
}

private enum Allocation {
    case allocated(UnsafeMutablePointer<RequestRecord>)
    case refused(HotResult)
}

/// A record for a request of a stream, counted for the user who makes it.
@_noLocks private func allocate(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ kind: RequestKind,
    _ flags: RequestFlags,
    length: Int
) -> Allocation {
    let resource = SharedResource.of(kind)
    switch mount.pointee.users.take(resource, callingUser(request)) {
    case .refused(let reach): return .refused(.refused(resource, reach))
    case .taken(let account):
        guard let record = mount.pointee.pool.pointee.allocate(kind, flags: flags, length: length) else {
            mount.pointee.users.give(resource, account)
            return .refused(.failure(.insufficientResources, .outOfBuffers))
        }
        record.pointee.account = UnsafeMutableRawPointer(account)
        record.pointee.countedBuffers = 0
        return .allocated(record)
    }
}

/// Gives a record back, and what is counted for it.
@_noLocks func release(_ mount: UnsafeMutablePointer<MountState>, _ record: UnsafeMutablePointer<RequestRecord>) {
    let account = record.pointee.account?.assumingMemoryBound(to: UserShares.Account.self)
    if record.pointee.countedBuffers > 0 { mount.pointee.users.give(.buffers, account) }
    mount.pointee.users.give(.of(record.pointee.kind), account)
    mount.pointee.pool.pointee.release(record)
}

/// Whether a file leads to a card that was removed after it was opened. Files of the mount itself go on.
@_noLocks private func isDead(
    _ mount: UnsafeMutablePointer<MountState>,
    _ handle: UnsafeMutablePointer<Handle>
) -> Bool {
    guard handle.pointee.removals != mount.pointee.removals.pointee.load(ordering: .relaxed) else { return false }
    switch handle.pointee.kind {
    case .receive, .transmit, .register, .windowRegister, .resource: return true
    default: return false
    }
}

// MARK: - Streams

@_noLocks private func readStream(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ handle: UnsafeMutablePointer<Handle>,
    _ size: Int,
    _ flags: RequestFlags
) -> HotResult {
    mount.pointee.counters.streamReads.wrappingAdd(1, ordering: .relaxed)
    let length = size < PayloadArena.payloadByteCount ? size : PayloadArena.payloadByteCount
    switch allocate(request, mount, .read, flags, length: length) {
    case .refused(let result): return result
    case .allocated(let record):
        record.pointee.stream = handle.pointee.stream
        submit(request, mount, number, record)
        return .done
    }
}

@_noLocks private func writeStream(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ handle: UnsafeMutablePointer<Handle>,
    _ bytes: UnsafeRawPointer,
    _ size: Int,
    _ flags: RequestFlags
) -> HotResult {
    mount.pointee.counters.streamWrites.wrappingAdd(1, ordering: .relaxed)
    if size > mount.pointee.packetLimit.load(ordering: .relaxed) { return .failure(.invalidBufferSize, .packetTooLong) }
    let record: UnsafeMutablePointer<RequestRecord>
    switch allocate(request, mount, .write, flags, length: size) {
    case .refused(let result): return result
    case .allocated(let allocated): record = allocated
    }
    record.pointee.stream = handle.pointee.stream
    let arena = mount.pointee.arena
    if size < mount.pointee.directThreshold, size <= PayloadArena.systemByteCount, !flags.contains(.direct),
        let index = arena.pointee.takeSystemBuffer()
    {
        let buffer = arena.pointee.systemBuffer(index)
        chw_copy(buffer, bytes, size)
        record.pointee.flags = RequestFlags(rawValue: flags.rawValue | RequestFlags.buffered.rawValue)
        record.pointee.payload = buffer
        record.pointee.storage = .systemBuffer
        record.pointee.bufferIndex = index
    } else {
        // The memory the request was received into goes along with it, and the thread goes on with another.
        let account = record.pointee.account?.assumingMemoryBound(to: UserShares.Account.self)
        if case .refused(let reach) = mount.pointee.users.take(.buffers, in: account) {
            release(mount, record)
            return .refused(.buffers, reach)
        }
        record.pointee.countedBuffers = 1
        guard let spare = arena.pointee.takeReceiveBuffer(leaving: mount.pointee.reservedBuffers) else {
            release(mount, record)
            return .failure(.insufficientResources, .outOfBuffers)
        }
        if size < mount.pointee.directThreshold, !flags.contains(.direct) {
            // Copied by wish, and too long for a system buffer.
            let buffer = arena.pointee.payload(spare)
            chw_copy(buffer, bytes, size)
            record.pointee.flags = RequestFlags(rawValue: flags.rawValue | RequestFlags.buffered.rawValue)
            record.pointee.payload = buffer
            record.pointee.storage = .receiveBuffer
            record.pointee.bufferIndex = spare
            submit(request, mount, number, record)
            return .done
        }
        let index = arena.pointee.receiveBuffer(containing: bytes)
        guard let owner = mount.pointee.owners[Int(index)] else {
            arena.pointee.give(.receiveBuffer, spare)
            release(mount, record)
            return .failure(.internalError, .none)
        }
        owner.pointee.replacement = spare
        record.pointee.payload = UnsafeMutableRawPointer(mutating: bytes)
        record.pointee.storage = .receiveBuffer
        record.pointee.bufferIndex = index
    }
    submit(request, mount, number, record)
    return .done
}

@_noLocks private func requestFlags(_ flags: CInt) -> RequestFlags {
    var bits: UInt8 = 0
    if flags & O_NONBLOCK != 0 { bits |= RequestFlags.nonblocking.rawValue }
    // O_SYNC contains the bit of O_DSYNC.
    if flags & O_DSYNC != 0 { bits |= RequestFlags.synchronous.rawValue }
    if flags & CHW_O_DIRECT != 0 { bits |= RequestFlags.direct.rawValue }
    return RequestFlags(rawValue: bits)
}

@_noLocks private func submit(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ record: UnsafeMutablePointer<RequestRecord>
) {
    record.pointee.replyContext = UnsafeMutableRawPointer(request)
    record.pointee.fileNumber = number
    if mount.pointee.trace.pointee.isOn.load(ordering: .relaxed) {
        let caller = fuse_req_ctx(request)
        mount.pointee.trace.pointee.begin(mount.pointee.trace, record, process: caller?.pointee.pid ?? 0)
    }
    guard let entry = mount.pointee.entry else {
        IORequest(taking: record, of: mount.pointee.pool).complete(.deviceNotReady, cause: .notInD0)
        return
    }
    // A synchronous write waits for the card, also a nonblocking one.
    if !record.pointee.flags.contains(.nonblocking) || record.pointee.flags.contains(.synchronous) {
        // Before the driver has it: afterwards the request may be gone. A signal that comes first is found by the driver.
        let cookie = UnsafeMutableRawPointer(bitPattern: UInt(record.pointee.cookie()))
        cfuse_on_interrupt(request, cancelRequest, cookie)
    }
    RequestRecord.note(record, .dispatched)
    chw_entry_submit(entry, record)
}
