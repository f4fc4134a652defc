import TestSupport
import Testing

extension MountTests {
    @Suite struct BenchTests {
        @Test func `bench measures a mount in all its parts, and leaves it as it was`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                import json
                write("sim/wire", "sink")
                out = subprocess.run([os.environ["CARDFS"], "bench", M, "--json", "--svg", M + ".svg", "--seconds", "0.02",
                                      "--samples", "100"], capture_output=True, text=True, timeout=60)
                assert out.returncode == 0, out.stderr
                report = json.loads(out.stdout)
                assert isinstance(report["load"], float), report["load"]
                assert report["simulated"] and report["card"] == ADDRESS, report
                sizes = {512, 4096, 16384, 65536, 262144, 1048576, 4194304}
                for path, streams in (("write", 1), ("write", 4), ("read", 1), ("read", 4), ("loopback", 1)):
                    points = [f for f in report["throughput"] if (f["path"], f["streams"]) == (path, streams)]
                    assert {f["block_size"] for f in points} == sizes, (path, points)
                    assert all(f["bytes"] > 0 and f["bytes_per_second"] > 0 for f in points), points
                names = {f["operation"] for f in report["latency"]}
                assert {"read of regs/scratch", "write of regs/scratch", "open, read and close of bar0",
                        "interrupt to its reader"} <= names, names
                assert all(f["quantiles"][0][1] > 0 and f["count"] >= 100 for f in report["latency"]), report["latency"]
                assert open(M + ".svg").read().startswith("<svg "); os.unlink(M + ".svg")
                assert read("sim/wire") == b"sink\\n"
                """,
                timeout: .seconds(90),
                environment: ["CARDFS": try #require(cardfsExecutable)]
            )
        }

        @Test func `bench that is interrupted leaves the mount as it was`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                bench = subprocess.Popen([os.environ["CARDFS"], "bench", M, "--seconds", "30"], stderr=subprocess.PIPE)
                while read("sim/wire") == b"loopback\\n": time.sleep(0.01)
                bench.send_signal(signal.SIGINT)
                errors = bench.communicate(timeout=20)[1]
                assert bench.returncode == 130 and b"interrupted" in errors, errors
                assert read("sim/wire") == b"loopback\\n"
                """,
                environment: ["CARDFS": try #require(cardfsExecutable)]
            )
        }
    }
}
