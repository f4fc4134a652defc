import TestSupport
import Testing

extension MountTests {
    /// Lines that are written in pieces, or hold what no line should, and what is quoted of them.
    @Suite struct WrittenTextTests {
        @Test func `what was written is shown when it is no number, whatever it was`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for data, shown in [(b"hello\\n", '"hello\\\\012";'), (b"-1\\n", '"-1\\\\012" has a sign;'), (b"1\\0", '"1\\\\000" has a NUL byte;'),
                                    (b"1\\n2\\n", '"1\\\\0122\\\\012" has more than one line;'), (b" \\n", '" \\\\012" is blank;'),
                                    (b"9" * 200, '"%s"...;' % ("9" * 80)), (b"1\\r\\r\\n", '"1\\\\015\\\\015\\\\012";')]:
                    code = errno.ERANGE if data[:1] == b"9" else errno.EINVAL
                    fails(code, "regs/scratch", shown, lambda: write("regs/scratch", data))
                for name, data in ("regs/scratch", b"7\\r\\n"), ("offset", b"0x10\\r\\n"), ("bar0", b"1:1\\r\\n"), ("ctl", b"flush\\r\\n"), ("sim/wire", b"loopback\\r\\n"):
                    write(name, data)
                assert read("regs/scratch") + read("offset") == b"0x00000007\\n0x00000010\\n"
                """
            )
        }

        @Test(arguments: [
            ("regs/scratch", "0x16", "0x00000016"), ("offset", "0x40", "0x00000040"),
            ("dma/framing", "packet", "packet"),
            ("ctl", "flush", ""), ("sim/rate", "1000", "1000"), ("trace", "off", ""),
        ]) func `a value and its newline may come in two writes`(name: String, value: String, text: String) async throws
        {
            let card = try MountedCard()
            await card.check(
                """
                for ends in [b"\\n"], [b"\\r\\n"], [b" ", b"\\n"]:
                    for flags in 0, os.O_APPEND:
                        if flags and "\(name)" == "trace": continue
                        fd = opened("\(name)", os.O_WRONLY | os.O_TRUNC | flags)
                        os.write(fd, b"\(value)")
                        for end in ends: os.write(fd, end)
                        os.write(fd, b"\(value)\\n")
                        fails(errno.EINVAL, "\(name)", "", lambda: os.write(fd, b"\\n"))
                        os.close(fd)
                        fails(errno.EINVAL, "\(name)", "", lambda: write("\(name)", b"\\n"))
                if "\(text)": assert read("\(name)") == b"\(text)\\n"
                subprocess.run([sys.executable, "-u", "-c", "print('\(value)')"], stdout=opened("\(name)", os.O_WRONLY), check=True)
                """
            )
        }

        @Test func `what continues a number is refused, and stores nothing`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("regs/scratch", "0x77")
                fd = opened("regs/scratch", os.O_WRONLY)
                os.write(fd, b"1")
                for piece in b"2", b"2\\n", b":3", b" 4", b"x":
                    fails(errno.EINVAL, "regs/scratch", "continues what was written before", lambda: os.write(fd, piece))
                    assert read("regs/scratch") == b"0x00000001\\n"
                os.write(fd, b"\\n")
                # Lines of their own, and what is written at offset 0, continue nothing.
                os.write(fd, b"5\\n"); os.write(fd, b"6\\n"); os.pwrite(fd, b"7", 0); os.pwrite(fd, b"8", 0)
                assert read("regs/scratch") == b"0x00000008\\n"
                for text, kept in ("0x1:0x2", b"0x00000000\\n"), ("12", b"0x00000001\\n"), ("0x16", b"0x00000000\\n"):
                    write("regs/scratch", "0x77")
                    done = subprocess.run(["dd", "bs=1", "status=none", "of=" + at("regs/scratch")], input=text.encode() + b"\\n", stderr=subprocess.DEVNULL)
                    assert done.returncode == 1 and read("regs/scratch") == kept
                    assert "continues what was written before" in last_error()
                """
            )
        }

        @Test func `what was quoted steers no terminal, in no file and no log`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                evil = b"a\\x1b]0;x\\x07\\x1b[31m\\0\\xc2\\x9b31m\\xe2\\x80\\xae\\xe2\\x81\\xa6\\xff\\xc3\\xf0\\x9f\\x98\\x80\\xef\\xbb\\xbf\\x7f"
                for name in "ctl", "sim/wire", "sim/rate", "sim/fault", "regs/scratch", "offset", "trace", "dma/framing", "dma/engine":
                    for data in evil, evil.replace(b"\\0", b"").replace(b"\\xff", b"").replace(b"\\xc3", b""), b"x\\xe2\\x80\\xa8y":
                        fails(errno.EINVAL, name, "", lambda: write(name, data))
                for name in (evil.replace(b"\\0", b""), b"\\xe2\\x80\\xaegnp"):
                    fails(errno.EPERM, None, None, lambda: os.mkdir(M.encode() + b"/" + name))
                text = read("last_error", 1 << 20)
                import unicodedata
                for line in text.decode().splitlines(): assert len(line.split(" ")) >= 6 and all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in line), line
                assert "a\\\\033]0;x\\\\007" in text.decode() and "\\\\342\\\\200\\\\256gnp" in text.decode()
                before = os.stat(at("last_error")).st_size
                for k in range(70):
                    fails(errno.ERANGE, None, None, lambda: os.stat(at("regs/0x%x" % (0x40000 + 4 * k))))
                    fails(errno.EINVAL, None, None, lambda: os.stat(at("regs/0x81")))
                assert os.stat(at("last_error")).st_size == before, "anybody may look for any name"
                """
            )
            #expect(
                card.log.unicodeScalars.allSatisfy {
                    $0 == "\n" || $0.value >= 0x20 && $0.value < 0x7f || $0.value > 0x1f000
                }
            )
            #expect(card.log.contains("\\033[31m"))
        }
    }
}
