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
        case .failureLog: readFailures(request, number, size, offset)
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
        let isFirst = lock.locked { handle.pointee.shared == nil }
        if offset == 0 || isFirst {
            let seen = poll.stateChanges
            let sample: LookUpSamples.Sample
            do throws(FileError) {
                // As it is now, unless that has not the size that the look-up told.
                let now = LookUpSamples.Sample(text: lookUps.sample(try read(), of: node), stateChanges: seen)
                let then = lookUps.take(of: id)
                sample = if let then, then.text.bytes.count != now.text.bytes.count { then } else { now }
            } catch {
                fail(request, id, error.code, error.sentence)
                return
            }
            let old = lock.locked {
                defer { handle.pointee.shared = Unmanaged.passRetained(sample.text) }
                handle.pointee.cursor = sample.stateChanges
                return handle.pointee.shared
            }
            old?.release()
        }
        let text = lock.locked { handle.pointee.shared?.takeUnretainedValue() }
        text?.bytes.withUnsafeBytes { bytes in
            let rest = bytes[min(max(0, offset), bytes.count)...].prefix(max(0, size))
            _ = fuse_reply_buf(
                request,
                rest.isEmpty ? nil : UnsafeRawBufferPointer(rebasing: rest).baseAddress,
                rest.count
            )
        }
    }

    /// Reads `last_error`: an offset is a position in all that was ever written. What was dropped reads as nothing: such a read
    /// finds what is kept, and the reads that follow it go on behind that.
    private func readFailures(_ request: fuse_req_t, _ number: UInt64, _ size: Int, _ offset: Int) {
        let handle = mount.pointee.handles.pointee[number]
        let bytes = mount.pointee.handles.pointee.lock(for: number).locked {
            let isContinued = offset > 0 && UInt64(offset) == handle.pointee.cursor
            // `offset` of the handle is how far this reader's offsets lie before the positions.
            var position = UInt64(max(0, offset)) &+ (isContinued ? handle.pointee.offset : 0)
            let bytes = failures.read(at: &position, size)
            handle.pointee.offset = position &- UInt64(max(0, offset))
            handle.pointee.cursor = UInt64(max(0, offset)) &+ UInt64(bytes.count)
            return bytes
        }
        _ = cfuse_reply_bytes(request, bytes, bytes.count)
    }

    /// What is said of a piece of a line.
    static func pieceSentence(_ bytes: UnsafeRawBufferPointer) -> String {
        "\(QuotedText.quotation(bytes)) continues what was written before without a newline; a line comes in one write, and this"
            + " piece was not taken"
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
        case .text, .state, .trace: writeText(request, id, number, bytes, offset)
        case .receive: fail(request, id, EACCES, "dma/rx is only read; what is to be sent is written to dma/tx")
        default: fail(request, id, EACCES, "this file is only read")
        }
    }

    private func writeText(
        _ request: fuse_req_t,
        _ id: UInt64,
        _ number: UInt64,
        _ bytes: UnsafeRawBufferPointer,
        _ offset: Int
    ) {
        guard let node = NodeID.node(id), tree.nodes[node].write != nil || tree.nodes[node].command != nil else {
            fail(request, id, EACCES, "\(path(id)) is only read")
            return
        }
        let count = bytes.count
        switch mount.pointee.handles.pointee.place(of: number, offset, bytes) {
        case .isLine: break
        case .isEndOfLine:
            _ = fuse_reply_write(request, count)
            return
        case .isPiece:
            fail(request, id, EINVAL, Self.pieceSentence(bytes))
            return
        }
        let line = Number.trimmed(bytes)
        guard !line.isEmpty, line.allSatisfy({ $0 != UInt8(ascii: "\n") && $0 != 0 }), line.count <= 4096 else {
            let sentence =
                line.isEmpty
                ? "an empty line says nothing"
                : "one line at a time is written here, of at most 4096 bytes, not \(QuotedText.quotation(bytes))"
            fail(request, id, EINVAL, sentence)
            return
        }
        guard let line = String(validating: line, as: UTF8.self) else {
            fail(request, id, EINVAL, "what was written is not valid UTF-8: \(QuotedText.quotation(bytes))")
            return
        }
        if let write = tree.nodes[node].write {
            do throws(FileError) { try write(line) } catch {
                fail(request, id, error.code, error.sentence)
                return
            }
            readinessMayHaveChanged()
            mount.pointee.handles.pointee.accepted(number, offset, bytes)
            _ = fuse_reply_write(request, count)
            return
        }
        guard let command = tree.nodes[node].command else { return }
        // Before the writer can be answered, and write on.
        mount.pointee.handles.pointee.accepted(number, offset, bytes)
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
