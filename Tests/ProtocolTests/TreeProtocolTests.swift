import CFuse
import CardFS
import Glibc
import Testing

@Suite(.timeLimit(.minutes(10))) struct TreeProtocolTests {
    @Test func `INIT asks for requests of a megabyte and for no pipes`() throws {
        let out = try FakeKernel().initialize()
        #expect(out.major == 7 && out.max_write == 1 << 20 && out.max_pages == 256)
        #expect(out.flags & UInt32(FUSE_MAX_PAGES | FUSE_BIG_WRITES) == UInt32(FUSE_MAX_PAGES | FUSE_BIG_WRITES))
        #expect(out.max_background == 64 && out.max_readahead == 0)
    }

    @Test func `INIT lets the kernel cut no transfer into parallel pieces, and take no opened file for empty`() throws {
        let out = try FakeKernel().initialize()
        #expect(out.flags & UInt32(FUSE_ASYNC_DIO | FUSE_ATOMIC_O_TRUNC) == 0)
    }

    @Test(arguments: [("dma/tx", 1 << 62), ("dma/rx", 4096), ("ctl", nil), ("dma/engine", nil), ("metrics.prom", nil)])
    func `each look-up of a file whose writes wait or whose text varies gives a node of its own`(
        path: String,
        size: UInt64?
    ) throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let entries = try (0..<3).map { _ in try kernel.walk(path) }
        #expect(Set(entries.map(\.nodeid)).count == 3 && Set(entries.map(\.attr.ino)).count == 1)
        #expect(entries.allSatisfy { $0.entry_valid == 0 && $0.entry_valid_nsec == 0 })
        if let size { #expect(entries.allSatisfy { $0.attr.size == size && $0.attr.blocks == (size + 511) / 512 }) }
        let register = try (0..<2).map { _ in try kernel.walk("regs/scratch").nodeid }
        #expect(Set(register).count == 1)
        #expect(try kernel.walk("regs/scratch").entry_valid == 0 && kernel.walk("regs").entry_valid > 0)
    }

    @Test(
        arguments: [
            (
                "dma/tx", O_WRONLY,
                FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_PARALLEL_DIRECT_WRITES
            ),
            ("dma/rx", O_RDONLY, FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH),
            ("interrupts/log", O_RDONLY, FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH),
            ("regs/scratch", O_RDWR, FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES),
            ("regs/0x20010", O_RDWR, FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES),
            ("bar0", O_RDWR, FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES),
            ("vendor", O_RDONLY, FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES),
            ("state", O_RDONLY, FOPEN_DIRECT_IO | FOPEN_NOFLUSH),
        ] as [(String, CInt, Int32)]
    )
    func `open flags say what a file is`(path: String, access: CInt, flags: Int32) throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        #expect(try kernel.open(path, access).openFlags == UInt32(flags))
    }

    @Test(
        arguments: [
            ("dma/tx", O_RDONLY, EACCES), ("dma/tx", O_RDWR, EACCES), ("dma/rx", O_WRONLY, EACCES),
            ("vendor", O_WRONLY, EACCES),
            ("state", O_RDWR, EACCES), ("interrupts/count", O_WRONLY, EACCES),
        ] as [(String, CInt, CInt)]
    )
    func `what is only read is not opened to write, and the other way round`(path: String, access: CInt, code: CInt)
        throws
    {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        #expect(try kernel.openReply(kernel.walk(path).nodeid, access).error == code)
        #expect(try kernel.text("last_error").contains(" \(FakeKernel.process) \(path) EACCES "))
    }

    @Test(
        arguments: [
            ("", "nothing", ENOENT), ("regs", "nothing", ENOENT), ("regs", "010", EINVAL), ("regs", "0x20011", EINVAL),
            ("regs", "0x20011.w", EINVAL), ("regs", "0x100000000", ERANGE), ("dma", "0x10", ENOENT),
            ("", "0x10", ENOENT),
            ("regs", "0xzz", ENOENT),
        ] as [(String, String, CInt)]
    )
    func `a name that is no file fails in the look-up with its own errno`(directory: String, name: String, code: CInt)
        throws
    {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let parent = try directory.isEmpty ? 1 : kernel.walk(directory).nodeid
        #expect(try kernel.lookUp(name, in: parent).error == code)
        #expect(try kernel.text("last_error").isEmpty, "what is not there is no failure to be remembered")
    }

    @Test(arguments: [(".b", 1, 5), (".w", 2, 7), ("", 4, 11), (".l", 4, 11), (".q", 8, 19)])
    func `a register has a size that suits its width`(suffix: String, width: Int, size: UInt64) throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let entry = try kernel.walk("regs/0x20010\(suffix)")
        #expect(entry.attr.size == size && entry.attr.mode & 0o7777 == 0o660)
        #expect(try kernel.text("regs/0x20010\(suffix)") == "0x" + String(repeating: "0", count: 2 * width) + "\n")
    }

    @Test(arguments: [4096, 100])
    func `a directory is listed whole, in as many pieces as the kernel likes`(size: Int) throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        var names: [String] = []
        var offset: UInt64 = 0
        while true {
            let file = FakeKernel.File(node: 1, handle: 0, openFlags: 0)
            let reply = try kernel.call(FUSE_READDIR, 1, kernel.readBody(file, size, offset))
            #expect(reply.error == 0 && reply.bytes.count <= size)
            if reply.bytes.isEmpty { break }
            var at = 0
            while at < reply.bytes.count {
                let entry = reply.bytes[at...].withUnsafeBytes { $0.loadUnaligned(as: fuse_dirent.self) }
                names.append(String(decoding: reply.bytes[at + 24..<at + 24 + Int(entry.namelen)], as: UTF8.self))
                offset = entry.off
                at += (24 + Int(entry.namelen) + 7) & ~7
            }
        }
        #expect(names.prefix(2) == [".", ".."] && Set(names).count == names.count)
        for name in [
            "bar0", "offset", "paddr", "regs", "resource0", "config", "dma", "interrupts", "state", "ctl", "sim",
        ] {
            #expect(names.contains(name))
        }
    }

    @Test func `nothing is made, removed or renamed`() throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let name = Array("new".utf8) + [0]
        #expect(try kernel.call(FUSE_UNLINK, 1, Array("bar0".utf8) + [0]).error == EPERM)
        #expect(try kernel.call(FUSE_MKDIR, 1, kernel.bytes(fuse_mkdir_in()) + name).error == EPERM)
        #expect(try kernel.call(FUSE_CREATE, 1, kernel.bytes(fuse_create_in()) + name).error == EPERM)
        #expect(try kernel.call(FUSE_RMDIR, 1, Array("regs".utf8) + [0]).error == EPERM)
        #expect(try kernel.text("last_error").contains("\"bar0\" cannot be removed"))
    }

    @Test func `a file that is forgotten is answered nothing, and the session goes on`() throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let node = try kernel.walk("dma/tx").nodeid
        var body = fuse_forget_in()
        body.nlookup = 1
        let forgotten = kernel.send(FUSE_FORGET, node, kernel.bytes(body))
        #expect(try kernel.text("vendor") == "0x10ee\n")
        #expect(!kernel.isAnswered(forgotten))
    }

    @Test func `truncation is a success that changes nothing, and modes cannot be changed`() throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let node = try kernel.walk("regs/scratch").nodeid
        var body = fuse_setattr_in()
        body.valid = UInt32(FATTR_SIZE)
        let reply = try kernel.call(FUSE_SETATTR, node, kernel.bytes(body))
        #expect(reply.error == 0 && reply.load(fuse_attr_out.self).attr.size == 11)
        body.valid = UInt32(FATTR_MODE)
        #expect(try kernel.call(FUSE_SETATTR, node, kernel.bytes(body)).error == EPERM)
    }

    @Test func `a writer that waits for another one's command is EINTR at once`() throws {
        let kernel = try FakeKernel()
        _ = try kernel.initialize()
        let ctl = try kernel.open("ctl", O_WRONLY)
        let first = kernel.send(FUSE_WRITE, ctl.node, kernel.writeBody(ctl, Array("reload\n".utf8)))
        let second = kernel.send(FUSE_WRITE, ctl.node, kernel.writeBody(ctl, Array("start\n".utf8)))
        kernel.interrupt(second)
        #expect(try kernel.reply(second).error == EINTR)
        #expect(!kernel.isAnswered(first))
        kernel.interrupt(first)
        #expect(try kernel.reply(first).error == EINTR)
        // A signal that overtakes its request ends it as well.
        var body = fuse_interrupt_in()
        body.unique = kernel.next + 2
        kernel.send(FUSE_INTERRUPT, 0, kernel.bytes(body))
        let late = kernel.send(FUSE_WRITE, ctl.node, kernel.writeBody(ctl, Array("flush\n".utf8)))
        #expect(try kernel.reply(late).error == EINTR)
    }
}
