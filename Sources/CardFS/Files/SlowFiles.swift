import CFuse
import CHardware
import DriverCore
import PCIBus
import Synchronization

// Files that are no registers and no streams: text, configuration space, the interrupt log.
extension CardFileSystem {
    /// Reads a file that is not on the data path.
    func read(
        _ request: fuse_req_t,
        _ id: UInt64,
        _ number: UInt64,
        _ size: Int,
        _ offset: Int,
        _ flags: CInt
    ) {
        let handle = mount.pointee.handles.pointee[number]
        switch handle.pointee.kind {
        case .text, .state: readText(request, id, number, size, offset)
        case .configuration: readConfiguration(request, id, size, offset)
        case .interruptLog: interruptReaders.read(self, request, number, size, flags)
        case .trace: traceReaders.read(self, request, number, size, flags)
        case .transmit: fail(request, id, EACCES, "dma/tx is only written; what the card sends is read from dma/rx")
        default: fail(request, id, EISDIR, "this is a directory")
        }
    }

    private func readText(_ request: fuse_req_t, _ id: UInt64, _ number: UInt64, _ size: Int, _ offset: Int) {
        let handle = mount.pointee.handles.pointee[number]
        guard let node = NodeID.node(id), let read = tree.nodes[node].read else {
            fail(request, id, EIO, "nothing can be read here")
            return
        }
        let lock = mount.pointee.handles.pointee.lock(for: number)
        if offset == 0 || handle.pointee.text == nil {
            let seen = poll.stateChanges
            let sample: LookUpSamples.Sample
            do throws(FileError) {
                // As it is now, unless that has not the size that the look-up told.
                let now = LookUpSamples.Sample(text: try read(), stateChanges: seen)
                let then = lookUps.take(of: id)
                sample = if let then, then.text.utf8.count != now.text.utf8.count { then } else { now }
            } catch {
                fail(request, id, error.code, error.sentence)
                return
            }
            lock.locked {
                setText(handle, sample.text)
                handle.pointee.cursor = sample.stateChanges
            }
        }
        lock.locked {
            let length = handle.pointee.textLength
            let start = min(max(0, offset), length)
            guard let text = handle.pointee.text else { return }
            _ = cfuse_reply_bytes(request, text + start, min(size, length - start))
        }
    }

    private func readConfiguration(_ request: fuse_req_t, _ id: UInt64, _ size: Int, _ offset: Int) {
        let end = device.function.configurationSize
        guard offset >= 0, offset < end else {
            _ = fuse_reply_buf(request, nil, 0)
            return
        }
        var bytes = [UInt8](repeating: 0, count: min(size, end - offset))
        var at = 0
        do throws(BusError) {
            while at < bytes.count {
                let width = configurationWidth(offset + at, bytes.count - at)
                var value = try device.function.readConfiguration(offset + at, width)
                for byte in 0..<width.byteCount {
                    bytes[at + byte] = UInt8(truncatingIfNeeded: value)
                    value >>= 8
                }
                at += width.byteCount
            }
        } catch {
            fail(request, id, error.code, error.sentence)
            return
        }
        if bytes.allSatisfy({ $0 == 0xff }), device.examine() == .gone {
            fail(
                request,
                id,
                ENODEV,
                "\(device.function.address) does not answer: its configuration space reads all ones"
            )
            return
        }
        _ = cfuse_reply_bytes(request, bytes, bytes.count)
    }

    /// The widest natural access at `offset` of at most `left` bytes: one access for the widths a program can ask for.
    private func configurationWidth(_ offset: Int, _ left: Int) -> AccessWidth {
        if offset & 3 == 0 && left >= 4 { return .long }
        if offset & 1 == 0 && left >= 2 { return .word }
        return .byte
    }

    /// Writes a file that is not on the data path.
    func write(
        _ request: fuse_req_t,
        _ id: UInt64,
        _ number: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        _ offset: Int
    ) {
        let handle = mount.pointee.handles.pointee[number]
        switch handle.pointee.kind {
        case .configuration: writeConfiguration(request, id, bytes, offset)
        case .text, .state, .trace: writeText(request, id, bytes)
        case .receive: fail(request, id, EACCES, "dma/rx is only read; what is to be sent is written to dma/tx")
        default: fail(request, id, EACCES, "this file is only read")
        }
    }

    private func writeText(_ request: fuse_req_t, _ id: UInt64, _ bytes: UnsafeRawBufferPointer) {
        guard let node = NodeID.node(id), tree.nodes[node].write != nil || tree.nodes[node].command != nil else {
            fail(request, id, EACCES, "\(path(id)) is only read")
            return
        }
        let count = bytes.count
        var line = String(decoding: bytes, as: UTF8.self)
        if line.utf8.last == UInt8(ascii: "\n") { line.removeLast() }
        line = String(line.drop { $0 == " " || $0 == "\t" })
        while line.last == " " || line.last == "\t" { line.removeLast() }
        guard !line.isEmpty, !line.contains("\n"), line.utf8.count <= 4096 else {
            fail(
                request,
                id,
                EINVAL,
                line.isEmpty ? "an empty line says nothing" : "one line at a time is written here"
            )
            return
        }
        if let write = tree.nodes[node].write {
            do throws(FileError) { try write(line) } catch {
                fail(request, id, error.code, error.sentence)
                return
            }
            readinessMayHaveChanged()
            _ = fuse_reply_write(request, count)
            return
        }
        guard let command = tree.nodes[node].command else { return }
        commands.run(self, request, id, count) { [line] cancellation throws(FileError) in
            try command(line, cancellation)
        }
    }

    private func writeConfiguration(
        _ request: fuse_req_t,
        _ id: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        _ offset: Int
    ) {
        let end = device.function.configurationSize
        guard offset >= 0, bytes.count <= end, offset <= end - bytes.count else {
            fail(request, id, ERANGE, "configuration space of \(device.function.address) has \(end) bytes")
            return
        }
        var at = 0
        do throws(BusError) {
            while at < bytes.count {
                let width = configurationWidth(offset + at, bytes.count - at)
                var value: UInt32 = 0
                for byte in 0..<width.byteCount { value |= UInt32(bytes[at + byte]) << (8 * UInt32(byte)) }
                try device.function.writeConfiguration(value, offset + at, width)
                at += width.byteCount
            }
        } catch {
            fail(request, id, error.code, error.sentence)
            return
        }
        _ = fuse_reply_write(request, bytes.count)
    }
}

/// A request on its way to another thread, which then is the only one to answer it.
struct SendableRequest: @unchecked Sendable {  // libfuse takes replies from any thread
    let request: fuse_req_t
    init(_ request: fuse_req_t) { self.request = request }
}
