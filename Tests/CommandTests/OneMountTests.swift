import CardFS
import Glibc
import TestSupport
import Testing

/// What commands that run at the same time do to each other, and what a mount that fails leaves behind.
@Suite(.enabled(if: canMount, "needs /dev/fuse, and root or fusermount3"), .timeLimit(.minutes(2)))
struct OneMountTests {
    @Test func `of six mounts in one place at once one is made, and the others are told`() async {
        let place = Place()
        let result = await place.shell(
            """
            for i in 1 2 3 4 5 6; do { "$CARDFS" mount sim $M 2>&1; echo status $?; } & done; wait
            grep -c " $M fuse.cardfs " /proc/mounts; "$CARDFS" unmount $M; grep -c " $M fuse.cardfs " /proc/mounts
            """
        )
        let lines = result.text.split(separator: "\n")
        #expect(lines.filter { $0 == "status 0" }.count == 1 && lines.filter { $0 == "status 75" }.count == 5)
        #expect(lines.filter { $0 == "cardfs: sim is mounted on \(place.path) already" }.count == 5)
        #expect(lines.suffix(2) == ["1", "0"], "\(result.text)\(result.errors)")
    }

    @Test(arguments: ["sim", "sim -o verify"])
    func `who collects what mount says gets its end when the card is mounted`(card: String) async {
        let place = Place()
        // A daemon that kept standard output or standard error would keep `cat` waiting until it ends itself.
        let result = await place.shell(
            """
            said=$("$CARDFS" mount \(card) $M 2>&1 | timeout 15 cat; echo ${PIPESTATUS[*]}); echo "$said" | tail -n 1
            pid=$(sed -n 's/^cardfs_daemon_process_id{.*} //p' $M/metrics.prom)
            for i in 0 1 2; do readlink /proc/$pid/fd/$i; done
            "$CARDFS" unmount $M
            """
        )
        #expect(result.text == "0 0\n/dev/null\n/dev/null\n/dev/null\n", "\(result.errors)")
    }

    @Test func `simulated cards have addresses of their own, and so have their metrics`() async throws {
        let cards = try [MountedCard(), MountedCard()]
        #expect(cards[0].address != cards[1].address)
        for card in cards {
            let info = await card.shell("grep ^cardfs_up $M/metrics.prom; ls $M/devices")
            #expect(
                info.text.hasPrefix("cardfs_up{card=\"\(card.address)\"") && info.text.hasSuffix("\n\(card.address)\n")
            )
        }
        let place = Place()
        let taken = await place.shell("\"$CARDFS\" mount sim $M -o address=\(cards[1].address)")
        #expect(taken.status == 75)
        #expect(
            taken.errors == """
                cardfs: another simulated card of this machine sits at \(cards[1].address)
                hint: without the option address it gets the next free one

                """
        )
        // Its place is free when it has gone, however it went.
        kill(cards[1].pid, SIGKILL)
        let again = await place.shell(
            """
            for i in $(seq 100); do
                "$CARDFS" mount sim $M -o address=\(cards[1].address) 2> /dev/null && break; sleep .05
            done
            ls $M/devices; "$CARDFS" unmount $M
            """
        )
        #expect(again.text == "\(cards[1].address)\n" && again.status == 0)
    }

    @Test(.enabled(if: geteuid() == 0)) func `a mount whose files cannot be reached is taken away again`() async {
        let place = Place()
        // A mount without allow_other is for processes whose groups are all those of who mounted.
        let result = await place.shell(
            """
            command -v python3 > /dev/null || exit 77
            python3 -c 'import os; os.setresgid(65534, 0, 0); os.execv(os.environ["CARDFS"], ["cardfs", "mount", "sim", os.environ["M"]])'
            S=$?; grep -c " $M fuse.cardfs " /proc/mounts; pgrep -f "mount sim $M"; exit $((S == 77 ? 0 : S + 1))
            """
        )
        if result.status == 77 { return }
        #expect(result.status == 0 && result.text == "0\n", "\(result.text)\(result.errors)")
        #expect(
            result.errors.hasPrefix(
                "cardfs: the card was mounted on \(place.path), but its files cannot be reached: Permission denied\nhint: "
            )
        )
    }

    @Test(
        arguments: [
            (73, "--svg /not-there/run.svg", "/not-there/run.svg: No such file or directory\nhint: give --svg a file"),
            (66, "--register nosuch", "has no register nosuch\nhint: ls "),
        ] as [(Int32, String, String)]
    )
    func `a benchmark that cannot end well does not begin`(status: Int32, option: String, errors: String) async throws {
        let card = try MountedCard()
        // What somebody else did wrong is no hint for this one.
        let result = await card.shell("echo x > $M/bar0 2> /dev/null; timeout 10 \"$CARDFS\" bench $M \(option)")
        #expect(result.status == status && result.text.isEmpty && result.errors.contains(errors), "\(result.errors)")
        #expect(result.errors.split(separator: "\n").count == 2 && !result.errors.contains("last_error"))
    }
}
