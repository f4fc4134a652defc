import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The control codes, by programs.
    @Suite struct ControlTests {
        /// What every check begins with.
        private static let prelude = """
            import fcntl, struct
            SET, WRITE, READ, ADDRESS, WHOLE = 0x40044300, 0x40044301, 0x80044302, 0x80044303, 0x80084304
            def put(file, code, value): fcntl.ioctl(file, code, struct.pack("<I", value))
            def get(file, code=READ): return struct.unpack("<I", fcntl.ioctl(file, code, bytes(4)))[0]

            """

        @Test func `an offset is set, a word written and read, and the address told`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.prelude + """
                    with open(M + "/bar0", "r+b", buffering=0) as file:
                        put(file, SET, 0x10)
                        put(file, WRITE, 0xdeadbeef)
                        assert get(file) == 0xdeadbeef and read("regs/0x20010") == b"0xdeadbeef\\n"
                        whole = struct.unpack("<Q", fcntl.ioctl(file, WHOLE, bytes(8)))[0]
                        assert whole == int(read("paddr"), 16) and get(file, ADDRESS) == whole
                        put(file, SET, 0x1ffc)
                        put(file, WRITE, 7)
                        assert read("regs/0x21ffc") == b"0x00000007\\n"
                    """
            )
        }

        @Test func `the offset belongs to the open file, and is not the mount's`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.prelude + """
                    first = open(M + "/bar0", "r+b", buffering=0)
                    second = open(M + "/bar0", "r+b", buffering=0)
                    put(first, SET, 0x20)
                    put(second, SET, 0x40)
                    write("offset", "0x60")
                    put(first, WRITE, 1)
                    put(second, WRITE, 2)
                    write("bar0", "3")
                    assert [read("regs/0x200%d" % n) for n in (20, 40, 60)] == [b"0x0000000%d\\n" % n for n in (1, 2, 3)]
                    assert read("offset") == b"0x00000060\\n"
                    """
            )
        }

        @Test func `what is not to be done is refused, with nothing done`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.prelude + """
                    file = open(M + "/bar0", "r+b", buffering=0)
                    put(file, SET, 0x10)
                    put(file, WRITE, 5)
                    fails(errno.EINVAL, "bar0", "multiple", lambda: put(file, SET, 0x12))
                    fails(errno.ERANGE, "bar0", "outside the window", lambda: put(file, SET, 0x2000))
                    fails(errno.ERANGE, "bar0", "outside the window", lambda: put(file, SET, 0xfffffffc))
                    assert get(file) == 5
                    for code in (0x222000, 0x40044305, 0x40084300, 0x80044300, 0x5401, 0x80024302):
                        fails(errno.ENOTTY, None, None, lambda: fcntl.ioctl(file, code, bytes(8)))
                    reader = open(M + "/bar0", "rb", buffering=0)
                    put(reader, SET, 0x10)
                    assert get(reader) == 5
                    fails(errno.EACCES, "bar0", "open for writing", lambda: put(reader, WRITE, 6))
                    writer = open(M + "/bar0", "wb", buffering=0)
                    fails(errno.EACCES, "bar0", "open for reading", lambda: get(writer))
                    fails(errno.ENOTTY, None, None, lambda: fcntl.ioctl(open(M + "/offset", "rb"), SET, bytes(4)))
                    assert get(file) == 5
                    """
            )
        }

        @Test func `a C program does the same`() async throws {
            guard await shell("command -v cc", timeout: .seconds(10)).status == 0 else { return }
            let card = try MountedCard()
            let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(
                separator: "/"
            )
            let result = await card.shell(
                """
                D=$(mktemp -d); trap 'rm -r $D' EXIT
                cc -Wall -Wextra -Werror -o $D/control $E/control.c || exit 1
                $D/control $M/bar0 0x10 0xdeadbeef && $D/control $M/bar0 0x10 && $D/control $M/bar0 | cmp - $M/paddr && echo same
                $D/control $M/bar0 0x11 2>&1
                """,
                environment: ["E": root + "/Examples"]
            )
            #expect(result.text == "0xdeadbeef\nsame\n0x11: Invalid argument\n", "\(result.errors)")
        }
    }
}
