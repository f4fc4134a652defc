import TestSupport
import Testing

extension MountTests {
    /// A card whose numbers cannot be so, seen through files.
    @Suite struct HostileCardTests {
        @Test(arguments: ["sg", "common", "system"])
        func `a length that the card makes up is EIO for its reader, told everywhere, and overcome`(
            engine: String
        ) async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/engine", "\(engine)")
                rx = os.open(M + "/dma/rx", os.O_RDONLY)
                for round in range(2):
                    write("sim/fault", "length")
                    write("dma/tx", b"x" * 3000)
                    got = b""
                    try:
                        while True:
                            piece = os.read(rx, 1 << 20)
                            assert piece == b"x" * len(piece)
                            got += piece
                    except OSError as error:
                        assert error.errno == errno.EIO, error
                    assert len(got) in (0, 3000), len(got)
                    # What explains the error is there before the error is seen.
                    told = read("dma/last_error")
                    assert b"direction rx\\n" in told and b"status STATUS_IO_DEVICE_ERROR\\n" in told, told
                    assert b"3000" in told or b"65535" in told or b"536870911" in told, told
                    assert b" dma/rx EIO " in read("last_error")
                    assert metric("card_errors_total") == round + 1
                    assert read("sim/fault") == b"none\\n"
                    # It goes on: what is sent now arrives, and nothing else.
                    data = os.urandom(100000)
                    write("dma/tx", data)
                    back = b""
                    while len(back) < len(data): back += os.read(rx, 1 << 20)
                    assert back == data
                """
            )
        }
    }
}
