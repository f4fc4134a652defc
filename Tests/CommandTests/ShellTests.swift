import Glibc
import TestSupport
import Testing

@Suite struct ShellTests {
    @Test func `status, output and errors of a script come back`() async {
        let result = await shell("echo out; echo err >&2; exit 3")
        #expect(result.status == 3 && result.text == "out\n" && result.errors == "err\n" && !result.timedOut)
    }

    @Test func `much output does not block a script`() async {
        let result = await shell("head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2")
        #expect(result.status == 0 && result.output.count == 3_000_000 && result.errors.utf8.count == 300_000)
    }

    @Test func `at the time limit the whole group is killed`() async {
        let result = await shell("sleep 60 & echo $!; wait", timeout: .milliseconds(300))
        #expect(result.timedOut && result.status == 128 + SIGKILL)
        let pid = Int32(result.text.split(separator: "\n").first ?? "") ?? 0
        #expect(pid > 0)
        // Dead, or a zombie that its new parent has not taken yet.
        let state = await shell("sed 's/.*) //' /proc/\(pid)/stat 2>/dev/null | cut -c1")
        #expect(["", "Z\n"].contains(state.text))
    }

    @Test func `a process left behind does not keep the script waiting`() async {
        let result = await shell("sleep 5 & echo done", timeout: .seconds(4))
        #expect(result.status == 0 && result.text == "done\n" && !result.timedOut)
    }

    @Test func `a signal is a status beyond 128, and variables arrive`() async {
        let result = await shell("echo $WHAT; kill -TERM $$", environment: ["WHAT": "a b"])
        #expect(result.status == 128 + SIGTERM && result.text == "a b\n")
    }
}
