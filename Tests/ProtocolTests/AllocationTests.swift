import CFuse
import CProbe
import CardFS
import Glibc
import Testing

/// What a request costs on the thread that receives and serves it. libfuse's own allocation of its request is its own.
@Suite(.serialized, .timeLimit(.minutes(10)), .enabled(if: cprobe_available() == 1)) struct AllocationTests {
    static let rounds = 200

    let kernel: FakeKernel

    init() throws {
        kernel = try FakeKernel { $0.gatherNanoseconds = 0 }
        _ = try kernel.initialize()
    }

    /// Serves the same request many times and expects that cardfs allocates and retains nothing.
    private func expectFree(
        _ opcode: fuse_opcode,
        _ file: FakeKernel.File,
        _ body: [UInt8],
        before: () throws -> Void = {}
    ) throws {
        var sum = cprobe_counts()
        for round in 0..<Self.rounds + 3 {
            try before()
            let unique = kernel.next
            kernel.post(opcode, file.node, body)
            let session = kernel.session
            cprobe_start()
            let isServed = session.serveOne()
            let counts = cprobe_stop()
            #expect(isServed)
            #expect(try kernel.reply(unique).error == 0)
            guard round >= 3 else { continue }
            sum.allocations += counts.allocations
            sum.retains += counts.retains
            sum.fuse_allocations += counts.fuse_allocations
        }
        #expect(sum.allocations == 0 && sum.retains == 0)
        #expect(sum.fuse_allocations <= 2 * UInt64(Self.rounds))
    }

    @Test(arguments: ["regs/scratch", "regs/0x20010", "regs/0x20010.q", "bar0", "offset"])
    func `a read of a register allocates and retains nothing`(path: String) throws {
        // Zero would be doubted, and the card asked for its vendor ID.
        let window = try kernel.open("resource0")
        for offset in [0x108, 0x20000, 0x20010] as [UInt64] {
            #expect(try kernel.write(window, pattern(8, seed: 1), at: offset) == 8)
        }
        let file = try kernel.open(path)
        try expectFree(FUSE_READ, file, kernel.readBody(file, 4096))
    }

    @Test(arguments: [("regs/scratch", "0x1234\n"), ("regs/scratch", "1:0xff"), ("bar0", "77\n"), ("offset", "0x40\n")])
    func `a write to a register allocates and retains nothing`(path: String, line: String) throws {
        let file = try kernel.open(path)
        try expectFree(FUSE_WRITE, file, kernel.writeBody(file, Array(line.utf8)))
    }

    @Test(arguments: [4, 8, 4096])
    func `an access to a BAR allocates and retains nothing`(size: Int) throws {
        let file = try kernel.open("resource0")
        try expectFree(FUSE_WRITE, file, kernel.writeBody(file, pattern(size), 0x20000))
        try expectFree(FUSE_READ, file, kernel.readBody(file, size, 0x20000))
    }

    @Test(arguments: [100, 4096, 20_000, 100_000])
    func `a DMA write allocates and retains nothing, copied or not`(size: Int) throws {
        try kernel.setSim("wire", "sink")
        let tx = try kernel.open("dma/tx", O_WRONLY)
        try expectFree(FUSE_WRITE, tx, kernel.writeBody(tx, pattern(size)))
        let sync = fuse_fsync_in(fh: tx.handle, fsync_flags: 0, padding: 0)
        try expectFree(FUSE_FSYNC, tx, kernel.bytes(sync))
    }

    @Test(arguments: [100, 100_000, 1 << 20])
    func `a mapped read allocates and retains nothing`(size: Int) throws {
        try kernel.setSim("wire", "source")
        let rx = try kernel.open("dma/rx", O_RDONLY)
        var message = [UInt8](repeating: 0, count: 536)
        message.withUnsafeMutableBytes {
            // Everything that was lent is given back first.
            $0.storeBytes(of: .max, toByteOffset: 0, as: UInt32.self)
            $0.storeBytes(of: UInt64(size), toByteOffset: 8, as: UInt64.self)
        }
        var body = fuse_ioctl_in()
        body.fh = rx.handle
        body.cmd = 0xc218_4305
        body.in_size = 536
        body.out_size = 536
        try expectFree(FUSE_IOCTL, rx, kernel.bytes(body) + message) {
            let isThere = try eventually { try kernel.pollEvents(rx) != 0 }
            #expect(isThere)
        }
    }

    @Test(arguments: [100, 4096, 20_000, 100_000])
    func `a DMA read allocates and retains nothing, copied or not`(size: Int) throws {
        try kernel.setSim("wire", "source")
        let rx = try kernel.open("dma/rx", O_RDONLY)
        try expectFree(FUSE_READ, rx, kernel.readBody(rx, size)) {
            let isThere = try eventually { try kernel.pollEvents(rx) != 0 }
            #expect(isThere)
        }
    }
}
