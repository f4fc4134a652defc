import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

// S_IFMT values: the names come from two modules at once.
private let fileTypeDirectory: mode_t = 0o040000
private let fileTypeRegular: mode_t = 0o100000
private let fileTypeLink: mode_t = 0o120000

// Attributes, and the opening and closing of files.
extension CardFileSystem {
    /// The attributes of a node of the tree, as of its last look-up.
    func attributes(_ number: Int) -> stat {
        let node = tree.nodes[number]
        var type = fileTypeRegular
        var links: UInt = 1
        switch node.kind {
        case .directory:
            type = fileTypeDirectory
            links = UInt(2 + tree.children(of: number).filter { tree.nodes[$0.node].kind == .directory }.count)
        case .link: type = fileTypeLink
        default: break
        }
        var result = attributes(UInt64(number), type | mode_t(node.mode), node.size, links)
        result.st_blksize = blksize_t(node.kind.blockSize)
        if case .failureLog = node.kind { setSize(&result, failures.end) }
        if type == fileTypeRegular { setTimes(&result, lookUpTimes[number]) }
        return result
    }

    /// The attributes of `regs/0x…`.
    func registerAttributes(_ id: UInt64) -> stat {
        let usual: UInt32 = (options.mode ?? 0o660) & 0o666
        let size = UInt64(2 * NodeID.register(id).byteCount + 3)
        var result = attributes(id, fileTypeRegular | mode_t(usual), size, 1)
        result.st_blksize = blksize_t(FileKind.register.blockSize)
        setTimes(&result, lookUpTimes[0])
        return result
    }

    /// The attributes of anything the kernel has a number for.
    func attributes(of id: UInt64) -> stat? {
        guard let node = NodeID.node(id) else { return registerAttributes(id) }
        guard node > 0, node < tree.nodes.count else { return nil }
        var result = attributes(node)
        if let (size, time) = lookUps.attributes(of: id) {
            setSize(&result, UInt64(size))
            setTimes(&result, time)
        }
        return result
    }

    /// The node that a look-up of `node` leads to, and its attributes. What a file says is of now, and so are its times, until it
    /// is looked up again: programs that look twice at a file they read find that it has not changed meanwhile.
    func lookUp(_ number: Int) -> (id: UInt64, attributes: stat) {
        let node = tree.nodes[number]
        let now = Self.now()
        lookUpTimes.set(number, now)
        guard node.isOfEachLookUp else { return (UInt64(number), attributes(number)) }
        let id = NodeID.lookUp(number, serial: nextSerial())
        if node.size == 0, let read = node.read {
            let seen = poll.stateChanges
            // A file that cannot be sampled now says so when it is read.
            if let text = try? read() {
                let sample = LookUpSamples.Sample(text: lookUps.sample(text, of: number), stateChanges: seen)
                lookUps.keep(sample, of: id, now)
            }
        }
        return (id, attributes(of: id) ?? attributes(number))
    }

    /// How long the kernel may keep attributes, in seconds: until the next look-up, but for a size that grows by itself.
    func attributeTimeout(_ id: UInt64) -> Double {
        if let node = NodeID.node(id), node < tree.nodes.count, case .failureLog = tree.nodes[node].kind { return 0 }
        return 3600
    }

    /// Refuses to fill a page with registers, which a mapping would show as they once were, or with part of a stream, which would be
    /// taken from its readers: the kernel asks for 4096 bytes, whatever of them the program wants. It asks nobody before it makes a
    /// private mapping. True when the request was answered.
    func refusePage(_ request: fuse_req_t, _ id: UInt64, _ number: UInt64) -> Bool {
        let reason: String
        switch mount.pointee.handles.pointee[number].pointee.kind {
        case .resource, .configuration:
            reason = "which would show a copy that does not change; no register was read: use pread and pwrite, or dd"
        case .receive, .interruptLog, .trace:
            reason = "which would take a page out of what arrives; nothing was taken: use read, or dd"
        default: return false
        }
        fail(request, id, EIO, "\(path(id)) was reached through a mapping (mmap) or sendfile, \(reason)")
        return true
    }

    /// The attributes that a look-up of `regs/0x…` finds.
    func lookUpRegister(_ id: UInt64) -> stat {
        lookUpTimes.set(0, Self.now())
        return registerAttributes(id)
    }

    private static func now() -> timespec {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return now
    }

    private func setSize(_ attributes: inout stat, _ size: UInt64) {
        attributes.st_size = off_t(size)
        // Tools take a file with fewer blocks than its size needs for one with holes.
        attributes.st_blocks = blkcnt_t((size + 511) / 512)
    }

    private func setTimes(_ attributes: inout stat, _ time: timespec) {
        attributes.st_atim = time
        attributes.st_mtim = time
        attributes.st_ctim = time
    }

    /// The kernel does not know a node any more.
    func forget(_ id: UInt64) { lookUps.forget(id) }

    private func attributes(_ inode: UInt64, _ mode: mode_t, _ size: UInt64, _ links: UInt) -> stat {
        var result = stat()
        result.st_ino = UInt(inode)
        result.st_mode = mode
        result.st_nlink = nlink_t(links)
        result.st_uid = owner.uid
        result.st_gid = owner.gid
        setSize(&result, size)
        result.st_atim = mountTime
        result.st_mtim = mountTime
        result.st_ctim = mountTime
        return result
    }

    /// Opens a file and answers.
    func open(_ request: fuse_req_t, _ id: UInt64, _ flags: CInt) {
        mount.pointee.counters.opens.wrappingAdd(1, ordering: .relaxed)
        var handle = Handle()
        handle.isOpen = true
        handle.node = id
        handle.flags = flags
        handle.removals = device.removals.pointee.load(ordering: .acquiring)
        switch mount.pointee.users.take(.files, callingUser(request)) {
        case .taken(let account): handle.account = account
        case .refused(let reach):
            refuse(request, id, .files, reach)
            return
        }
        guard let open = prepare(&handle, request, id, flags) else {
            mount.pointee.users.give(.files, handle.account)
            return
        }
        guard let number = mount.pointee.handles.pointee.open() else {
            if let stream = handle.stream { device.streams.close(stream) }
            mount.pointee.users.give(.files, handle.account)
            fail(request, id, ENFILE, "too many files of the card are open")
            return
        }
        mount.pointee.handles.pointee[number].pointee = handle
        if handle.kind.concernsCard { wakeLatency?.opened() }
        // The reply by hand: libfuse 3.14 has no field for streams and parallel writes.
        var reply = fuse_open_out()
        reply.fh = number
        reply.open_flags = open
        let isSent = withUnsafeBytes(of: &reply) { cfuse_reply_bytes(request, $0.baseAddress!, $0.count) } == 0
        // An open that was interrupted is never released.
        if !isSent { closeFile(number) }
    }

    /// Says in a handle what is opened. The flags for the kernel; nil when the open was refused and answered.
    private func prepare(_ handle: inout Handle, _ request: fuse_req_t, _ id: UInt64, _ flags: CInt) -> UInt32? {
        // Registers and text have nothing to wait for at close.
        var open = UInt32(FOPEN_DIRECT_IO)
        if let number = NodeID.node(id) {
            guard number < tree.nodes.count else {
                _ = fuse_reply_err(request, ENOENT)
                return nil
            }
            let node = tree.nodes[number]
            if let (code, sentence) = refusal(node, flags & O_ACCMODE) {
                fail(request, id, code, sentence)
                return nil
            }
            handle.kind = node.kind
            handle.bar = node.bar
            handle.offset = node.offset
            handle.width = node.width
            switch node.kind {
            case .transmit:
                handle.stream = device.streams.open()
                // With a size that no write passes, processes that share an open write side by side, and none waits for the
                // other where no signal reaches it. (O_APPEND the kernel serialises all the same.)
                open |= UInt32(FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_PARALLEL_DIRECT_WRITES)
            case .receive:
                handle.stream = device.streams.open()
                open |= UInt32(FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH)
            case .interruptLog:
                handle.cursor = device.interrupt.pointee.log.end
                open |= UInt32(FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH)
            case .trace:
                open |= UInt32(FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH)
            case .state:
                // Nothing has been read: poll finds it readable.
                handle.cursor = 0
                open |= UInt32(FOPEN_NOFLUSH)
            default:
                open |= UInt32(FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES)
            }
        } else {
            let (offset, byteCount) = NodeID.register(id)
            handle.kind = .register
            handle.offset = offset
            handle.width = AccessWidth(natural: byteCount) ?? .long
            open |= UInt32(FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES)
        }
        return open
    }

    /// What speaks against opening a node in this way. Root passes every permission check of the kernel, and shall still
    /// not write what is only read.
    private func refusal(_ node: Node, _ access: CInt) -> (CInt, String)? {
        let reads = access != O_WRONLY
        let writes = access != O_RDONLY
        switch node.kind {
        case .directory: return (EISDIR, "this is a directory")
        case .transmit where reads:
            return (EACCES, "dma/tx is only written; what the card sends is read from dma/rx")
        case .receive where writes:
            return (EACCES, "dma/rx is only read; what is to be sent is written to dma/tx")
        case .text where writes && node.write == nil && node.command == nil, .state where writes,
            .failureLog where writes,
            .interruptLog where writes:
            return (EACCES, "\(node.name) is only read")
        case .register where writes && device.registerMap.registers.contains { $0.name == node.name && !$0.isWritable }:
            return (EACCES, "the register \(node.name) is only read: the card ignores what is written to it")
        default: return nil
        }
    }

    /// Ends an open file.
    func closeFile(_ number: UInt64) {
        let handle = mount.pointee.handles.pointee[number]
        if handle.pointee.kind.concernsCard { wakeLatency?.closed() }
        if mount.pointee.handles.pointee.marks(of: number).pointee.isPolled.load(ordering: .acquiring) {
            poll.forget(number)
        }
        if let stream = handle.pointee.stream {
            if handle.pointee.kind == .receive { device.dma?.streamClosed(stream) }
            device.streams.close(stream)
        }
        mount.pointee.users.give(.files, handle.pointee.account)
        mount.pointee.handles.pointee.close(number)
    }
}
