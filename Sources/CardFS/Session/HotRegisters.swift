import CFuse
import DriverCore
import PCIBus
import Synchronization

// Registers, from the callback to the reply: what ``hotRead(_:_:_:_:_:)`` and ``hotWrite(_:_:_:_:_:)`` come to. Nothing here
// allocates, retains or waits; the compiler checks it.

/// Reads a register, or the offset where `bar` is -1, as text: the read at offset 0 is one bus access, and reads further on
/// are served from what it found.
@_noLocks func readSample(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ handle: UnsafeMutablePointer<Handle>,
    _ size: Int,
    _ offset: Int,
    bar: Int
) -> HotResult {
    var text: (UInt64, UInt64, UInt64) = (0, 0, 0)
    var length = 0
    let lock = mount.pointee.handles.pointee.lock(for: number)
    if offset > 0, handle.pointee.sampleLength > 0 {
        lock.lock()
        text = handle.pointee.sample
        length = handle.pointee.sampleLength
        lock.unlock()
    } else {
        var value: UInt64 = 0
        var width = AccessWidth.long
        if bar < 0 {
            value = mount.pointee.windowOffset.load(ordering: .relaxed)
        } else {
            var isWindow = false
            if case .windowRegister = handle.pointee.kind { isWindow = true }
            let place =
                isWindow
                ? mount.pointee.windowStart &+ mount.pointee.windowOffset.load(ordering: .relaxed)
                : handle.pointee.offset
            width = isWindow ? .long : handle.pointee.width
            mount.pointee.counters.registerReads.wrappingAdd(1, ordering: .relaxed)
            let fault = mount.pointee.registers.pointee.read(bar: bar, offset: place, width: width, into: &value)
            guard fault == .none else { return .fault(fault) }
        }
        withUnsafeMutableBytes(of: &text) { bytes in
            length = HexFormat.hexadecimal(
                value,
                digits: 2 &* Int(width.rawValue),
                newline: true,
                into: bytes
            )
        }
        lock.lock()
        handle.pointee.sample = text
        handle.pointee.sampleLength = length
        lock.unlock()
    }
    let start = offset < length ? offset : length
    let count = size < length &- start ? size : length &- start
    withUnsafeBytes(of: &text) { bytes in
        _ = cfuse_reply_bytes(request, bytes.baseAddress.unsafelyUnwrapped + start, count)
    }
    return .done
}

@_noLocks func writeRegister(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ handle: UnsafeMutablePointer<Handle>,
    _ bytes: UnsafeRawBufferPointer,
    at position: Int,
    bar: Int,
    offset: UInt64,
    width: AccessWidth
) -> HotResult {
    let isWhole = isWhole(handle, position, bytes)
    if !isWhole {
        switch mount.pointee.handles.pointee.place(of: number, position, bytes) {
        case .isLine: break
        case .isPiece: return .piece
        case .isEndOfLine:
            _ = fuse_reply_write(request, bytes.count)
            return .done
        }
    }
    mount.pointee.counters.registerWrites.wrappingAdd(1, ordering: .relaxed)
    let limit = width == .quad ? UInt64.max : (1 &<< (UInt64(width.rawValue) &* 8)) &- 1
    var fault = RegisterFault.none
    switch Number.parseStore(bytes, limit: limit) {
    case .failure(.empty):
        break
    case .failure(let failure):
        return .number(failure)
    case .value(let value):
        fault = mount.pointee.registers.pointee.write(bar: bar, offset: offset, width: width, value)
    case .masked(let data, let mask):
        fault = mount.pointee.registers.pointee.modify(bar: bar, offset: offset, width: width, data, mask: mask)
    }
    guard fault == .none else { return .fault(fault) }
    if !isWhole { mount.pointee.handles.pointee.accepted(number, position, bytes) }
    _ = fuse_reply_write(request, bytes.count)
    return .done
}

@_noLocks func writeWindowOffset(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ number: UInt64,
    _ bytes: UnsafeRawBufferPointer,
    at position: Int
) -> HotResult {
    switch mount.pointee.handles.pointee.place(of: number, position, bytes) {
    case .isLine: break
    case .isPiece: return .piece
    case .isEndOfLine:
        _ = fuse_reply_write(request, bytes.count)
        return .done
    }
    switch Number.parse(bytes) {
    case .failure(.empty):
        break
    case .failure(let failure):
        return .number(failure)
    case .value(let value):
        guard value & 3 == 0 else { return .fault(.misaligned) }
        guard value <= mount.pointee.windowByteCount &- 4 else { return .outsideWindow }
        mount.pointee.windowOffset.store(value, ordering: .relaxed)
        mount.pointee.handles.pointee.accepted(number, position, bytes)
    }
    _ = fuse_reply_write(request, bytes.count)
    return .done
}

@_noLocks func resourceCheck(
    _ mount: UnsafeMutablePointer<MountState>,
    _ handle: UnsafeMutablePointer<Handle>,
    _ size: Int,
    _ offset: Int
) -> RegisterFault {
    guard offset >= 0, size > 0 else { return .misaligned }
    // What was asked for counts, not what is left of it at the end of the BAR.
    let multiple = AccessWidth(natural: size) != nil ? size : 4
    return size % multiple == 0 && offset % multiple == 0 ? .none : .misaligned
}

/// How many bus accesses move so many bytes of a BAR.
@_noLocks func accessCount(_ byteCount: Int) -> UInt64 {
    byteCount <= 8 ? 1 : UInt64(truncatingIfNeeded: byteCount / 4)
}

@_noLocks func readResource(
    _ request: fuse_req_t,
    _ mount: UnsafeMutablePointer<MountState>,
    _ handle: UnsafeMutablePointer<Handle>,
    _ size: Int,
    _ offset: Int
) -> HotResult {
    let bar = handle.pointee.bar
    let end = mount.pointee.registers.pointee.byteCount(bar: bar)
    if offset >= 0, UInt64(offset) >= end {
        _ = fuse_reply_buf(request, nil, 0)
        return .done
    }
    let fault = resourceCheck(mount, handle, size, offset)
    guard fault == .none else { return .fault(fault) }
    // A read across the end stops there, as of any file; what is left is a multiple of 4 if the offset is.
    let left = Int(end &- UInt64(offset))
    let count = size < left ? size : left
    mount.pointee.counters.registerReads.wrappingAdd(accessCount(count), ordering: .relaxed)
    if count <= 8 {
        var value: UInt64 = 0
        var fault = RegisterFault.none
        withUnsafeMutableBytes(of: &value) { bytes in
            fault = mount.pointee.registers.pointee.read(
                bar: bar,
                offset: UInt64(offset),
                into: bytes.baseAddress.unsafelyUnwrapped,
                byteCount: count
            )
        }
        guard fault == .none else { return .fault(fault) }
        withUnsafeBytes(of: &value) { bytes in
            _ = cfuse_reply_bytes(request, bytes.baseAddress.unsafelyUnwrapped, count)
        }
        return .done
    }
    // Its thread comes back with the buffer at once: it may be one that is kept from those who wait.
    guard let index = mount.pointee.arena.pointee.takeReceiveBuffer(leaving: mount.pointee.reservedBuffers &- 2) else {
        return .failure(.insufficientResources, .outOfBuffers)
    }
    let payload = mount.pointee.arena.pointee.payload(index)
    let read = mount.pointee.registers.pointee.read(
        bar: bar,
        offset: UInt64(offset),
        into: payload,
        byteCount: count
    )
    if read == .none { _ = cfuse_reply_bytes(request, payload, count) }
    mount.pointee.arena.pointee.give(.receiveBuffer, index)
    return read == .none ? .done : .fault(read)
}
