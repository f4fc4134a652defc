import TestSupport
import Testing

extension MountTests {
    /// The controls of the simulated card: the far end, its rate, the cable.
    @Suite struct FarEndTests {
        /// CRC-32C, table driven, and 64-bit words of the source.
        private static let tools = """
            table = []
            for byte in range(256):
                for _ in range(8): byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
                table.append(byte)
            def crc32c(data):
                crc = 0xffffffff
                for byte in data: crc = crc >> 8 ^ table[(crc ^ byte) & 255]
                return crc ^ 0xffffffff
            assert crc32c(b"123456789") == 0xe3069283
            def received(): return dict(line.split() for line in read("sim/received").decode().splitlines())

            """

        @Test func `the sink counts bytes and packets and computes the CRC-32C`() async throws {
            let card = try MountedCard()
            await card.check(
                Self.tools + """
                    write("sim/wire", "sink"); write("sim/received", "clear")
                    assert received() == {"bytes": "0", "packets": "0", "crc32c": "0x00000000"}
                    data = os.urandom((2 << 20) + 12345)
                    subprocess.run(["dd", "of=" + at("dma/tx"), "bs=1M", "iflag=fullblock", "conv=fsync"], input=data,
                                   check=True, stderr=subprocess.DEVNULL)
                    now = received()
                    assert now["bytes"] == str(len(data)) and int(now["crc32c"], 16) == crc32c(data), now
                    assert int(now["packets"]) >= 3
                    write("sim/received", "clear")
                    for part in b"1234", b"567", b"89": write("dma/tx", part, os.O_SYNC)
                    assert received() == {"bytes": "9", "packets": "3", "crc32c": "0xe3069283"}
                    """,
                timeout: .seconds(60)
            )
        }

        @Test(arguments: [512, 4096, 65536, 1 << 20, 100_000])
        func `the source sends its pattern`(blockSize: Int) async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("sim/wire", "source")
                fd, data = opened("dma/rx"), bytearray()
                while len(data) < 8 << 20: data += os.read(fd, \(blockSize))
                words = len(data) // 8
                got = struct.unpack("<%dQ" % words, data[:words * 8])
                step, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
                first = got[0] * pow(step, -1, 1 << 64) & mask
                assert first == 0, first
                assert all(word == (first + k) * step & mask for k, word in enumerate(got))
                """
            )
        }

        @Test func `zeros of any number arrive whole in the sink`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                echo sink > $M/sim/wire; echo clear > $M/sim/received
                dd if=/dev/zero of=$M/dma/tx bs=1M count=256 conv=fsync 2> /dev/null
                head -n 1 $M/sim/received
                """
            )
            #expect(text == "bytes 268435456\n")
        }

        @Test func `the rate is kept`() async throws {
            let card = try MountedCard("linger=10s")
            await card.check(
                """
                write("sim/wire", "sink")
                for text, shown in ("2M", b"2000000\\n"), ("500k", b"500000\\n"), ("1 MB/s", b"1000000\\n"), ("unlimited", b"unlimited\\n"):
                    write("sim/rate", text); assert read("sim/rate") == shown
                write("sim/rate", "4M")
                start = time.monotonic(); write("dma/tx", bytes(1000000), os.O_SYNC)
                write("dma/tx", bytes(1000000), os.O_SYNC); write("dma/tx", bytes(2000000), os.O_SYNC)
                assert 0.8 < time.monotonic() - start < 2.5, time.monotonic() - start
                """
            )
        }

        @Test func `a link that goes down and up again carries on`() async throws {
            let card = try MountedCard("tx_timeout=500ms,linger=200ms")
            await card.check(
                """
                assert read("sim/link") == b"run\\n", read("sim/link")
                write("sim/link", "down")
                fd = opened("dma/tx", os.O_WRONLY)
                os.write(fd, b"x" * 100)
                fails(errno.ETIMEDOUT, "dma/tx", "the SpaceWire link of %s is not in Run" % ADDRESS, lambda: os.fsync(fd))
                write("sim/link", "up")
                os.fsync(fd); os.close(fd)
                assert readall(opened("dma/rx"), 100) == b"x" * 100
                """
            )
        }

        @Test func `a receiver that hangs gives nothing, and goes on afterwards`() async throws {
            let card = try MountedCard("rx_timeout=300ms")
            await card.check(
                """
                write("sim/fault", "hang-rx"); write("dma/tx", b"late")
                fails(errno.ETIMEDOUT, "dma/rx", "nothing came from", lambda: read("dma/rx", 4))
                write("sim/fault", "none")
                assert read("dma/rx", 4) == b"late"
                """
            )
        }

        @Test func `metrics are in the Prometheus text format`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/tx", b"12345", os.O_SYNC); assert read("dma/rx", 5) == b"12345"
                text = read("metrics.prom").decode()
                assert text.endswith("\\n")
                seen = set()
                for line in text.splitlines():
                    if line.startswith("# "): assert re.match(r"# (HELP|TYPE) cardfs_[a-z0-9_]+ .+$", line), line
                    else:
                        match = re.match(r'(cardfs_[a-z0-9_]+)\\{card="%s"[^}]*\\} \\d+$' % ADDRESS, line)
                        assert match, line
                        seen.add(match[1])
                assert {"cardfs_up", "cardfs_info", "cardfs_failures_total"} <= seen, seen
                assert metric("tx_accepted_bytes_total") == metric("tx_sent_bytes_total") == 5
                assert metric("rx_arrived_bytes_total") == metric("rx_read_bytes_total") == 5
                assert metric("up") == 1 and metric("requests_in_flight") == 0
                """
            )
        }
    }

    /// The PCI side: what pciutils sees and does.
    @Suite struct PCITests {
        @Test func `lspci decodes the card`() async throws {
            let card = try MountedCard()
            let text = await card.run("lspci -A linux-sysfs -O sysfs.path=$M -vvv 2> /dev/null")
            for part in [
                String(card.address.dropFirst(5)), "Device 5350", "BusMaster+", "Region 0: Memory at", "[size=256K]",
                "Region 2: Memory at",
                "Power Management version 3", "Express (v2) Endpoint", "MSI-X: Enable+ Count=4", "Device Serial Number",
            ] {
                #expect(text.contains(part))
            }
        }

        @Test func `the files say what the configuration space says`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                number = lambda name: int(read(name), 16)
                config = read("config", 4096)
                assert len(config) == 4096
                vendor, device = struct.unpack_from("<HH", config)
                assert (vendor, device) == (number("vendor"), number("device")) == (0x10ee, 0x5350)
                assert int.from_bytes(config[9:12], "little") == number("class") and config[8] == number("revision")
                assert struct.unpack_from("<HH", config, 44) == (number("subsystem_vendor"), number("subsystem_device"))
                lines = [[int(word, 16) for word in line.split()] for line in read("resource").decode().splitlines()]
                assert len(lines) == 7 and lines[0][0] == number("paddr") and lines[0][1] - lines[0][0] == 0x3ffff, lines
                assert os.readlink(at("devices/" + ADDRESS)) == ".."
                assert int(read("irq")) >= 0
                for count, offset in (1, 0), (2, 2), (4, 8), (1, 3), (3, 1):
                    assert read("config", count, offset=offset) == config[offset:offset + count]
                """
            )
        }

        private static let setpci = "P='setpci -A linux-sysfs -O sysfs.path='$M' -s '$ADDRESS\n"

        @Test func `setpci takes memory decoding away and gives it back`() async throws {
            let card = try MountedCard()
            let result = await card.shell(
                Self.setpci + """
                    echo 5 > $M/bar0
                    $P COMMAND=0000:0002; cat $M/bar0; tail -n 1 $M/last_error
                    $P COMMAND=0002:0002; cat $M/bar0; $P COMMAND
                    """
            )
            #expect(result.errors.contains("Input/output error"))
            #expect(result.text.contains("bar0 EIO memory decoding of \(card.address) is off in its command register"))
            #expect(result.text.hasSuffix("0x00000005\n0006\n"))
        }

        @Test func `without bus mastering nothing moves, with it everything does`() async throws {
            let card = try MountedCard("linger=200ms,tx_timeout=20s")
            let text = await card.run(
                Self.setpci + """
                    $P COMMAND=0000:0004; $P COMMAND
                    ! printf abc > $M/dma/tx 2> /dev/null
                    head -n 1 $M/sim/received
                    $P COMMAND=0004:0004
                    head -c 3 $M/dma/rx; echo
                    head -n 1 $M/sim/received
                    """
            )
            #expect(text == "0002\nbytes 0\nabc\nbytes 3\n")
        }

        @Test func `a transfer without bus mastering times out with a sentence that says so`() async throws {
            let card = try MountedCard("tx_timeout=500ms")
            await card.check(
                """
                write("config", struct.pack("<H", 2), offset=4)
                fd = opened("dma/tx", os.O_WRONLY); os.write(fd, b"abc")
                fails(errno.ETIMEDOUT, "dma/tx", "switch it on with setpci COMMAND=0004:0004", lambda: os.fsync(fd))
                write("config", struct.pack("<H", 6), offset=4)
                write("dma/tx", b"new"); assert b"new" in read("dma/rx", 100)
                """
            )
        }
    }
}
