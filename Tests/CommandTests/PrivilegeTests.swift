import CardFS
import Glibc
import TestSupport
import Testing

/// What a daemon of root keeps of its privileges once the mount answers, and that it ends as cleanly without them.
@Suite(.enabled(if: canMount && geteuid() == 0, "needs root, who has something to give up"), .timeLimit(.minutes(2)))
struct PrivilegeTests {
    /// What a shell needs to look at every thread of the daemon that `$P` names.
    private static let look = """
        P=$(sed -n 's/^cardfs_daemon_process_id{.*} //p' $M/metrics.prom)
        threads() { for t in /proc/$P/task/*; do sed -n 's/^\\(CapEff\\|CapPrm\\|NoNewPrivs\\|Seccomp\\):\\t//p' $t/status | tr '\\n' ' '; echo; done | sort -u; }
        work() {
            echo stop > $M/ctl && echo start > $M/ctl || echo "no start"
            { sleep .2; until grep -q Stopped $M/state; do sleep .02; done; sleep .1; echo 9.1 > $M/sim/firmware; } &
            # A process of its own: the end of a child would be a signal to this one.
            bash -c 'echo reload > $M/ctl' || echo "no reload"; wait
            echo hello > $M/dma/tx; head -c 5 $M/dma/rx
        }
        gone() {
            for i in $(seq 200); do { kill -0 $P 2> /dev/null && ! grep -q '^State:.Z' /proc/$P/status; } || break; sleep .05; done
            kill -0 $P 2> /dev/null && ! grep -q '^State:.Z' /proc/$P/status && echo "still running"
            grep " $M fuse.cardfs " /proc/mounts
        }

        """

    @Test(arguments: ["kill -TERM $P", "\"$CARDFS\" unmount $M", "\"$CARDFS\" unmount --force $M", "umount $M"])
    func `every thread keeps the right to unmount alone, and nothing is left behind`(end: String) async {
        let place = Place()
        let result = await place.shell(
            "\"$CARDFS\" mount sim $M || exit 1\n" + Self.look + "threads; work; threads; \(end); gone; exit 0"
        )
        let kept = "0000000000200000 0000000000200000 1 2 \n"
        #expect(result.text == kept + "hello" + kept, "\(result.text)\(result.errors)")
        #expect(result.errors.isEmpty)
    }

    @Test func `a mount in a directory of another user is found again`() async {
        let place = Place()
        let result = await place.shell(
            """
            D=$M; mkdir -m 700 $D/own $D/own/card; chown -R 65534 $D/own; export M=$D/own/card
            "$CARDFS" mount sim $M || exit 1
            """ + "\n" + Self.look + "threads; kill -TERM $P; gone; rm -r $D/own"
        )
        #expect(result.text == "0000000000200004 0000000000200004 1 2 \n", "\(result.text)\(result.errors)")
    }
}
