import Glibc
import TestSupport
import Testing

extension MountTests {
    /// Users who take all they can get.
    @Suite(.enabled(if: geteuid() == 0, "only root can be another user")) struct UserLimitTests {
        /// Functions for Python: `become(user)`, `figure(name, resource)`.
        private static let prelude = """
            import resource
            def eventually(call):
                for _ in range(1000):
                    if call(): return
                    time.sleep(0.01)
                raise AssertionError("never")
            def become(user): os.setgroups([]); os.setgid(user); os.setuid(user)
            def figure(name, kind):
                for line in open(M + "/metrics.prom"):
                    if line.startswith("cardfs_" + name + "{") and 'resource="' + kind + '"' in line: return int(line.split()[-1])

            """

        @Test func `one user's blocked readers keep nobody else from reading, writing, fsync and close`() async throws {
            let card = try MountedCard("allow_other,mode=666,user_requests=50")
            await card.run("chmod 755 $(dirname $M)")
            await card.check(
                Self.prelude + """
                    told = os.pipe()
                    greedy = os.fork()
                    if greedy == 0:
                        become(65534)
                        threading.stack_size(65536)
                        def wait():
                            try: os.read(opened("dma/rx"), 10)
                            except OSError as error: os.write(told[1], b"%d\\n" % error.errno)
                        for _ in range(200): threading.Thread(target=wait).start()
                        time.sleep(60)
                        os._exit(1)
                    os.close(told[1])
                    answers = os.fdopen(told[0])
                    try:
                        # All but the fifty that wait are refused.
                        refused = [int(answers.readline()) for _ in range(150)]
                        assert refused == [errno.ENOMEM] * 150, set(refused)
                        assert figure("shared_now", "reads") == 50
                        assert figure("user_limit", "reads") == 50 and figure("user_most", "reads") == 50
                        assert "user 65534 has 50 reads of dma/rx waiting" in read("last_error").decode()
                        for user in 65533, 0:
                            child = os.fork()
                            if child == 0:
                                status = 1
                                try:
                                    if user: become(user)
                                    tx = os.open(M + "/dma/tx", os.O_WRONLY)
                                    os.write(tx, b"x" * 100000); os.fsync(tx); os.close(tx)
                                    status = 0
                                finally: os._exit(status)
                            assert os.waitpid(child, 0)[1] == 0, user
                    finally:
                        os.kill(greedy, signal.SIGKILL); os.waitpid(greedy, 0)
                    eventually(lambda: figure("shared_now", "reads") == 0)
                    """,
                timeout: .seconds(60)
            )
        }

        @Test func `a user who opens all he can leaves files for root, and the memory comes back`() async throws {
            let card = try MountedCard("allow_other,mode=666,user_files=1000")
            await card.run("chmod 755 $(dirname $M)")
            await card.check(
                Self.prelude + """
                    limit = figure("user_limit", "files")
                    def resident():
                        status = open("/proc/%d/status" % metric("daemon_process_id")).read()
                        return int(status.split("VmRSS:")[1].split()[0])
                    before = resident()
                    ready, go = os.pipe(), os.pipe()
                    child = os.fork()
                    if child == 0:
                        status = 1
                        try:
                            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + 100, limit + 100))
                            become(65534)
                            held = []
                            try:
                                while True:
                                    held.append(os.open(M + "/metrics.prom", os.O_RDONLY))
                                    os.read(held[-1], 1 << 16)
                            except OSError as error: assert error.errno == errno.EMFILE, error
                            assert len(held) == limit, len(held)
                            os.write(ready[1], b"x"); os.read(go[0], 1)
                            status = 0
                        finally: os._exit(status)
                    os.close(ready[1])
                    assert os.read(ready[0], 1) == b"x"
                    assert "user 65534 has %d files of the card open" % limit in read("last_error").decode()
                    assert resident() - before < 30 << 10, resident() - before
                    os.write(go[1], b"x")
                    assert os.waitpid(child, 0)[1] == 0
                    eventually(lambda: figure("shared_now", "files") == 1)
                    eventually(lambda: resident() - before < 10 << 10)
                    """,
                timeout: .seconds(60)
            )
        }

        @Test func `only who can map the ring borrows from it`() async throws {
            let card = try MountedCard("allow_other,mode=666")
            await card.run("chmod 755 $(dirname $M)")
            await card.check(
                Self.prelude + """
                    import fcntl
                    child = os.fork()
                    if child == 0:
                        status = 1
                        try:
                            become(65534)
                            rx = os.open(M + "/dma/rx", os.O_RDONLY | os.O_NONBLOCK)
                            code = 0xc0000000 | 536 << 16 | ord("C") << 8 | 5
                            try: fcntl.ioctl(rx, code, bytearray(536))
                            except OSError as error: status = 0 if error.errno == errno.EACCES else error.errno
                        finally: os._exit(status)
                    assert os.waitpid(child, 0)[1] == 0
                    assert "the ring is lent to those who can map dma/buffer, root and user 0 who serves" in read("last_error").decode()
                    """
            )
        }
    }
}
