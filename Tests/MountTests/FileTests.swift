import TestSupport
import Testing

extension MountTests {
    /// Files as programs see them that ask for size and times first: archivers, servers, copy functions of run-times.
    @Suite struct FileTests {
        @Test func `the size of a file is what a read of it finds, and no read beyond finds more`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/tx", "hello"); read("dma/rx", 5); fails(errno.EINVAL, "ctl", "", lambda: write("ctl", "x"))
                for folder, _, names in os.walk(M):
                    for name in names:
                        path = os.path.join(folder, name)
                        if name in ("tx", "rx", "log", "trace") or os.path.islink(path): continue
                        fd = os.open(path, os.O_RDONLY)
                        found = os.fstat(fd)
                        data = readall(fd, found.st_size)
                        assert len(data) == found.st_size > 0, (path, found.st_size, len(data))
                        assert os.read(fd, 65536) == b"", path
                        assert found.st_blocks == (found.st_size + 511) // 512, path
                        os.close(fd)
                """
            )
        }

        @Test(arguments: [
            "tar cf - --exclude=./devices $F | tar xf - -C $T",
            "rsync -a --relative $F $T/", "cp --parents $F $T/", "cp --parents --sparse=always $F $T/",
            "for f in $F; do mkdir -p $T/$(dirname $f); dd if=$f of=$T/$f status=none; done",
            "for f in $F; do mkdir -p $T/$(dirname $f); cat $f > $T/$f; done",
            "for f in $F; do mkdir -p $T/$(dirname $f); python3 -c 'import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])' $f $T/$f; done",
            "for f in $F; do mkdir -p $T/$(dirname $f); command -v node > $T/node || { cp $f $T/$f; continue; }; node -e 'require(\"fs\").copyFileSync(process.argv[1], process.argv[2])' $f $T/$f; done",
            """
            cat > $T/serve.py << 'END'
            import http.server, sys, threading, urllib.request
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for name in sys.argv[2:]:
                answer = urllib.request.urlopen("http://127.0.0.1:%d/%s" % (server.server_port, name), timeout=10)
                data = answer.read()
                assert len(data) == int(answer.headers["Content-Length"])
                open(sys.argv[1] + "/" + name, "wb").write(data)
            END
            mkdir -p $T/regs $T/dma; python3 $T/serve.py $T $F 2> $T/log || { cat $T/log >&2; exit 1; }
            """,
        ]) func `a program that copies files copies them whole`(command: String) async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT; cd $M
                F="regs/scratch regs/id vendor state dma/framing dma/plan ctl resource2 config metrics.prom last_error"
                echo 0xcafe0001 > regs/scratch; ! echo x > ctl
                \(command)
                test "$(cat $T/regs/scratch)" = 0xcafe0001
                for f in $F; do
                    test -s $T/$f || { echo "$f is empty" >&2; exit 1; }
                    [ $f = metrics.prom ] || cmp $T/$f $f
                done
                tail -n 1 $T/metrics.prom | grep -q '[0-9]$'
                """
            )
        }

        @Test func `times are of now, so that what was copied is copied again`() async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT; cd $M
                for f in regs/scratch regs/0x20010 state metrics.prom last_error vendor; do
                    before=$(date +%s%N); found="$(stat -c '%.9X %.9Y %.9Z' $f)"; after=$(date +%s%N)
                    for time in ${found//./}; do [ $time -ge $before ] && [ $time -le $after ]; done
                done
                echo 1 > regs/scratch; cp -u regs/scratch $T/copy; rsync -a regs/scratch $T/synced
                # rsync compares whole seconds.
                touch -d '3 seconds ago' $T/synced
                echo 2 > regs/scratch; cp -u regs/scratch $T/copy; rsync -a regs/scratch $T/synced
                test "$(cat $T/copy $T/synced)" = "$(printf '0x00000002\\n0x00000002')"
                """
            )
        }

        @Test func `last_error is a log: its size only grows, and who follows it misses nothing`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                def fill(first, last):
                    for k in range(first, last):
                        try: write("regs/scratch", "bad%d" % k)
                        except OSError: pass
                followers = [subprocess.Popen(["tail", *words, "-s", "0.1", "-f", at("last_error")], stdout=subprocess.PIPE,
                                              stderr=subprocess.STDOUT) for words in ([], ["-n", "+1"])]
                size = 0
                for first in range(0, 200, 40):
                    fill(first, first + 40)
                    now = os.stat(at("last_error")).st_size
                    assert now > size, "the size only grows"
                    size = now
                    # A follower that is late loses lines only when more have come than are kept.
                    for process in followers:
                        seen = b""
                        while b'"bad%d"' % (first + 39) not in seen: seen += os.read(process.stdout.fileno(), 65536)
                        assert all(b'"bad%d"' % k in seen for k in range(first, first + 40)) and b"truncated" not in seen
                for process in followers:
                    process.kill(); process.wait()
                kept = read("last_error")
                assert kept.count(b"\\n") == 64 and b'"bad136"' in kept.splitlines()[0] and b'"bad199"' in kept.splitlines()[-1]
                fd = opened("last_error")
                assert os.fstat(fd).st_size == size == os.lseek(fd, 0, os.SEEK_END) and os.read(fd, 100) == b""
                assert os.pread(fd, 100, size - 100) == kept[-100:], "an offset is a position in all that was written"
                assert os.pread(fd, 65536, size - len(kept)) == kept
                os.lseek(fd, 0, os.SEEK_SET)
                parts = b""
                while part := os.read(fd, 100): parts += part
                assert parts == kept, "what was dropped reads as nothing"
                fill(200, 201)
                assert b'"bad200"' in os.read(fd, 65536), "and the reader goes on where it was"
                """
            )
        }

        @Test func `a private mapping of a BAR touches no register, and says so`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name in "resource0", "resource2", "config":
                    before = metric("register_reads_total")
                    pid = os.fork()
                    if pid == 0:
                        memory = mmap.mmap(opened(name), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
                        memory[0]
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == signal.SIGBUS
                    assert " %s EIO " % name in last_error() and "use pread and pwrite, or dd" in last_error(), last_error()
                    assert metric("register_reads_total") == before
                # Others that fill pages get the reason at once.
                pipe = os.pipe()
                fails(errno.EIO, None, None, lambda: os.splice(opened("resource0"), pipe[1], 64))
                """
            )
        }

        @Test func `a private mapping of a stream takes nothing out of it, and ends at once`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/tx", os.urandom(1000))
                end = time.monotonic() + 15
                while metric("rx_waiting_bytes") != 1000: assert time.monotonic() < end; time.sleep(0.001)
                for name in "dma/rx", "interrupts/log", "trace":
                    pid = os.fork()
                    if pid == 0:
                        # A program whose timer goes off again and again must not ask for the page again and again.
                        signal.signal(signal.SIGALRM, lambda *_: None)
                        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
                        memory = mmap.mmap(opened(name), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
                        memory[0]
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == signal.SIGBUS, name
                    assert " %s EIO " % name in last_error() and "nothing was taken: use read" in last_error(), last_error()
                    pipe = os.pipe()
                    fails(errno.EIO, None, None, lambda: os.splice(opened(name), pipe[1], 64))
                assert metric("rx_waiting_bytes") == 1000 and metric("rx_read_bytes_total") == 0
                """
            )
        }

        @Test func `a log that was opened thousands of times is in memory once`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                import resource
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                count = min(3000, hard - 64)
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                def memory(): return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/%d/status" % metric("daemon_process_id")).read())[1])
                for k in range(64):
                    fails(errno.EINVAL, None, None, lambda: write("sim/wire", b"x" * 4000))
                assert len(read("last_error")) < 64 * 600, "sentences are short"
                before = memory()
                files = []
                for name in "last_error", "ctl", "state":
                    for k in range(count // 3):
                        files.append(opened(name))
                        os.read(files[-1], 1 << 20)
                assert memory() - before < 16384, (before, memory())
                """
            )
        }
    }
}
