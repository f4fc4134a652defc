import CardFS
import Glibc
import TestSupport
import Testing

/// The command on real mounts: what a person does to them, and what happens to them.
@Suite(.enabled(if: canMount, "needs /dev/fuse, and root or fusermount3"), .timeLimit(.minutes(2)))
struct RealMountTests {
    @Test func `a mount in the foreground answers, and ends with its mount`() async throws {
        let card = try MountedCard()
        #expect(await card.shell("cat $M/state").status == 0)
        let unmounted = await card.shell("$CARDFS unmount $M")
        #expect(unmounted.status == 0 && unmounted.errors.isEmpty)
        #expect(card.end() == 0)
        #expect(MountTable.current().top(at: card.path) == nil)
    }

    @Test(arguments: ["TERM", "INT", "HUP"]) func `a signal ends the mount`(signal: String) async throws {
        let card = try MountedCard()
        let result = await card.shell(
            "kill -\(signal) \(card.pid); for i in $(seq 200); do mountpoint -q $M || exit 0; sleep .02; done; exit 1"
        )
        #expect(result.status == 0)
        #expect(card.end() == 0)
    }

    @Test func `a client that never ends does not keep the helper from cleaning up`() async throws {
        let card = try MountedCard()
        _ = await card.shell("cat $M/dma/rx > /dev/null 2>&1 & sleep .2")
        card.end()
        #expect(MountTable.current().top(at: card.path) == nil)
        #expect(kill(card.pid, 0) != 0)
    }

    @Test func `mount returns when the mount answers, and its daemon holds nothing of the shell`() async throws {
        let place = Place()
        let mounted = await place.shell("exec 9< /etc/passwd; \"$CARDFS\" sim $M -o rw,dev,suid && cat $M/state")
        #expect(mounted.status == 0 && !mounted.text.isEmpty && mounted.errors.isEmpty)
        let daemon = try #require(place.daemon)
        let links = (SystemFile.list("/proc/\(daemon)/fd") ?? []).compactMap {
            SystemFile.readLink("/proc/\(daemon)/fd/\($0)")
        }
        #expect(!links.contains("/etc/passwd") && !links.contains { $0.hasPrefix("pipe:") })
        #expect(SystemFile.readLink("/proc/\(daemon)/cwd") == "/")
        #expect(SystemFile.readWord("/proc/\(daemon)/comm") == "cardfs")
        #expect(getsid(daemon) == daemon)
        #expect(await place.shell("\"$CARDFS\" unmount $M").status == 0)
        #expect(kill(daemon, 0) != 0 || SystemFile.list("/proc/\(daemon)/fd")?.isEmpty ?? true)
    }

    @Test func `a second mount in the same place is refused`() async {
        let place = Place()
        let result = await place.shell(
            "\"$CARDFS\" sim $M && ! \"$CARDFS\" sim $M; S=$?; \"$CARDFS\" unmount $M; exit $S"
        )
        #expect(result.status == 0)
        let errors = "cardfs: sim is mounted on \(place.path) already\nhint: cardfs unmount \(place.path)\n"
        #expect(result.errors == errors)
    }

    @Test func `a mount whose daemon has died is detached and replaced`() async throws {
        let place = Place()
        #expect(await place.shell("\"$CARDFS\" sim $M").status == 0)
        kill(try #require(place.daemon), SIGKILL)
        let again = await place.shell("sleep .2; \"$CARDFS\" sim $M && cat $M/state")
        #expect(again.status == 0)
        #expect(again.errors == "cardfs: notice: detached the mount on \(place.path), whose daemon had died\n")
        #expect(await place.shell("\"$CARDFS\" unmount $M").status == 0)
        #expect(MountTable.current().top(at: place.path) == nil)
    }

    @Test func `a busy mount tells who holds it, and goes by force`() async throws {
        let place = Place()
        #expect(await place.shell("\"$CARDFS\" sim $M").status == 0)
        let script = "cat $M/dma/rx > /dev/null 2>&1 & C=$!; cd $M; sleep .2; \"$CARDFS\" unmount $M; echo $? $C $$"
        let busy = await place.shell(script)
        let words = busy.text.split(whereSeparator: \.isWhitespace)
        #expect(words.first == "75" && words.count == 3)
        #expect(busy.errors.contains("\(words[1]) (cat) has \(place.path)/dma/rx open"))
        #expect(busy.errors.contains("\(words[2]) (bash) has its working directory in \(place.path)"))
        #expect(busy.errors.hasSuffix("hint: end them, or cardfs unmount --force \(place.path)\n"))
        let forced = await place.shell("\"$CARDFS\" unmount --force $M")
        #expect(forced.status == 0 && forced.errors.isEmpty)
        #expect(MountTable.current().top(at: place.path) == nil)
        // Its read failed, so it has ended, or is a zombie that nobody has taken yet.
        #expect(await shell("sleep .2; cat /proc/\(words[1])/cmdline | tr -d '\\0'").text.isEmpty)
    }

    @Test func `a stopped daemon is told apart from a dead one`() async throws {
        let place = Place()
        #expect(await place.shell("\"$CARDFS\" sim $M").status == 0)
        let daemon = try #require(place.daemon)
        kill(daemon, SIGSTOP)
        let result = await place.shell("sleep 1.1; \"$CARDFS\" sim $M")
        kill(daemon, SIGCONT)
        #expect(result.status == 69)
        let errors = "cardfs: \(place.path) does not answer\nhint: cardfs unmount --force \(place.path)\n"
        #expect(result.errors == errors)
        #expect(await place.shell("\"$CARDFS\" unmount $M").status == 0)
    }

    @Test func `mount(8) mounts it by its type`() async {
        guard geteuid() == 0 else { return }
        let place = Place()
        // mount(8) looks for the program in the system's directories; in a namespace of its own one of them is ours.
        let script = """
            exec unshare -m bash -e -c '
                D=$(mktemp -d); ln -s "$CARDFS" $D/cardfs; mount --make-rprivate /; mount --bind $D /usr/local/bin
                mount -t fuse.cardfs sim $M -o mode=600,nofail,x-test
                cat $M/state
                umount $M; umount /usr/local/bin; rm -r $D'
            """
        let result = await place.shell("command -v mount.fuse3 unshare > /dev/null || exit 77\n" + script)
        if result.status == 77 { return }
        #expect(result.status == 0 && result.errors.isEmpty && !result.text.isEmpty)
    }
}
