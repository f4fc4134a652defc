import TestSupport
import Testing

extension MountTests {
    /// `bar0`, `offset`, `regs/` and `resourceN` by the tools of a shell.
    @Suite struct RegisterTests {
        @Test func `the word written to bar0 is at its offset by every name`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo 0x10 > $M/offset; echo 0xdeadbeef > $M/bar0; cat $M/offset $M/bar0 $M/regs/0x20010 $M/regs/131088
                cat $M/regs/0x20010.b $M/regs/0x20010.w $M/regs/0x20010.l $M/regs/0x20010.q
                dd if=$M/resource0 bs=4 count=1 skip=$((0x20010 / 4)) 2> /dev/null | od -A n -t x4
                """
            )
            let expected = """
                0x00000010
                0xdeadbeef
                0xdeadbeef
                0xdeadbeef
                0xef
                0xbeef
                0xdeadbeef
                0x00000000deadbeef
                 deadbeef

                """
            #expect(text == expected)
        }

        @Test(arguments: [
            ("0x12345678", "0x12345678"), ("305419896", "0x12345678"), ("0b101", "0x00000005"), ("0o17", "0x0000000f"),
            (" 7 ", "0x00000007"), ("0", "0x00000000"), ("0xffffffff", "0xffffffff"), ("0xAB", "0x000000ab"),
        ]) func `numbers are read in every notation`(written: String, read: String) async throws {
            let card = try MountedCard()
            let text = await card.run(
                "printf '%s' '\(written)' > $M/bar0; cat $M/bar0; echo '\(written)' > $M/bar0; cat $M/bar0"
            )
            #expect(text == "\(read)\n\(read)\n")
        }

        @Test func `a masked write changes only the masked bits`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo 0xaabbccdd > $M/bar0; echo 0x11223344:0x00ff00ff > $M/bar0; cat $M/bar0
                echo 0xff:0x0f > $M/regs/0x20000.b; cat $M/bar0; echo 0:0xffffffff > $M/regs/memory1; cat $M/bar0
                """
            )
            #expect(text == "0xaa22cc44\n0xaa22cc4f\n0x00000000\n")
        }

        @Test func `a word is written with the width of the name, one bus access each`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo 0x1122334455667788 > $M/regs/0x20000.q; echo 0xaa > $M/regs/0x20001.b
                echo 0xbbcc > $M/regs/0x20002.w; echo 0xdddddddd > $M/regs/0x20004.l; cat $M/regs/0x20000.q
                """
            )
            #expect(text == "0xddddddddbbccaa88\n")
        }

        @Test func `registers have names, sizes and modes`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                "ls $M/regs; cat $M/regs/id; stat -c '%a %s %U' $M/regs/id $M/regs/scratch $M/regs/0x20010.q"
            )
            let expected = """
                control
                flow
                id
                memory1
                memory2
                rxdesc
                scratch
                status
                timecode
                txdesc
                txscaler
                version
                0x53505743
                444 11 root
                660 11 root
                660 19 root

                """
            #expect(text == expected.replacing("root", with: await card.run("printf %s \"$(id -un)\"")))
        }

        @Test func `an access to resource0 is exactly as wide as it was asked`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                fd = opened("resource0", os.O_RDWR)
                for width in 1, 2, 4, 8:
                    data = os.urandom(width)
                    assert os.pwrite(fd, data, 0x20100) == width
                    assert os.pread(fd, width, 0x20100) == data
                data = os.urandom(0x4000)
                assert os.pwrite(fd, data, 0x20000) == len(data)
                assert os.pread(fd, len(data), 0x20000) == data
                assert os.pread(fd, 12, 0x20004) == data[4:16]
                assert os.pread(fd, 4, 0x40000) == b""
                assert os.pread(fd, 64, 0x3fff0) == bytes(16)
                assert os.fstat(fd).st_size == 0x40000
                assert os.lseek(fd, 0, os.SEEK_END) == 0x40000
                # The register that takes only whole words shows that a byte is not turned into a word.
                os.pwrite(fd, struct.pack("<I", 0x12345678), 0x108)
                os.pwrite(fd, b"\\xff", 0x108)
                assert os.pread(fd, 4, 0x108) == struct.pack("<I", 0x12345678)
                fails(errno.ENODEV, None, None, lambda: mmap.mmap(fd, 4096))
                """
            )
        }

        @Test func `dd copies a BAR out and in again`() async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT
                head -c 8192 /dev/urandom > $T/in
                dd if=$T/in of=$M/resource0 bs=4096 seek=32 conv=notrunc 2> /dev/null
                dd if=$M/resource0 of=$T/out bs=4096 skip=32 count=2 2> /dev/null
                cmp $T/in $T/out
                dd if=$M/resource0 of=$T/words bs=4 skip=$((0x20000 / 4)) count=2048 2> /dev/null
                cmp $T/in $T/words
                cat $M/resource0 > $T/all; test $(stat -c %s $T/all) = 262144
                cmp <(tail -c +131073 $T/all | head -c 8192) $T/in
                cat $M/resource2 | wc -c
                """
            )
        }

        @Test func `a value is sampled once, by the read at offset 0`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("bar0", "0x11111111")
                fd = opened("bar0")
                first = os.read(fd, 4)
                write("bar0", "0x22222222")
                assert first + os.read(fd, 100) == b"0x11111111\\n"
                assert os.read(fd, 100) == b""
                assert os.pread(fd, 100, 0) == b"0x22222222\\n"
                before = metric("register_reads_total")
                subprocess.run(["cat", at("bar0")], check=True, stdout=subprocess.DEVNULL)
                assert metric("register_reads_total") == before + 1, "cat reads twice, the bus is asked once"
                """
            )
        }

        @Test func `two shells write different registers and the same one, and no value is wrong`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                program = '''
                import os, sys, time
                M, own, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
                def put(name, value):
                    fd = os.open(M + "/regs/" + name, os.O_WRONLY)
                    os.write(fd, b"0x%08x\\\\n" % value); os.close(fd)
                def get(name):
                    fd = os.open(M + "/regs/" + name, os.O_RDONLY)
                    value = int(os.read(fd, 64), 16); os.close(fd)
                    return value
                end, count = time.monotonic() + seconds, 0
                while time.monotonic() < end:
                    value = (own << 24 | count & 0xffff) * 0x101 & 0xffffffff
                    put("0x2010%d" % (own * 4 - 4), value)
                    put("0x20200", (own << 28) | (own << 20) | (own << 12) | (own << 4))
                    assert get("0x2010%d" % (own * 4 - 4)) == value
                    assert get("0x20200") in (0x10101010, 0x20202020)
                    assert get("id") == 0x53505743
                    count += 1
                print(count)
                '''
                workers = [subprocess.Popen([sys.executable, "-c", program, M, str(own), "4"]) for own in (1, 2)]
                shell = '''
                for i in $(seq 300); do
                    echo $((i * 65537)) > $M/regs/$1; V=$(cat $M/regs/$1)
                    [ $((V)) = $((i * 65537)) ] || exit 1
                done'''
                workers += [subprocess.Popen(["bash", "-c", shell, "sh", name]) for name in ("0x20300", "0x20304")]
                assert [worker.wait(25) for worker in workers] == [0, 0, 0, 0]
                """
            )
        }
    }
}
