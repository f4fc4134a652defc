import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

// The callbacks libfuse calls on the receive threads. Plain functions of a library module: a closure in main.swift would
// belong to the main actor and die on another thread.

/// Registers the callbacks.
func makeOperations() -> fuse_lowlevel_ops {
    var operations = fuse_lowlevel_ops()
    operations.`init` = onInit
    operations.lookup = onLookup
    operations.forget = onForget
    operations.forget_multi = onForgetMany
    operations.getattr = onGetAttributes
    operations.setattr = onSetAttributes
    operations.readlink = onReadLink
    operations.open = onOpen
    operations.read = onRead
    operations.write = onWrite
    operations.flush = onFlush
    operations.fsync = onSync
    operations.release = onRelease
    operations.readdir = onReadDirectory
    operations.poll = onPoll
    operations.ioctl = onControl
    operations.mknod = { request, id, name, _, _ in refuse(request, id, name, "made") }
    operations.mkdir = { request, id, name, _ in refuse(request, id, name, "made") }
    operations.symlink = { request, _, id, name in refuse(request, id, name, "made") }
    operations.link = { request, _, id, name in refuse(request, id, name, "made") }
    operations.create = { request, id, name, _, _ in refuse(request, id, name, "made") }
    operations.unlink = { request, id, name in refuse(request, id, name, "removed") }
    operations.rmdir = { request, id, name in refuse(request, id, name, "removed") }
    operations.rename = { request, id, name, _, _, _ in refuse(request, id, name, "renamed") }
    return operations
}

private func mountState(_ request: fuse_req_t) -> UnsafeMutablePointer<MountState> {
    fuse_req_userdata(request)!.assumingMemoryBound(to: MountState.self)
}

private func fileSystem<Result>(_ request: fuse_req_t, _ body: (CardFileSystem) -> Result) -> Result? {
    mountState(request).pointee.fileSystem?._withUnsafeGuaranteedRef(body)
}

private func onInit(_ context: UnsafeMutableRawPointer?, _ connection: UnsafeMutablePointer<fuse_conn_info>?) {
    guard let connection else { return }
    // Payload goes by the request's own memory, never through a pipe.
    connection.pointee.want &= ~UInt32(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE)
    // The kernel would cut one asynchronous transfer (io_submit, io_uring) into requests that run side by side and overtake
    // each other on the stream. Without it such a transfer is one request after the other: io_submit waits for it, io_uring
    // gives it to a worker.
    connection.pointee.want &= ~UInt32(FUSE_CAP_ASYNC_DIO)
    // The size of a file that is opened with O_TRUNC is ours to say: the kernel would take it for 0, and the next write for one
    // past the end, for which it locks out every other writer.
    connection.pointee.want &= ~UInt32(FUSE_CAP_ATOMIC_O_TRUNC)
    connection.pointee.max_readahead = 0
    connection.pointee.max_background = 64
}

private func refuse(_ request: fuse_req_t?, _ parent: UInt64, _ name: UnsafePointer<CChar>?, _ what: String) {
    guard let request else { return }
    let bytes = UnsafeRawBufferPointer(start: name, count: name.map { strlen($0) } ?? 0)
    _ = fileSystem(request) {
        $0.fail(request, parent, EPERM, "the tree is the card's: \(QuotedText.quotation(bytes)) cannot be \(what)")
    }
}

// MARK: - Names and attributes

private func onLookup(_ request: fuse_req_t?, _ parent: UInt64, _ name: UnsafePointer<CChar>?) {
    guard let request, let name else { return }
    _ = fileSystem(request) { fileSystem in
        guard let directory = NodeID.node(parent), directory < fileSystem.tree.nodes.count else {
            _ = fuse_reply_err(request, ENOTDIR)
            return
        }
        var entry = fuse_entry_param()
        if let node = fileSystem.tree.child(String(cString: name), of: directory) {
            (entry.ino, entry.attr) = fileSystem.lookUp(node)
            // The next look-up must reach us too: it makes a node of its own, or finds the times of then.
            entry.entry_timeout = fileSystem.tree.nodes[node].isRegular ? 0 : 3600
            entry.attr_timeout = fileSystem.attributeTimeout(entry.ino)
            // Of a look-up that was interrupted the kernel has no node, and forgets none.
            if fuse_reply_entry(request, &entry) != 0 { fileSystem.forget(entry.ino) }
            return
        }
        guard fileSystem.tree.nodes[directory].name == "regs" else {
            _ = fuse_reply_err(request, ENOENT)
            return
        }
        lookUpRegister(fileSystem, request, name)
    }
}

private func lookUpRegister(
    _ fileSystem: CardFileSystem,
    _ request: fuse_req_t,
    _ name: UnsafePointer<CChar>
) {
    let size = fileSystem.device.function.usableBARs.first { $0.index == 0 }?.byteCount ?? 0
    let text = UnsafeRawBufferPointer(start: name, count: strlen(name))
    switch RegisterName.parse(text, byteCount: size) {
    case .register(let offset, let width):
        var entry = fuse_entry_param()
        entry.ino = NodeID.register(offset: offset, byteCount: width.byteCount)
        entry.attr = fileSystem.lookUpRegister(entry.ino)
        entry.entry_timeout = 0
        entry.attr_timeout = 3600
        _ = fuse_reply_entry(request, &entry)
    case .failure(let code):
        // Any user may look up any name, so a name that does not exist is not recorded as a failure.
        _ = fuse_reply_err(request, code)
    }
}

/// A node that one look-up made is looked up once: the kernel forgets it when nobody uses it any more.
private func onForget(_ request: fuse_req_t?, _ id: UInt64, _ lookUps: UInt64) {
    guard let request else { return }
    _ = fileSystem(request) { $0.forget(id) }
    fuse_reply_none(request)
}

private func onForgetMany(_ request: fuse_req_t?, _ count: Int, _ nodes: UnsafeMutablePointer<fuse_forget_data>?) {
    guard let request else { return }
    _ = fileSystem(request) { fileSystem in
        for node in UnsafeBufferPointer(start: nodes, count: count) { fileSystem.forget(node.ino) }
    }
    fuse_reply_none(request)
}

private func onGetAttributes(_ request: fuse_req_t?, _ id: UInt64, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request else { return }
    _ = fileSystem(request) { fileSystem in
        guard var attributes = fileSystem.attributes(of: id) else {
            _ = fuse_reply_err(request, ENOENT)
            return
        }
        _ = fuse_reply_attr(request, &attributes, fileSystem.attributeTimeout(id))
    }
}

private func onSetAttributes(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ attributes: UnsafeMutablePointer<stat>?,
    _ toSet: CInt,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let request else { return }
    _ = fileSystem(request) { fileSystem in
        if toSet & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) != 0 {
            fileSystem.fail(request, id, EPERM, "owner and mode are those of the mount: mount with -o uid=,gid=,mode=")
            return
        }
        // Sizes are the card's: `>` and dd ask for one, and get what there is. Times are not kept.
        guard var now = fileSystem.attributes(of: id) else {
            _ = fuse_reply_err(request, ENOENT)
            return
        }
        _ = fuse_reply_attr(request, &now, fileSystem.attributeTimeout(id))
    }
}

private func onReadLink(_ request: fuse_req_t?, _ id: UInt64) {
    guard let request else { return }
    _ = fileSystem(request) { fileSystem in
        guard let node = NodeID.node(id), node < fileSystem.tree.nodes.count else {
            _ = fuse_reply_err(request, EINVAL)
            return
        }
        guard let read = fileSystem.tree.nodes[node].read else {
            _ = fuse_reply_readlink(request, fileSystem.tree.nodes[node].target)
            return
        }
        do throws(FileError) {
            _ = fuse_reply_readlink(request, try read())
        } catch { fileSystem.fail(request, id, error.code, error.sentence) }
    }
}

private func onReadDirectory(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let request else { return }
    _ = fileSystem(request) { fileSystem in
        guard let directory = NodeID.node(id), directory < fileSystem.tree.nodes.count else {
            _ = fuse_reply_err(request, ENOTDIR)
            return
        }
        let entries =
            [(".", directory), ("..", fileSystem.tree.nodes[directory].parent)]
            + fileSystem.tree.children(of: directory).map { ($0.name, $0.node) }
        var buffer = [CChar](repeating: 0, count: size)
        var used = 0
        for (index, entry) in entries.enumerated().dropFirst(Int(offset)) {
            var attributes = fileSystem.attributes(entry.1)
            let needed = buffer.withUnsafeMutableBufferPointer { buffer in
                fuse_add_direntry(
                    request,
                    buffer.baseAddress! + used,
                    size - used,
                    entry.0,
                    &attributes,
                    off_t(index + 1)
                )
            }
            if needed > size - used { break }
            used += needed
        }
        _ = fuse_reply_buf(request, buffer, used)
    }
}

// MARK: - Open files

private func onOpen(_ request: fuse_req_t?, _ id: UInt64, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request, let info else { return }
    _ = fileSystem(request) { $0.open(request, id, info.pointee.flags) }
}

private func onRelease(_ request: fuse_req_t?, _ id: UInt64, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    guard let request, let info else { return }
    _ = fileSystem(request) { $0.closeFile(info.pointee.fh) }
    _ = fuse_reply_err(request, 0)
}

private func onRead(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let request, let info else { return }
    let number = info.pointee.fh
    // A read(2) has an owner of locks. What fills a page, for a mapping or for sendfile(2), has none.
    if info.pointee.lock_owner == 0, fileSystem(request, { $0.refusePage(request, id, number) }) == true { return }
    let result = hotRead(request, mountState(request), info, size, offset)
    if case .done = result { return }
    _ = fileSystem(request) { fileSystem in
        if case .elsewhere = result {
            fileSystem.read(request, id, number, size, offset, info.pointee.flags)
        } else {
            fileSystem.failHot(result, request, id, number)
        }
    }
}

private func onWrite(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ bytes: UnsafePointer<CChar>?,
    _ size: Int,
    _ offset: off_t,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    guard let request, let info, let bytes else { return }
    let result = hotWrite(request, mountState(request), info, bytes, size, offset)
    if case .done = result { return }
    let number = info.pointee.fh
    _ = fileSystem(request) { fileSystem in
        if case .elsewhere = result {
            fileSystem.write(request, id, number, UnsafeRawBufferPointer(start: bytes, count: size), offset)
        } else {
            let written = UnsafeRawBufferPointer(start: bytes, count: size)
            fileSystem.failHot(result, request, id, number, written: written)
        }
    }
}

private func onFlush(_ request: fuse_req_t?, _ id: UInt64, _ info: UnsafeMutablePointer<fuse_file_info>?) {
    barrier(request, id, info, .close)
}

private func onSync(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ dataOnly: CInt,
    _ info: UnsafeMutablePointer<fuse_file_info>?
) {
    barrier(request, id, info, .barrier)
}

private func barrier(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ info: UnsafeMutablePointer<fuse_file_info>?,
    _ kind: RequestKind
) {
    guard let request, let info else { return }
    let number = info.pointee.fh
    switch hotBarrier(request, mountState(request), number, kind, info.pointee.lock_owner) {
    case .done: break
    case .elsewhere: _ = fuse_reply_err(request, 0)
    case let result: _ = fileSystem(request) { $0.failHot(result, request, id, number) }
    }
}

private func onPoll(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ info: UnsafeMutablePointer<fuse_file_info>?,
    _ handle: OpaquePointer?
) {
    guard let request, let info else { return }
    let events = fileSystem(request) { $0.pollEvents(info.pointee.fh, handle, info.pointee.poll_events) } ?? 0
    _ = fuse_reply_poll(request, events)
}

private func onControl(
    _ request: fuse_req_t?,
    _ id: UInt64,
    _ command: UInt32,
    _ argument: UnsafeMutableRawPointer?,
    _ info: UnsafeMutablePointer<fuse_file_info>?,
    _ flags: UInt32,
    _ input: UnsafeRawPointer?,
    _ inputByteCount: Int,
    _ outputByteCount: Int
) {
    guard let request else { return }
    // A directory has no open file of ours.
    guard let info, flags & UInt32(FUSE_IOCTL_DIR) == 0 else {
        _ = fuse_reply_err(request, ENOTTY)
        return
    }
    let number = info.pointee.fh
    let bytes = UnsafeRawBufferPointer(start: input, count: input == nil ? 0 : inputByteCount)
    let result = hotControl(request, mountState(request), number, command, bytes)
    if case .done = result { return }
    _ = fileSystem(request) {
        if case .elsewhere = result {
            $0.control(request, id, number, command, bytes, outputByteCount: outputByteCount)
        } else {
            $0.failHot(result, request, id, number)
        }
    }
}
