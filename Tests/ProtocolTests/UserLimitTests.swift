import CFuse
import Glibc
import Testing

@testable import CardFS

/// No user takes all of a mount from the others, and root and the owner always have some.
@Suite(.timeLimit(.minutes(10))) struct UserLimitTests {
    /// What a user can have many of at a time.
    enum Wait: CaseIterable {
        case read, write, largeWrite, sync, line, command
    }

    private let owner: UInt32 = 500

    private func kernel(_ change: (inout MountOptions) -> Void) throws -> FakeKernel {
        let kernel = try FakeKernel {
            $0.uid = owner
            $0.transmitTimeoutNanoseconds = 0
            $0.lingerNanoseconds = 0
            change(&$0)
        }
        _ = try kernel.initialize()
        return kernel
    }

    /// A value of `metrics.prom` for one resource.
    private func figure(_ kernel: FakeKernel, _ name: String, _ resource: String) throws -> Int {
        let lines = try kernel.text("metrics.prom").split(separator: "\n")
        let line = lines.first { $0.hasPrefix("cardfs_\(name){") && $0.contains("resource=\"\(resource)\"") }
        return Int(try #require(line).split(separator: " ").last!)!
    }

    private func open(_ kernel: FakeKernel, _ path: String, as user: UInt32, _ flags: CInt = O_RDONLY) throws
        -> FakeKernel.Reply
    {
        kernel.user = user
        defer { kernel.user = 0 }
        return try kernel.openReply(kernel.walk(path).nodeid, flags)
    }

    @Test func `a user opens so many files and no more, and nobody else is refused`() throws {
        let kernel = try kernel { $0.userFiles = 3 }
        var handles: [UInt64] = []
        for path in ["state", "metrics.prom", "dma/tx"] {
            let reply = try open(kernel, path, as: 1000, path == "dma/tx" ? O_WRONLY : O_RDONLY)
            handles.append(reply.load(fuse_open_out.self).fh)
        }
        #expect(try open(kernel, "state", as: 1000).error == EMFILE)
        let sentence =
            "user 1000 has 3 files of the card open, as many as one user may have: -o user_files= at the mount"
        #expect(try kernel.text("last_error").contains(sentence))
        for user: UInt32 in [0, owner, 1001] {
            for _ in 0..<(user == 1001 ? 3 : 20) { #expect(try open(kernel, "state", as: user).error == 0) }
        }
        #expect(try open(kernel, "state", as: 1001).error == EMFILE)
        // One that is closed makes room for another.
        let node = try kernel.walk("state").nodeid
        try kernel.close(FakeKernel.File(node: node, handle: handles[0], openFlags: 0))
        #expect(try open(kernel, "state", as: 1000).error == 0)
        #expect(try open(kernel, "state", as: 1000).error == EMFILE)
        // An open that is refused for another reason counts nothing.
        try kernel.close(FakeKernel.File(node: node, handle: handles[1], openFlags: 0))
        for _ in 0..<5 { #expect(try open(kernel, "dma/tx", as: 1000, O_RDONLY).error == EACCES) }
        #expect(try open(kernel, "state", as: 1000).error == 0)
        #expect(try figure(kernel, "user_most", "files") == 3)
        #expect(try figure(kernel, "shared_refused_total", "files") == 3)
    }

    private struct Files {
        let rx, tx, log, ctl: FakeKernel.File

        init(_ kernel: FakeKernel) throws {
            rx = try kernel.open("dma/rx", O_RDONLY)
            tx = try kernel.open("dma/tx", O_WRONLY)
            log = try kernel.open("interrupts/log", O_RDONLY)
            ctl = try kernel.open("ctl", O_WRONLY)
        }
    }

    /// Makes requests of this kind wait; what is to be interrupted at the end.
    private func block(_ wait: Wait, _ kernel: FakeKernel, _ files: Files) throws -> [UInt64] {
        if case .command = wait {
            // A reload waits for a card that leaves, which this one does not: the card's worker has enough to do.
            return [kernel.send(FUSE_WRITE, files.ctl.node, kernel.writeBody(files.ctl, Array("reload\n".utf8)))]
        }
        // A transmitter that takes nothing is full for good.
        try kernel.setSim("fault", "hang-tx")
        while try kernel.pollEvents(files.tx) != 0 { _ = try kernel.write(files.tx, pattern(40_000)) }
        return []
    }

    /// Has a request wait, as a user, through a file that is open already; its number.
    private func begin(_ wait: Wait, _ kernel: FakeKernel, _ files: Files, as user: UInt32) -> UInt64 {
        kernel.user = user
        defer { kernel.user = 0 }
        switch wait {
        case .read: return kernel.send(FUSE_READ, files.rx.node, kernel.readBody(files.rx, 100))
        case .write:
            // Small ones are copied, and wait if they are synchronous.
            var tx = files.tx
            tx.flags = O_DSYNC
            return kernel.send(FUSE_WRITE, tx.node, kernel.writeBody(tx, pattern(1000)))
        case .largeWrite: return kernel.send(FUSE_WRITE, files.tx.node, kernel.writeBody(files.tx, pattern(40_000)))
        case .sync: return kernel.sync(files.tx)
        case .line: return kernel.send(FUSE_READ, files.log.node, kernel.readBody(files.log, 100))
        case .command:
            return kernel.send(FUSE_WRITE, files.ctl.node, kernel.writeBody(files.ctl, Array("start\n".utf8)))
        }
    }

    private static let sentences: [(Wait, resource: String, sentence: String)] = [
        (.read, "reads", "2 reads of dma/rx waiting, as many as one user may have: -o user_requests="),
        (.write, "writes", "2 writes to dma/tx waiting, as many as one user may have: -o user_requests="),
        (
            .largeWrite, "buffers",
            "2 MiB of payload in requests that wait, as many as one user may have: -o user_memory="
        ),
        (.sync, "barriers", "2 calls of fsync and close waiting, as many as one user may have: -o user_requests="),
        (
            .line, "line_reads",
            "2 reads of interrupts/log and trace waiting, as many as one user may have: -o user_requests="
        ),
        (.command, "commands", "2 commands waiting, as many as one user may have: -o user_requests="),
    ]

    @Test(arguments: sentences)
    func `a user has so many requests waiting and no more, and everybody else goes on`(
        wait: Wait,
        resource: String,
        sentence: String
    ) throws {
        let kernel = try kernel {
            $0.userRequests = wait == .largeWrite ? 100 : 2
            $0.userByteCount = 2 << 20
        }
        let files = try Files(kernel)
        let held = try block(wait, kernel, files)
        let before = try figure(kernel, "shared_now", resource)
        var waiting = (0..<2).map { _ in begin(wait, kernel, files, as: 1000) }
        #expect(try kernel.reply(begin(wait, kernel, files, as: 1000)).error == ENOMEM)
        #expect(try kernel.text("last_error").contains("user 1000 has " + sentence))
        for user: UInt32 in [0, owner, 1001] {
            waiting += (0..<(user == 1001 ? 2 : 4)).map { _ in begin(wait, kernel, files, as: user) }
        }
        #expect(waiting.allSatisfy { !kernel.isAnswered($0) })
        #expect(try kernel.reply(begin(wait, kernel, files, as: 1001)).error == ENOMEM)
        #expect(try figure(kernel, "shared_now", resource) == before + waiting.count)
        #expect(try figure(kernel, "user_most", resource) == 2)
        #expect(try figure(kernel, "shared_refused_total", resource) == 2)
        // One that a signal ends makes room for another.
        kernel.interrupt(waiting[0])
        _ = try kernel.reply(waiting[0])
        waiting[0] = begin(wait, kernel, files, as: 1000)
        #expect(!kernel.isAnswered(waiting[0]))
        for request in held + waiting {
            kernel.interrupt(request)
            _ = try kernel.reply(request)
        }
        #expect(try figure(kernel, "shared_now", resource) == 0)
        // What was counted is the most there was.
        #expect(try figure(kernel, "shared_most", resource) == before + waiting.count)
    }

    @Test func `many users together leave a quarter of the waiting requests to root and the owner`() throws {
        let kernel = try kernel { $0.userRequests = 50 }
        let files = try Files(kernel)
        let limit = try figure(kernel, "users_limit", "reads")
        #expect(try figure(kernel, "shared_limit", "reads") > limit)
        for index in 0..<limit { _ = begin(.read, kernel, files, as: 1000 + UInt32(index / 50)) }
        #expect(try kernel.reply(begin(.read, kernel, files, as: 2000)).error == ENOMEM)
        let sentence = "the users besides root and the owner of the mount have \(limit) reads of dma/rx waiting, user "
        #expect(try kernel.text("last_error").contains(sentence))
        for user: UInt32 in [0, owner] { #expect(!kernel.isAnswered(begin(.read, kernel, files, as: user))) }
    }

    @Test func `as many reads as there can be keep nobody from writing, nor from fsync and close`() throws {
        let kernel = try kernel { _ in }
        let files = try Files(kernel)
        try kernel.setSim("wire", "sink")
        let limit = try figure(kernel, "shared_limit", "reads")
        for _ in 0..<limit { _ = begin(.read, kernel, files, as: 0) }
        #expect(try kernel.reply(begin(.read, kernel, files, as: 0)).error == ENOMEM)
        #expect(
            try kernel.text("last_error").contains(
                "there are \(limit) reads of dma/rx waiting, as many as there can be"
            )
        )
        for user: UInt32 in [0, 1000] {
            kernel.user = user
            #expect(try kernel.write(files.tx, pattern(40_000)) == 40_000)
            #expect(try kernel.reply(kernel.sync(files.tx)).error == 0)
            #expect(try kernel.reply(kernel.flush(files.tx)).error == 0)
        }
    }

    @Test func `the accounts of users who have nothing are used for others, and what a user has stays counted`() throws
    {
        let kernel = try kernel { $0.userFiles = 1 }
        #expect(try open(kernel, "state", as: 1000).error == 0)
        let node = try kernel.walk("state").nodeid
        for user: UInt32 in 2000..<6000 {
            let reply = try open(kernel, "state", as: user)
            try #require(reply.error == 0)
            let handle = reply.load(fuse_open_out.self).fh
            if user % 16 == 0 { #expect(try open(kernel, "state", as: user).error == EMFILE) }
            try kernel.close(FakeKernel.File(node: node, handle: handle, openFlags: 0))
        }
        #expect(try open(kernel, "state", as: 1000).error == EMFILE)
        #expect(try figure(kernel, "user_most", "files") == 1)
    }

    @Test func `more users than there are accounts share one, and root is none of them`() throws {
        let kernel = try kernel { $0.userFiles = 2 }
        var refused = 0
        for user: UInt32 in 1000..<3000 where try open(kernel, "state", as: user).error == EMFILE { refused += 1 }
        // 512 accounts, and two files of the one that is shared.
        #expect(refused > 1000 && refused < 1600)
        #expect(try open(kernel, "state", as: 0).error == 0)
        #expect(try open(kernel, "state", as: owner).error == 0)
    }
}
