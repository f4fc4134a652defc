import CFuse
import CardFS
import Glibc
import Testing

@Suite(.timeLimit(.minutes(10))) struct RegisterProtocolTests {
    let kernel: FakeKernel

    init() throws {
        kernel = try FakeKernel()
        _ = try kernel.initialize()
    }

    @Test func `a text register is sampled by the read at offset 0, in one bus access`() throws {
        let file = try kernel.open("regs/scratch")
        let raw = try kernel.open("resource0")
        #expect(try kernel.write(file, "0x12345678\n") == 11)
        let before = try kernel.metric("register_reads_total")
        #expect(try kernel.read(file, 4).text == "0x12")
        #expect(try kernel.write(raw, [1, 2, 3, 4], at: 0x108) == 4)
        #expect(try kernel.read(file, 4, at: 4).text == "3456")
        #expect(try kernel.read(file, 100, at: 8).text == "78\n")
        #expect(try kernel.read(file, 100, at: 11).text == "")
        #expect(try kernel.metric("register_reads_total") == before + 1)
        #expect(try kernel.read(file, 100).text == "0x04030201\n")
    }

    @Test func `another open file has a sample of its own`() throws {
        let first = try kernel.open("regs/scratch")
        let second = try kernel.open("regs/scratch")
        _ = try kernel.write(first, "1")
        _ = try kernel.read(first, 1)
        _ = try kernel.write(first, "2")
        _ = try kernel.read(second, 1)
        #expect(try kernel.read(first, 100, at: 2).text == "00000001\n")
        #expect(try kernel.read(second, 100, at: 2).text == "00000002\n")
    }

    @Test(
        arguments: [
            ("regs/scratch", "12\n", 0), ("regs/scratch", "0xffffffff", 0), ("regs/scratch", "0x0f:0xff\n", 0),
            ("regs/scratch", "", 0),
            ("regs/scratch", "\n", EINVAL), ("regs/scratch", "010", EINVAL), ("regs/scratch", "twelve\n", EINVAL),
            ("regs/scratch", "0x100000000", ERANGE), ("regs/0x20010.b", "256", ERANGE), ("regs/0x20010.b", "255", 0),
            ("regs/control", "1", EBUSY), ("regs/txdesc", "1:1", EBUSY), ("offset", "0x10\n", 0),
            ("offset", "2\n", EINVAL),
            ("offset", "0x1ffc", 0), ("offset", "0x2000", ERANGE), ("offset", "x", EINVAL), ("bar0", "7", 0),
            ("bar0", "0x1:", EINVAL),
            ("dma/framing", "packets\n", EINVAL), ("dma/framing", "packet\n", 0), ("ctl", "nothing\n", EINVAL),
            ("ctl", "\n", EINVAL),
            ("sim/wire", "ring", EINVAL),
        ] as [(String, String, CInt)]
    )
    func `what is written is taken whole, or refused with an errno and a sentence`(
        path: String,
        line: String,
        code: CInt
    ) throws {
        let file = try kernel.open(path, O_WRONLY)
        #expect(try kernel.write(file, line) == (code == 0 ? line.utf8.count : -Int(code)))
        let errors = try kernel.text("last_error")
        if code == 0 {
            #expect(errors.isEmpty)
        } else {
            let name: [CInt: String] = [EINVAL: "EINVAL", ERANGE: "ERANGE", EBUSY: "EBUSY"]
            #expect(
                errors.contains(" \(FakeKernel.process) \(path) \(name[code]!) ")
                    && errors.split(separator: "\n").count == 1
            )
        }
    }

    @Test func `the offset is the mount's, and selects what bar0 reaches`() throws {
        let offset = try kernel.open("offset")
        let window = try kernel.open("bar0")
        _ = try kernel.write(offset, "0x40\n")
        #expect(try kernel.text("offset") == "0x00000040\n")
        _ = try kernel.write(window, "0xabcd0000:0xffff0000\n")
        #expect(try kernel.text("regs/0x20040") == "0xabcd0000\n")
        #expect(try kernel.text("bar0") == "0xabcd0000\n")
    }

    @Test(
        arguments: [
            (0x20010, 1, 0), (0x20010, 2, 0), (0x20010, 4, 0), (0x20010, 8, 0), (0x20010, 12, 0), (0x20010, 4096, 0),
            (0x20010, 3, EINVAL), (0x20010, 6, EINVAL), (0x20011, 2, EINVAL), (0x20012, 4, EINVAL),
            (0x20014, 8, EINVAL),
        ] as [(UInt64, Int, CInt)]
    )
    func `a BAR is reached in natural accesses`(offset: UInt64, count: Int, code: CInt) throws {
        let file = try kernel.open("resource0")
        let data = pattern(count)
        #expect(try kernel.write(file, data, at: offset) == (code == 0 ? count : -Int(code)))
        let reply = try kernel.read(file, count, at: offset)
        #expect(reply.error == code && (code != 0 || reply.bytes == data))
    }

    @Test func `a BAR ends where it ends, and no write goes beyond`() throws {
        let size = try kernel.walk("resource0").attr.size
        let file = try kernel.open("resource0")
        #expect(try kernel.read(file, 4, at: size).bytes.isEmpty)
        #expect(try kernel.read(file, 4, at: size + 4096).bytes.isEmpty)
        #expect(try kernel.read(file, 16, at: size - 8).bytes.count == 8)
        #expect(try kernel.write(file, [0, 0, 0, 0], at: size) == -Int(ERANGE))
        #expect(try kernel.write(file, [UInt8](repeating: 0, count: 16), at: size - 8) == -Int(ERANGE))
    }

    @Test func `BAR2 is read, and written only where the mount allows it`() throws {
        let file = try kernel.open("resource2")
        #expect(try kernel.read(file, 4).bytes.count == 4)
        #expect(try kernel.write(file, [0, 0, 0, 0]) == -Int(EACCES))
        #expect(try kernel.text("last_error").contains("allow_bar2_writes"))
        let allowed = try FakeKernel { $0.allowBAR2Writes = true }
        _ = try allowed.initialize()
        #expect(try allowed.write(allowed.open("resource2"), [0, 0, 0, 0]) == 4)
    }

    @Test func `a register of the driver is written with expert`() throws {
        let expert = try FakeKernel { $0.expert = true }
        _ = try expert.initialize()
        #expect(try expert.write(expert.open("regs/txdesc"), "0x100000\n") == 9)
    }

    @Test(arguments: ["gone", "zeros"])
    func `a card that is gone is ENODEV`(fault: String) throws {
        let file = try kernel.open("regs/scratch")
        _ = try kernel.write(file, "0x12345678\n")
        try kernel.setSim("fault", fault)
        #expect(try kernel.read(file).error == ENODEV)
        #expect(try kernel.read(kernel.open("resource0"), 4, at: 0x108).error == ENODEV)
        #expect(try kernel.text("last_error").contains(" regs/scratch ENODEV "))
    }

    @Test func `a zero that is one is believed`() throws {
        let file = try kernel.open("regs/0x20010")
        #expect(try kernel.read(file).text == "0x00000000\n")
        _ = try kernel.write(file, "0xffffffff")
        #expect(try kernel.read(file).text == "0xffffffff\n")
    }

    @Test func `configuration space has its widths, and ends`() throws {
        let file = try kernel.open("config")
        #expect(try kernel.read(file, 4).bytes == [0xee, 0x10, 0x50, 0x53])
        #expect(try kernel.read(file, 1, at: 1).bytes == [0x10])
        #expect(try kernel.read(file, 4096, at: 4000).bytes.count == 96)
        #expect(try kernel.read(file, 1, at: 4096).bytes.isEmpty)
        #expect(try kernel.write(file, [0], at: 4096) == -Int(ERANGE))
    }

    @Test(arguments: [(0, 0), (1000, 0), (1001, EACCES)] as [(UInt32, CInt)])
    func `an ioctl tells the address of BAR0 to root and the owner alone`(user: UInt32, code: CInt) throws {
        let kernel = try FakeKernel { $0.uid = 1000 }
        _ = try kernel.initialize()
        let window = try kernel.open("bar0")
        kernel.user = user
        for (command, size) in [(0x8004_4303, 4), (0x8008_4304, 8), (0x8004_4302, 4)] as [(UInt32, UInt32)] {
            var body = fuse_ioctl_in()
            body.fh = window.handle
            body.cmd = command
            body.out_size = size
            let reply = try kernel.call(FUSE_IOCTL, window.node, kernel.bytes(body))
            // The last of them reads a register, which the mode of the file decides.
            #expect(reply.error == (command == 0x8004_4302 ? 0 : code))
        }
        kernel.user = 0
        #expect(try kernel.text("last_error").contains("is for the owner of the mount") == (code != 0))
    }

    @Test func `what fills a page reads no register`() throws {
        for path in ["resource0", "resource2", "config"] {
            let file = try kernel.open(path)
            var body = fuse_read_in()
            body.fh = file.handle
            body.size = 4096
            #expect(try kernel.call(FUSE_READ, file.node, kernel.bytes(body)).error == EIO)
            #expect(try kernel.text("last_error").contains(" \(path) EIO "))
        }
        #expect(try kernel.metric("register_reads_total") == 0)
    }
}
