import CFuse
import DriverCore
import Glibc
import Synchronization
import Testing

@testable import CardFS

@Suite(.timeLimit(.minutes(10))) struct StreamProtocolTests {
    let kernel: FakeKernel

    init() throws {
        kernel = try FakeKernel {
            $0.receiverByteCount = 65_536
            $0.gatherNanoseconds = 1_000_000
            // Nothing here is about time.
            $0.transmitTimeoutNanoseconds = 0
            $0.lingerNanoseconds = 60_000_000_000
        }
        _ = try kernel.initialize()
    }

    @Test(
        arguments: [
            (100, O_WRONLY, true), (16_383, O_WRONLY, true), (16_384, O_WRONLY, false), (20_480, O_WRONLY, false),
            (4096, O_WRONLY | 0o40000, false),
        ] as [(Int, CInt, Bool)]
    )
    func `a payload is page-aligned, and copied only if it is small`(size: Int, flags: CInt, isCopied: Bool) throws {
        let tx = try kernel.open("dma/tx", flags)
        let rx = try kernel.open("dma/rx", O_RDONLY)
        #expect(try kernel.write(tx, pattern(size)) == size)
        let plan = try kernel.text("dma/plan")
        #expect(plan.contains("method \(isCopied ? "buffered" : "direct")\n"))
        #expect(plan.contains("memory \(isCopied ? "system_buffer" : "request")\n"))
        #expect(
            plan.contains("pages \((size + 4095) / 4096)\n")
                && plan.contains("map_registers 0\nelements 1\nbounced_bytes 0\n")
        )
        #expect(try kernel.read(rx, size).bytes == pattern(size))
    }

    @Test func `the buffer of a direct write comes back when the card is done`() throws {
        let tx = try kernel.open("dma/tx", O_WRONLY)
        let arena = kernel.fileSystem.device.arena
        let free = arena.pointee.freeReceiveBuffers
        try kernel.setSim("wire", "sink")
        for _ in 0..<200 { #expect(try kernel.write(tx, pattern(20_000)) == 20_000) }
        #expect(try kernel.reply(kernel.sync(tx)).error == 0)
        #expect(arena.pointee.freeReceiveBuffers == free)
        #expect(try kernel.metric("tx_sent_bytes_total") == 4_000_000)
    }

    @Test func `flush waits for the bytes, and release closes`() throws {
        let tx = try kernel.open("dma/tx", O_WRONLY)
        #expect(try kernel.write(tx, pattern(1000)) == 1000)
        #expect(try kernel.reply(kernel.flush(tx)).error == 0)
        #expect(try kernel.metric("tx_sent_bytes_total") == 1000)
        let open = try kernel.metric("open_files")
        try kernel.close(tx)
        #expect(try kernel.metric("open_files") == open - 1)
    }

    @Test func `an interrupted read is EINTR once, and the late bytes are the next reader's`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let tx = try kernel.open("dma/tx", O_WRONLY)
        let parked = kernel.send(FUSE_READ, rx.node, kernel.readBody(rx, 100))
        #expect(!kernel.isAnswered(parked))
        kernel.interrupt(parked)
        #expect(try kernel.reply(parked).error == EINTR)
        kernel.interrupt(parked)
        #expect(try kernel.write(tx, pattern(100)) == 100)
        #expect(try kernel.read(rx, 100).bytes == pattern(100))
        #expect(!kernel.receive(milliseconds: 20))
    }

    @Test func `a signal that overtakes its request ends it`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        var body = fuse_interrupt_in()
        // The next message but one.
        body.unique = kernel.sync(try kernel.open("dma/tx", O_WRONLY)) + 4
        kernel.send(FUSE_INTERRUPT, 0, kernel.bytes(body))
        let parked = kernel.send(FUSE_READ, rx.node, kernel.readBody(rx, 100))
        #expect(parked == body.unique)
        #expect(try kernel.reply(parked).error == EINTR)
    }

    @Test func `a signal that overtakes a synchronous write lets it tell what was accepted`() throws {
        var tx = try kernel.open("dma/tx", O_WRONLY)
        tx.flags = O_DSYNC
        try kernel.setSim("fault", "hang-tx")
        var body = fuse_interrupt_in()
        body.unique = kernel.next + 2
        kernel.send(FUSE_INTERRUPT, 0, kernel.bytes(body))
        #expect(try kernel.write(tx, pattern(100)) == 100)
        #expect(try kernel.metric("tx_accepted_bytes_total") == 100)
    }

    @Test func `an interrupted write and fsync are EINTR, and stored nothing of the write`() throws {
        let tx = try kernel.open("dma/tx", O_WRONLY)
        // A transmitter that takes nothing is full for good.
        try kernel.setSim("fault", "hang-tx")
        var accepted = 0
        while try kernel.pollEvents(tx) != 0 { accepted += try kernel.write(tx, pattern(40_000)) }
        let parked = kernel.send(FUSE_WRITE, tx.node, kernel.writeBody(tx, pattern(40_000)))
        let sync = kernel.sync(tx)
        #expect(!kernel.isAnswered(parked) && !kernel.isAnswered(sync))
        kernel.interrupt(parked)
        kernel.interrupt(sync)
        #expect(try kernel.reply(parked).error == EINTR)
        #expect(try kernel.reply(sync).error == EINTR)
        try kernel.setSim("fault", "none")
        try kernel.setSim("wire", "sink")
        #expect(try kernel.reply(kernel.sync(tx)).error == 0)
        #expect(try kernel.metric("tx_accepted_bytes_total") == accepted)
        #expect(try kernel.metric("tx_sent_bytes_total") == accepted)
    }

    @Test(arguments: [O_DSYNC, O_DSYNC | O_NONBLOCK])
    func `a synchronous write that a signal ends tells what was accepted`(flags: CInt) throws {
        var tx = try kernel.open("dma/tx", O_WRONLY)
        tx.flags = flags
        try kernel.setSim("fault", "hang-tx")
        for size in [100, 40_000] {
            let parked = kernel.send(FUSE_WRITE, tx.node, kernel.writeBody(tx, pattern(size)))
            #expect(!kernel.isAnswered(parked))
            kernel.interrupt(parked)
            let reply = try kernel.reply(parked)
            #expect(reply.error == 0 && reply.load(fuse_write_out.self).size == size)
        }
    }

    @Test func `nonblocking is EAGAIN with a sentence`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY | O_NONBLOCK)
        #expect(try kernel.read(rx, 100).error == EAGAIN)
        #expect(try kernel.text("last_error").contains(" dma/rx EAGAIN "))
    }

    @Test func `a packet is at most 255 pages`() throws {
        _ = try kernel.write(kernel.open("dma/framing"), "packet\n")
        let kernelLimit = kernel.fileSystem.mount.pointee.maximumPacketLength
        #expect(kernelLimit == 1_044_480)
        kernel.fileSystem.mount.pointee.packetLimit.store(50_000, ordering: .relaxed)
        let tx = try kernel.open("dma/tx", O_WRONLY)
        #expect(try kernel.write(tx, pattern(50_001)) == -Int(EMSGSIZE))
        #expect(try kernel.write(tx, pattern(50_000)) == 50_000)
        #expect(try kernel.read(kernel.open("dma/rx", O_RDONLY), 60_000).bytes == pattern(50_000))
        #expect(try kernel.text("dma/rx_end") == "EOP\n")
        #expect(try kernel.text("last_error").contains(" dma/tx EMSGSIZE "))
    }

    @Test func `the flags of each request count, not those of the open`() throws {
        let tx = try kernel.open("dma/tx", O_WRONLY)
        var rx = try kernel.open("dma/rx", O_RDONLY)
        rx.flags |= O_NONBLOCK
        #expect(try kernel.read(rx, 100).error == EAGAIN)
        rx = try kernel.open("dma/rx", O_RDONLY | O_NONBLOCK)
        rx.flags &= ~O_NONBLOCK
        let parked = kernel.send(FUSE_READ, rx.node, kernel.readBody(rx, 100))
        #expect(!kernel.isAnswered(parked))
        #expect(try kernel.write(tx, pattern(100)) == 100)
        #expect(try kernel.reply(parked).bytes == pattern(100))
        var log = try kernel.open("interrupts/log", O_RDONLY)
        log.flags |= O_NONBLOCK
        #expect(try kernel.read(log).error == EAGAIN)
    }

    @Test func `a synchronous write waits for the card, by its own flags`() throws {
        var tx = try kernel.open("dma/tx", O_WRONLY)
        try kernel.setSim("fault", "hang-tx")
        #expect(try kernel.write(tx, pattern(100)) == 100)
        tx.flags |= O_DSYNC
        let parked = kernel.send(FUSE_WRITE, tx.node, kernel.writeBody(tx, pattern(100)))
        #expect(!kernel.isAnswered(parked))
        try kernel.setSim("fault", "none")
        #expect(try kernel.reply(parked).error == 0)
        #expect(try kernel.metric("tx_sent_bytes_total") == 200)
    }

    @Test func `a flush by who wrote nothing is answered at once, and one by who wrote waits`() throws {
        var tx = try kernel.open("dma/tx", O_WRONLY)
        try kernel.setSim("fault", "hang-tx")
        for owner in 1...3 as ClosedRange<UInt64> {
            tx.owner = owner
            #expect(try kernel.write(tx, pattern(100)) == 100)
        }
        tx.owner = 4
        #expect(try kernel.reply(kernel.flush(tx)).error == 0)
        let parked = (1...3 as ClosedRange<UInt64>).map { owner in
            tx.owner = owner
            return kernel.flush(tx)
        }
        #expect(!parked.contains { kernel.isAnswered($0) })
        try kernel.setSim("fault", "none")
        for flush in parked { #expect(try kernel.reply(flush).error == 0) }
    }

    // MARK: Poll

    /// The handles that were notified so far; waits until there are `count`.
    private func notified(_ count: Int) throws -> [UInt64] {
        _ = eventually {
            kernel.receive(milliseconds: 10)
            return kernel.notifications.count >= count
        }
        #expect(kernel.notifications.allSatisfy { $0.error == CInt(FUSE_NOTIFY_POLL.rawValue) })
        return kernel.notifications.map { $0.load(fuse_notify_poll_wakeup_out.self).kh }
    }

    @Test func `a file that was polled once is notified again after each read that found too little`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY | O_NONBLOCK)
        let tx = try kernel.open("dma/tx", O_WRONLY)
        #expect(try kernel.pollEvents(rx, handle: 9) == 0)
        var sent = 0
        for round in 1...5 {
            #expect(try kernel.write(tx, pattern(10)) == 10)
            sent += 10
            #expect(try notified(round) == [UInt64](repeating: 9, count: round))
            var got = 0
            while got < 10 { got += try kernel.read(rx, 10).bytes.count }
            if round % 2 == 0 {
                #expect(try kernel.read(rx, 10).error == EAGAIN)
            } else {
                // A read that gets less than it asks for has drained the file too.
                #expect(try kernel.write(tx, pattern(3)) == 3)
                sent += 3
                let hasCome = try eventually { try kernel.metric("rx_arrived_bytes_total") == sent }
                #expect(try hasCome && kernel.read(rx, 10).bytes.count == 3)
            }
        }
    }

    @Test func `room is told to a writer that got EAGAIN, again and again`() throws {
        let tx = try kernel.open("dma/tx", O_WRONLY | O_NONBLOCK)
        #expect(try kernel.pollEvents(tx, handle: 5) & UInt32(POLLOUT) != 0)
        for round in 1...3 {
            try kernel.setSim("wire", "loopback")
            try kernel.setSim("fault", "hang-tx")
            while try kernel.write(tx, pattern(40_000)) > 0 {}
            #expect(kernel.notifications.count == round - 1)
            try kernel.setSim("wire", "sink")
            try kernel.setSim("fault", "none")
            #expect(try notified(round).count == round)
            #expect(
                try eventually { try kernel.metric("tx_sent_bytes_total") == kernel.metric("tx_accepted_bytes_total") }
            )
        }
    }

    @Test func `who polls for nothing hears of a removal, and not of bytes`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let idle = try kernel.open("regs/scratch", O_RDONLY)
        let nothing = POLLERR | POLLHUP
        _ = try kernel.pollEvents(rx, handle: 7, events: nothing)
        _ = try kernel.pollEvents(idle, handle: 8, events: nothing)
        #expect(try kernel.write(kernel.open("dma/tx", O_WRONLY), pattern(10)) == 10)
        #expect(try eventually { try kernel.metric("rx_arrived_bytes_total") == 10 } as Bool)
        #expect(!kernel.receive(milliseconds: 20) && kernel.notifications.isEmpty)
        #expect(try kernel.write(kernel.open("ctl"), "remove\n") == 7)
        #expect(try Set(notified(2)) == [7, 8])
        #expect(try kernel.pollEvents(rx, events: nothing) & UInt32(POLLHUP) != 0)
        #expect(try kernel.pollEvents(idle, events: nothing) & UInt32(POLLHUP) != 0)
    }

    @Test func `who polls is told when bytes come, once`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let tx = try kernel.open("dma/tx", O_WRONLY)
        #expect(try kernel.pollEvents(tx) & UInt32(POLLOUT) != 0)
        #expect(try kernel.pollEvents(rx, handle: 77) == 0)
        #expect(try kernel.write(tx, pattern(10)) == 10)
        #expect(
            eventually {
                kernel.receive(milliseconds: 10)
                return !kernel.notifications.isEmpty
            }
        )
        let notification = try #require(kernel.notifications.first)
        #expect(notification.error == CInt(FUSE_NOTIFY_POLL.rawValue))
        #expect(notification.load(fuse_notify_poll_wakeup_out.self).kh == 77)
        #expect(try kernel.pollEvents(rx, handle: 77) & UInt32(POLLIN) != 0)
        #expect(try kernel.write(tx, pattern(10)) == 10)
        #expect(try kernel.read(rx, 20).bytes.count > 0)
        #expect(kernel.notifications.count == 1)
    }

    @Test func `a change of state is told to who polls for it`() throws {
        let state = try kernel.open("state", O_RDONLY)
        #expect(try kernel.read(state).text == "pnp Started\npower D0\n")
        #expect(try kernel.pollEvents(state, handle: 5) == 0)
        #expect(try kernel.write(kernel.open("ctl"), "reset\n") == 6)
        #expect(
            eventually {
                kernel.receive(milliseconds: 10)
                return !kernel.notifications.isEmpty
            }
        )
        #expect(try kernel.pollEvents(state) & UInt32(POLLPRI) != 0)
        #expect(try kernel.read(state).text == "pnp Started\npower D0\n")
        #expect(try kernel.pollEvents(state) == 0)
    }

    // MARK: The interrupt log

    @Test func `a reader of the log waits for an interrupt, and gets whole lines in any read size`() throws {
        let log = try kernel.open("interrupts/log", O_RDONLY)
        let tx = try kernel.open("dma/tx", O_WRONLY)
        let parked = kernel.send(FUSE_READ, log.node, kernel.readBody(log, 5))
        #expect(!kernel.isAnswered(parked))
        #expect(try kernel.write(tx, pattern(10)) == 10)
        var text = try kernel.reply(parked).text
        while !text.contains("\n") { text += try kernel.read(log, 7).text }
        let fields = text.split(separator: "\n")[0].split(separator: " ")
        #expect(fields.count == 4 && UInt64(fields[0]) != nil && fields[1].contains(".") && fields[3] == "1")
        #expect(try kernel.text("interrupts/count") != "0\n")
    }

    @Test func `every reader of the log gets its lines, however many there are`() throws {
        let logs = try (0..<50).map { _ in try kernel.open("interrupts/log", O_RDONLY) }
        let tx = try kernel.open("dma/tx", O_WRONLY)
        for _ in 0..<2 {
            let parked = logs.map { kernel.send(FUSE_READ, $0.node, kernel.readBody($0, 4096)) }
            #expect(try kernel.write(tx, pattern(10)) == 10)
            for read in parked { #expect(try kernel.reply(read).text.hasSuffix(" 1\n")) }
            #expect(try kernel.reply(kernel.sync(tx)).error == 0)
            for log in logs {
                var log = log
                log.flags |= O_NONBLOCK
                while try kernel.read(log).error == 0 {}
            }
        }
    }

    @Test func `an interrupted reader of the log is EINTR, and the next one waits on`() throws {
        let log = try kernel.open("interrupts/log", O_RDONLY)
        let nonblocking = try kernel.open("interrupts/log", O_RDONLY | O_NONBLOCK)
        #expect(try kernel.read(nonblocking).error == EAGAIN)
        let reads = (0..<2).map { _ in kernel.send(FUSE_READ, log.node, kernel.readBody(log, 4096)) }
        kernel.interrupt(reads[0])
        #expect(try kernel.reply(reads[0]).error == EINTR)
        #expect(try kernel.write(kernel.open("dma/tx", O_WRONLY), pattern(10)) == 10)
        #expect(try kernel.reply(reads[1]).text.hasSuffix(" 1\n"))
    }

    @Test func `a signal that overtakes a read of the log ends it`() throws {
        let log = try kernel.open("interrupts/log", O_RDONLY)
        var body = fuse_interrupt_in()
        body.unique = kernel.sync(try kernel.open("dma/tx", O_WRONLY)) + 4
        kernel.send(FUSE_INTERRUPT, 0, kernel.bytes(body))
        let parked = kernel.send(FUSE_READ, log.node, kernel.readBody(log, 4096))
        #expect(try kernel.reply(parked).error == EINTR)
    }

    @Test func `a mount that ends answers who waits`() throws {
        let rx = try kernel.open("dma/rx", O_RDONLY)
        let log = try kernel.open("interrupts/log", O_RDONLY)
        let reads = [rx, log].map { kernel.send(FUSE_READ, $0.node, kernel.readBody($0, 100)) }
        kernel.session.end()
        for read in reads { #expect(try kernel.reply(read).error == ENODEV) }
    }
}
