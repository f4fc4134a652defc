import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The receive ring, mapped by programs.
    @Suite struct RingTests {
        /// The folder of the examples: four levels above this file, and down.
        private static let examples =
            #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
            + "/Examples"

        /// A program in Python with the class Ring of the example.
        private static let prelude = """
            import fcntl, importlib.util
            spec = importlib.util.spec_from_file_location("ring", "\(examples)/ring.py")
            ring = importlib.util.module_from_spec(spec); spec.loader.exec_module(ring)

            """

        @Test func `ring.sh shows the mapped ring beside dd, every byte checked`() async throws {
            guard await shell("command -v cc", timeout: .seconds(10)).status == 0 else { return }
            let result = try await shell(
                "T=$(mktemp -d); TMPDIR=$T $E/ring.sh 32; S=$?; rmdir $T && exit $S",
                timeout: .seconds(60),
                environment: ["CARDFS": #require(cardfsExecutable), "E": Self.examples]
            )
            #expect(result.status == 0, "\(result.text)\(result.errors)")
            #expect(result.text.split(separator: "\n").count == 6 && result.text.contains("8388608 bytes"))
        }

        @Test func `a file comes back through the ring byte for byte, in C and in Python`() async throws {
            guard await shell("command -v cc", timeout: .seconds(10)).status == 0 else { return }
            let card = try MountedCard()
            let result = await card.shell(
                """
                D=$(mktemp -d); trap 'rm -r $D' EXIT
                cc -Wall -Wextra -Werror -O2 -o $D/ring $E/ring.c || exit 1
                head -c 16M /dev/urandom > $D/random
                for program in $D/ring $E/ring.py; do
                    dd if=$D/random of=$M/dma/tx bs=100000 status=none & $program $M 16 write | cmp - $D/random && echo same
                    wait
                done
                readlink $M/dma/buffer | sed 's/[0-9][0-9]*/N/g'
                grep -c '^memory receive_ring$' $M/dma/plan
                """,
                timeout: .seconds(60),
                environment: ["E": Self.examples]
            )
            #expect(result.text == "same\nsame\n/proc/N/fd/N\n1\n", "\(result.errors)")
        }

        @Test func `the memory can only be read, and not be cut`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                import mmap
                fails(errno.EACCES if os.getuid() else errno.EPERM, None, None, lambda: open(M + "/dma/buffer", "wb"))
                file = os.open(M + "/dma/buffer", os.O_RDONLY)
                assert os.fstat(file).st_size == 4 << 20
                fails(errno.EACCES, None, None, lambda: mmap.mmap(file, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE))
                """
            )
        }

        @Test func `packets, signals, reset and removal reach the program`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.prelude + """
                    write("dma/framing", "packet")
                    one = ring.Ring(M)
                    for size in (1, 5000, 40000):
                        data = os.urandom(size)
                        write("dma/tx", data)
                        assert b"".join(one.next(1 << 20)) == data and one.end == 1, size
                    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
                    try:
                        one.next(1)
                        assert False
                    except TimeoutError:
                        pass
                    write("ctl", "reset")
                    fails(errno.ECANCELED, "dma/rx", "open dma/rx and dma/buffer anew", lambda: one.next(1))
                    two = ring.Ring(M)
                    write("dma/tx", b"again")
                    assert b"".join(two.next(100)) == b"again"
                    write("ctl", "remove")
                    fails(errno.ENODEV, "dma/rx", "removed", lambda: two.next(1))
                    fails(errno.ENODEV, None, None, lambda: os.readlink(M + "/dma/buffer"))
                    write("ctl", "start")
                    three = ring.Ring(M)
                    write("dma/tx", b"third")
                    assert b"".join(three.next(100)) == b"third"
                    fails(errno.ENOTTY, None, None, lambda: fcntl.ioctl(three.file, ring.NEXT + 1, bytes(536)))
                    """
            )
        }

        @Test func `a program that sleeps with the whole ring loses it when others wait, and is told`() async throws {
            let card = try MountedCard("loan_timeout=300ms")
            await card.check(
                Self.prelude + """
                    import select, subprocess, sys
                    holder = subprocess.Popen([sys.executable, "-c", '''
                    import errno, fcntl, importlib.util, struct, sys
                    spec = importlib.util.spec_from_file_location("ring", sys.argv[1])
                    ring = importlib.util.module_from_spec(spec); spec.loader.exec_module(ring)
                    one = ring.Ring(sys.argv[2])
                    def borrow():
                        struct.pack_into("=IIQ", one.message, 0, 0, 0, 1 << 20)
                        fcntl.ioctl(one.file, ring.NEXT, one.message)
                    for _ in range(2):
                        try:
                            while True: borrow()
                        except OSError as error:
                            print(error.errno, flush=True)
                        sys.stdin.readline()
                        try:
                            one.next(1)
                            print("not told", flush=True)
                        except OSError as error:
                            print(error.errno, flush=True)
                    assert len(one.next(1)) == 1
                    print("goes on", flush=True)
                    ''', spec.origin, M], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                    try:
                        def answer(): return holder.stdout.readline().decode().strip()
                        write("sim/wire", "source")
                        for how in ("read", "poll"):
                            assert answer() == str(errno.ENOMEM), how
                            with open(M + "/dma/rx", "rb", buffering=0) as file:
                                if how == "poll":
                                    assert select.select([file], [], [], 10)[0]
                                for _ in range(16): assert len(file.read(1 << 20)) > 0
                            holder.stdin.write(b"\\n"); holder.stdin.flush()
                            assert answer() == str(errno.ECANCELED), how
                            assert "was taken back: it kept it for too long" in last_error(), last_error()
                        assert metric("rx_recalled_loans_total") > 0
                        assert answer() == "goes on"
                    finally:
                        holder.kill(); holder.wait()
                    """
            )
        }

        @Test func `a program that is killed gives back what it held`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.prelude + """
                    import subprocess, sys, time
                    holder = subprocess.Popen([sys.executable, "-c", '''
                    import importlib.util, sys, time
                    spec = importlib.util.spec_from_file_location("ring", sys.argv[1])
                    ring = importlib.util.module_from_spec(spec); spec.loader.exec_module(ring)
                    one = ring.Ring(sys.argv[2])
                    one.next(1 << 20)
                    print("held", flush=True)
                    time.sleep(100)
                    ''', spec.origin, M], stdout=subprocess.PIPE)
                    write("sim/wire", "source")
                    assert holder.stdout.readline() == b"held\\n"
                    holder.kill(); holder.wait()
                    with open(M + "/dma/rx", "rb", buffering=0) as file:
                        left = 16 << 20
                        while left > 0:
                            data = file.read(1 << 20)
                            assert data
                            left -= len(data)
                    """
            )
        }
    }
}
