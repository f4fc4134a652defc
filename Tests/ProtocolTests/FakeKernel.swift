import CFuse
import CHardware
import CardDrivers
import DriverCore
import Glibc
import Logging
import PCIBus
import SimulatedCard
import Testing

@testable import CardFS

/// The kernel's end of a FUSE session: sends the bytes the kernel would send, and reads the replies. No mount, no /dev/fuse.
final class FakeKernel: @unchecked Sendable {  // used by one thread; replies come from any
    /// A reply, or a notification (`unique` 0, `error` its code).
    struct Reply {
        var unique: UInt64
        var error: CInt
        var bytes: [UInt8]

        var text: String { String(decoding: bytes, as: UTF8.self) }

        func load<Value>(_ type: Value.Type) -> Value {
            precondition(bytes.count >= MemoryLayout<Value>.size)
            return bytes.withUnsafeBytes { $0.loadUnaligned(as: type) }
        }
    }

    struct File {
        var node: UInt64
        var handle: UInt64
        var openFlags: UInt32
        /// The flags of the open file, which fcntl(2) may change: each read and write carries them.
        var flags: CInt = 0
        /// Who uses the file: what the kernel calls the lock owner.
        var owner: UInt64 = 0
    }

    /// The process that the requests come from: no process has such a number.
    static let process: UInt32 = 1 << 30

    let clock = Clock.monotonic()
    let fileSystem: CardFileSystem
    let session: Session
    private let socket: CInt
    /// Where each message is received: kept, since the address sanitizer takes a millisecond to give two megabytes.
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 << 20, alignment: 16)
    private var unique: UInt64 = 100
    /// Whose requests these are.
    var user: UInt32 = 0
    private var replies: [UInt64: Reply] = [:]
    private var taken: Set<UInt64> = []
    private(set) var notifications: [Reply] = []

    init(driver: any CardDriver.Type = SpaceWireDriver.self, _ change: (inout MountOptions) -> Void = { _ in }) throws {
        var options = MountOptions()
        change(&options)
        let bus = SimulatedBus(SimulatedBus.Configuration(receiverMemory: options.receiverByteCount))
        var logger = Logger(label: "test")
        logger.handler = SwiftLogNoOpLogHandler()
        fileSystem = try CardFileSystem(
            function: try bus.open(PCIAddress(bus: 2, device: 0, function: 0)),
            drivers: [driver],
            options: options,
            clock: clock,
            logger: logger
        )
        session = try Session(fileSystem, name: "test")
        var pair: [CInt] = [-1, -1]
        #expect(socketpair(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue), 0, &pair) == 0)
        socket = pair[0]
        #expect(session.serve(socket: pair[1]))
        try fileSystem.start()
    }

    deinit {
        // The replies to all that waits are more than the socket holds.
        let (socket, isClosed) = (socket, Cancellation())
        let receiver = Thread(name: "receiver") {
            var byte: UInt8 = 0
            var ready = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            while !isClosed.isCancelled {
                if Glibc.poll(&ready, 1, 1) == 1 { recv(socket, &byte, 1, 0) }
            }
        }
        fileSystem.close()
        isClosed.cancel()
        receiver.join()
        Glibc.close(socket)
        buffer.deallocate()
    }

    /// The number the next request will have.
    var next: UInt64 { unique + 2 }

    // MARK: Messages

    /// Sends a request and lets the session serve it; the reply may come later.
    @discardableResult
    func send(_ opcode: fuse_opcode, _ node: UInt64, _ body: [UInt8] = []) -> UInt64 {
        post(opcode, node, body)
        #expect(session.serveOne())
        return unique
    }

    /// Sends a request that nobody serves yet.
    func post(_ opcode: fuse_opcode, _ node: UInt64, _ body: [UInt8] = []) {
        unique += 2
        var header = fuse_in_header()
        header.len = UInt32(MemoryLayout<fuse_in_header>.size + body.count)
        header.opcode = opcode.rawValue
        header.unique = unique
        header.nodeid = node
        header.pid = Self.process
        header.uid = user
        let message = bytes(header) + body
        #expect(Glibc.send(socket, message, message.count, 0) == message.count)
    }

    /// Takes in what has come; waits for it at most `milliseconds`. False when nothing came.
    @discardableResult
    func receive(milliseconds: CInt) -> Bool {
        var ready = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        guard Glibc.poll(&ready, 1, milliseconds) == 1 else { return false }
        let count = recv(socket, buffer.baseAddress, buffer.count, 0)
        guard count >= MemoryLayout<fuse_out_header>.size else { return false }
        let header = buffer.loadUnaligned(as: fuse_out_header.self)
        #expect(Int(header.len) == count)
        let body = Array(buffer[MemoryLayout<fuse_out_header>.size..<count])
        let reply = Reply(unique: header.unique, error: header.unique == 0 ? header.error : -header.error, bytes: body)
        if header.unique == 0 {
            notifications.append(reply)
        } else {
            #expect(replies[header.unique] == nil && !taken.contains(header.unique), "a second reply to one request")
            replies[header.unique] = reply
        }
        return true
    }

    /// The reply to a request, within ten seconds.
    func reply(_ unique: UInt64) throws -> Reply {
        let end = clock.now() + 10_000_000_000
        while replies[unique] == nil, clock.now() < end { receive(milliseconds: 100) }
        let reply = try #require(replies[unique])
        replies[unique] = nil
        taken.insert(unique)
        return reply
    }

    /// Whether a request was answered already.
    func isAnswered(_ unique: UInt64) -> Bool {
        while receive(milliseconds: 0) {}
        return replies[unique] != nil
    }

    func call(_ opcode: fuse_opcode, _ node: UInt64, _ body: [UInt8] = []) throws -> Reply {
        try reply(send(opcode, node, body))
    }

    func bytes<Value>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }

    // MARK: Operations

    func initialize() throws -> fuse_init_out {
        var body = fuse_init_in()
        body.major = 7
        body.minor = 36
        body.max_readahead = 131_072
        let offered = FUSE_MAX_PAGES | FUSE_BIG_WRITES | FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS
        body.flags = UInt32(offered | FUSE_ASYNC_DIO | FUSE_ATOMIC_O_TRUNC)
        let reply = try call(FUSE_INIT, 0, bytes(body))
        #expect(reply.error == 0)
        return reply.load(fuse_init_out.self)
    }

    func lookUp(_ name: String, in parent: UInt64 = 1) throws -> Reply {
        try call(FUSE_LOOKUP, parent, Array(name.utf8) + [0])
    }

    /// Looks a path up, name by name.
    func walk(_ path: String) throws -> fuse_entry_out {
        var node: UInt64 = 1
        var entry = fuse_entry_out()
        for name in path.split(separator: "/") {
            let reply = try lookUp(String(name), in: node)
            try #require(reply.error == 0, "\(path): \(reply.error)")
            entry = reply.load(fuse_entry_out.self)
            node = entry.nodeid
        }
        return entry
    }

    func openReply(_ node: UInt64, _ flags: CInt) throws -> Reply {
        var body = fuse_open_in()
        body.flags = UInt32(bitPattern: flags)
        return try call(FUSE_OPEN, node, bytes(body))
    }

    func open(_ path: String, _ flags: CInt = O_RDWR) throws -> File {
        let node = try walk(path).nodeid
        let reply = try openReply(node, flags)
        try #require(reply.error == 0, "open \(path): \(reply.error)")
        let out = reply.load(fuse_open_out.self)
        return File(node: node, handle: out.fh, openFlags: out.open_flags, flags: flags)
    }

    func readBody(_ file: File, _ size: Int, _ offset: UInt64 = 0) -> [UInt8] {
        var body = fuse_read_in()
        body.fh = file.handle
        body.offset = offset
        body.size = UInt32(size)
        body.flags = UInt32(bitPattern: file.flags)
        // As read(2) has one; what fills a page has none.
        body.read_flags = UInt32(FUSE_READ_LOCKOWNER)
        body.lock_owner = 0x10c4
        return bytes(body)
    }

    func read(_ file: File, _ size: Int = 4096, at offset: UInt64 = 0) throws -> Reply {
        try call(FUSE_READ, file.node, readBody(file, size, offset))
    }

    func writeBody(_ file: File, _ data: [UInt8], _ offset: UInt64 = 0) -> [UInt8] {
        var body = fuse_write_in()
        body.fh = file.handle
        body.offset = offset
        body.size = UInt32(data.count)
        body.flags = UInt32(bitPattern: file.flags)
        body.write_flags = UInt32(FUSE_WRITE_LOCKOWNER)
        body.lock_owner = file.owner
        return bytes(body) + data
    }

    /// The bytes written, or the errno as a negative number.
    func write(_ file: File, _ data: [UInt8], at offset: UInt64 = 0) throws -> Int {
        let reply = try call(FUSE_WRITE, file.node, writeBody(file, data, offset))
        return reply.error == 0 ? Int(reply.load(fuse_write_out.self).size) : -Int(reply.error)
    }

    func write(_ file: File, _ text: String) throws -> Int { try write(file, Array(text.utf8)) }

    func flush(_ file: File) -> UInt64 {
        var body = fuse_flush_in()
        body.fh = file.handle
        body.lock_owner = file.owner
        return send(FUSE_FLUSH, file.node, bytes(body))
    }

    func sync(_ file: File) -> UInt64 {
        var body = fuse_fsync_in()
        body.fh = file.handle
        return send(FUSE_FSYNC, file.node, bytes(body))
    }

    func close(_ file: File) throws {
        var body = fuse_release_in()
        body.fh = file.handle
        #expect(try call(FUSE_RELEASE, file.node, bytes(body)).error == 0)
    }

    func interrupt(_ unique: UInt64) {
        var body = fuse_interrupt_in()
        body.unique = unique
        send(FUSE_INTERRUPT, 0, bytes(body))
    }

    /// `events` 0 is a kernel that does not say what is asked for.
    func pollEvents(_ file: File, handle: UInt64 = 0, events: CInt = 0) throws -> UInt32 {
        var body = fuse_poll_in()
        body.fh = file.handle
        body.events = UInt32(events)
        body.kh = handle
        body.flags = handle == 0 ? 0 : UInt32(FUSE_POLL_SCHEDULE_NOTIFY)
        return try call(FUSE_POLL, file.node, bytes(body)).load(fuse_poll_out.self).revents
    }

    /// The whole text of a file, through an open of its own.
    func text(_ path: String) throws -> String {
        let file = try open(path, O_RDONLY)
        let text = try read(file, 65_536).text
        try close(file)
        return text
    }

    /// A value of `metrics.prom`.
    func metric(_ name: String) throws -> Int {
        let line = try text("metrics.prom").split(separator: "\n").first { $0.hasPrefix("cardfs_\(name){") }
        return Int(try #require(line).split(separator: " ").last!)!
    }

    func setSim(_ name: String, _ value: String) throws {
        let file = try open("sim/\(name)", O_WRONLY)
        #expect(try write(file, value + "\n") == value.utf8.count + 1)
        try close(file)
    }
}

/// Bytes whose place can be told from their value.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    // A plain loop: a closure for each byte takes seconds where a sanitizer watches it.
    [UInt8](unsafeUninitializedCapacity: count) { bytes, made in
        guard let byte = bytes.baseAddress else { return }
        var k = 0
        while k < count {
            byte[k] = UInt8(truncatingIfNeeded: (k &+ seed) &* 0x9e37_79b9 >> 13)
            k &+= 1
        }
        made = count
    }
}

/// Waits until a condition holds, at most a minute: the machine may be busy.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    let end = chw_clock_nanoseconds(CLOCK_MONOTONIC) + 60_000_000_000
    while !(try condition()) {
        if chw_clock_nanoseconds(CLOCK_MONOTONIC) > end { return false }
        sched_yield()
    }
    return true
}
