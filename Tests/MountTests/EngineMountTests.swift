import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The ways to move data, seen from a shell.
    @Suite struct EngineTests {
        @Test(arguments: ["sg", "common", "system"])
        func `a file comes back byte for byte through each engine`(engine: String) async throws {
            let card = try MountedCard()
            let result = await card.shell(
                """
                D=$(mktemp -d); trap 'rm -r $D' EXIT
                cat $M/dma/engine
                echo \(engine) > $M/dma/engine && cat $M/dma/engine
                head -c 3000001 /dev/urandom > $D/random
                dd if=$D/random of=$M/dma/tx bs=100000 status=none & head -c 3000001 $M/dma/rx | cmp - $D/random && echo same
                wait; grep -c '^engine \(engine)$' $M/dma/plan
                """,
                timeout: .seconds(60)
            )
            #expect(result.text == "sg\n\(engine)\nsame\n1\n", "\(result.errors)")
        }

        @Test func `packets of every engine keep their boundaries`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                import os
                for engine in ("common", "system", "sg"):
                    write("dma/engine", engine)
                    write("dma/framing", "packet")
                    tx = os.open(M + "/dma/tx", os.O_WRONLY)
                    rx = os.open(M + "/dma/rx", os.O_RDONLY)
                    for size in (1, 4, 4095, 65536, 1000000):
                        data = os.urandom(size)
                        assert os.write(tx, data) == size
                        assert os.read(rx, 1 << 20) == data, (engine, size)
                    os.close(tx)
                    os.close(rx)
                """
            )
        }

        @Test func `an engine is not changed while data is under way, nor to one that is not there`() async throws {
            let card = try MountedCard("scatter_gather=0")
            await card.check(
                """
                assert read("dma/engine") == b"common\\n"
                fails(errno.EOPNOTSUPP, None, None, lambda: write("dma/engine", "sg"))
                assert "dma/engine EOPNOTSUPP %s has no engine sg" % ADDRESS in read("last_error").decode()
                fails(errno.EINVAL, "dma/engine", "is no engine", lambda: write("dma/engine", "isa"))
                write("dma/tx", "x" * 100)
                fails(errno.EBUSY, "dma/engine", "under way", lambda: write("dma/engine", "system"))
                assert read("dma/engine") == b"common\\n"
                assert read("dma/rx", 100) == b"x" * 100
                write("dma/engine", "system")
                assert read("dma/engine") == b"system\\n"
                """
            )
        }

        @Test func `few address lines and map registers make bounces and transfers, as dma/plan tells`() async throws {
            let card = try MountedCard("dma_bits=24,map_registers=5")
            let result = await card.shell(
                """
                D=$(mktemp -d); trap 'rm -r $D' EXIT
                head -c 49152 /dev/urandom > $D/random
                dd if=$D/random of=$M/dma/tx bs=49152 status=none
                grep -E '^(method|pages|bounced_bytes|transfers|map_registers|engine)' $M/dma/plan
                head -c 49152 $M/dma/rx | cmp - $D/random && echo same
                """
            )
            let expected = """
                method direct
                pages 12
                map_registers 4
                bounced_bytes 49152
                transfers 3
                engine sg
                same

                """
            #expect(result.text == expected, "\(result.errors)")
        }

        @Test func `dma/plan tells of the last request alone, whatever the one before it took`() async throws {
            let card = try MountedCard("dma_bits=24,map_registers=5")
            await card.check(
                """
                def plan(): return dict(line.split(" ", 1) for line in read("dma/plan").decode().splitlines())
                # Pages, and what they take of four registers at a time: the most is that of a transfer in the middle.
                for pages, registers, transfers in (1, 1, 1), (13, 4, 4), (2, 2, 1), (6, 4, 2), (1, 1, 1):
                    write("dma/tx", bytes(pages << 12))
                    now = plan()
                    assert (now["map_registers"], now["transfers"]) == (str(registers), str(transfers)), (pages, now)
                """
            )
        }

        @Test(arguments: ["dma_bits=23", "dma_bits=33", "map_registers=1", "scatter_gather=2", "dma_bits"])
        func `limits no card can have are refused by name`(options: String) async throws {
            let error = #expect(throws: MountFailure.self) { try MountedCard(options) }
            #expect(error?.description.contains(String(options.prefix { $0 != "=" })) == true)
        }
    }
}
