import TestSupport
import Testing

extension MountTests {
    /// `trace`: the way of a request, as a person watches it.
    @Suite struct TraceTests {
        @Test func `a read and a write are followed through six steps and to their end`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("dma/tx", b"not followed"); read("dma/rx", 12)
                assert read("trace") == b""
                write("trace", "on")
                writer = subprocess.Popen(["sh", "-c", "head -c 20000 /dev/zero | dd of=$M/dma/tx bs=20000 status=none"])
                assert writer.wait(5) == 0
                reader = subprocess.Popen(["head", "-c", "20000", at("dma/rx")], stdout=subprocess.DEVNULL)
                assert reader.wait(5) == 0
                write("trace", "off")
                text = read("trace").decode()
                lines = [re.fullmatch(r"(\\d+\\.\\d{9}) #(\\d+) (\\d) (.+)", line).groups() for line in text.splitlines()]
                ways = {}
                for moment, number, step, what in lines: ways.setdefault(number, []).append((float(moment), int(step), what))
                def way(call):
                    found = [w for w in ways.values() if w[0][2].startswith(call)]
                    assert found, text
                    steps = [step for _, step, _ in found[0]]
                    assert steps == [1, 2, 3, 4, 5, 6, 7], text
                    moments = [moment for moment, _, _ in found[0]]
                    assert moments == sorted(moments) and moments[-1] - moments[0] < 5
                    return [what for _, _, what in found[0]]
                assert way("write(2)") == [
                    "write(2) to dma/tx, 20000 bytes, pid " + way("write(2)")[0].split()[-1],
                    "the kernel passes it on as FUSE_WRITE", "IRP_MJ_WRITE is made, direct",
                    "dispatched to SpaceWire Light at " + ADDRESS, "queued, 0 before it",
                    "the queue gives it to EvtIoWrite", "completed with STATUS_SUCCESS, 20000 bytes"]
                assert way("read(2)")[1:3] == ["the kernel passes it on as FUSE_READ", "IRP_MJ_READ is made, no data yet"]
                assert way("read(2)")[5] == "the queue gives it to EvtIoRead"
                """
            )
        }

        @Test func `cat follows the trace until it is switched off`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("trace", "on")
                cat = subprocess.Popen(["cat", at("trace")], stdout=subprocess.PIPE)
                poller = select.poll(); poller.register(cat.stdout, select.POLLIN)
                assert poller.poll(300) == []
                for round in range(3):
                    write("dma/tx", b"x" * (round + 1))
                    assert poller.poll(3000)
                    seen = b""
                    while b"completed" not in seen: seen += os.read(cat.stdout.fileno(), 65536)
                    assert b"%d bytes, pid %d" % (round + 1, os.getpid()) in seen
                    # The close of the file waits for the card, and is followed too.
                    time.sleep(0.1)
                    while poller.poll(100): os.read(cat.stdout.fileno(), 65536)
                write("trace", "off")
                cat.communicate(timeout=3); assert cat.returncode == 0
                fails(errno.EINVAL, "trace", "neither on nor off", lambda: write("trace", "maybe"))
                write("trace", "on")
                fd = opened("trace", os.O_RDONLY | os.O_NONBLOCK)
                while True:
                    try: os.read(fd, 65536)
                    except BlockingIOError: break
                poller = select.poll(); poller.register(fd, select.POLLIN); assert poller.poll(100) == []
                thread = threading.Thread(target=lambda: (time.sleep(0.2), write("dma/tx", b"y"))); thread.start()
                assert poller.poll(3000) and b"write(2)" in os.read(fd, 65536); thread.join()
                """
            )
        }

        @Test func `a request that waits, is cancelled, or is held shows where it is`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                write("trace", "on"); write("ctl", "stop")
                readers = [subprocess.Popen(["cat", at("dma/rx")]) for i in range(2)]
                time.sleep(0.3)
                for reader in readers: reader.send_signal(signal.SIGINT); reader.wait(3)
                write("ctl", "start"); write("trace", "off")
                text = read("trace").decode()
                assert "queued, 0 before it" in text and "queued, 1 before it" in text and "EvtIoRead" not in text
                assert text.count("completed with STATUS_CANCELLED, 0 bytes") == 2, text
                """
            )
        }
    }
}
