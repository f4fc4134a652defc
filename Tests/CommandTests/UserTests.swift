import CardFS
import Glibc
import TestSupport
import Testing

/// Mounts by a user without privileges, within limits, in a mount namespace of their own where /dev/fuse is open to all.
@Suite(.enabled(if: canMount && geteuid() == 0, "needs root, who becomes another user"), .timeLimit(.minutes(3)))
struct UserTests {
    /// Runs a script in which `as COMMAND…` is the user's, with a directory `$D` to mount on. 77 when there can be no such
    /// namespace here.
    private func user(_ script: String, timeout: Duration = .seconds(60)) async throws -> ShellResult {
        let setup = """
            T=$(mktemp -d); U=$((20000 + $$ % 40000)); export T U
            unshare -m true && command -v setpriv > /dev/null || { rmdir $T; exit 77; }
            unshare -m bash -c '
                mount -t tmpfs -o mode=755 none $T && mknod -m 666 $T/fuse c 10 229 && mount --bind $T/fuse /dev/fuse &&
                { cat /etc/passwd; echo "cardfs-test:x:$U:$U::/:/bin/sh"; } > $T/passwd &&
                mount --bind $T/passwd /etc/passwd || exit 77
                D=$T/card; mkdir -m 755 $D; chown $U:$U $D
                as() { setpriv --reuid $U --regid $U --clear-groups "$@"; }
                mounted() { grep -q " $D fuse.cardfs " /proc/mounts; }
                running() { ps -o stat= -u $U | grep -qv ^Z; }
                eval "$SCRIPT"'
            S=$?; rmdir $T; exit $S
            """
        return try await shell(
            setup,
            timeout: timeout,
            environment: ["SCRIPT": script, "CARDFS": #require(cardfsExecutable)]
        )
    }

    @Test(arguments: [
        (["-u 1", "-u 2", "-u 3", "-u 4", "-u 5", "-u 6"], ""), (["-u 7", "-u 8", "-u 9", "-u 10", "-u 11"], ""),
        (["-u 5", "-u 6", "-u 7", "-u 8", "-u 9"], "-f"), (["-v 100000", "-v 300000", "-v 395000", "-v 500000"], ""),
        (["-d 100000", "-d 395000", "-f 0", "-f 8", "-n 6", "-n 20", "-n 64"], ""),
    ]) func `a limit of the user is named, or does no harm`(limits: [String], flag: String) async throws {
        let result = try await user(
            """
            for L in \(limits.map { "\"\($0)\"" }.joined(separator: " ")); do
                if [ -z "\(flag)" ]; then
                    # By a pipe: no file may be written under ulimit -f.
                    as timeout 30 bash -c "ulimit $L; exec $CARDFS mount sim $D" 2>&1 | cat > $T/errors; S=${PIPESTATUS[0]}
                else
                    # One that stays is taken away from outside.
                    as timeout 30 bash -c "ulimit $L; exec $CARDFS mount sim $D -f" 2> $T/errors & P=$!
                    for i in $(seq 200); do as cat $D/state > /dev/null 2>&1 && break; kill -0 $P 2> /dev/null || break; sleep .05; done
                    if as cat $D/state > /dev/null 2>&1; then as $CARDFS unmount $D; fi
                    wait $P; S=$?
                fi
                case $S in
                0) [ -n "\(flag)" ] || { as cat $D/state > /dev/null && as $CARDFS unmount $D; } || echo "$L: of no use" ;;
                71) grep -q "ulimit ${L% *} " $T/errors || { echo "$L: not named"; cat $T/errors; } ;;
                *) echo "$L: status $S"; cat $T/errors ;;
                esac
                for i in $(seq 40); do running || break; sleep .05; done
                if mounted; then echo "$L: still mounted"; umount -l $D; fi
                if running; then echo "$L: still running"; pkill -9 -u $U; fi
            done
            """,
            timeout: .seconds(120)
        )
        if result.status == 77 { return }
        #expect(result.text.isEmpty, "\(result.text)\(result.errors)")
    }

    @Test func `a user without the kernel's control files ends the daemon itself by force`() async throws {
        let result = try await user(
            """
            umount /sys/fs/fuse/connections
            as $CARDFS mount sim $D || exit 1
            setpriv --reuid $U --regid $U --clear-groups cat $D/dma/rx > /dev/null 2> $T/reader & R=$!
            for i in $(seq 100); do ls -l /proc/$R/fd 2> /dev/null | grep -q dma/rx && break; sleep .02; done
            as $CARDFS unmount --force $D; echo status $?
            for i in $(seq 100); do kill -0 $R 2> /dev/null || break; sleep .02; done
            kill -0 $R 2> /dev/null && echo reader; mounted && echo mounted; running && echo running
            kill -9 $R 2> /dev/null; pkill -9 -u $U; exit 0
            """
        )
        if result.status == 77 { return }
        #expect(result.text == "status 0\n", "\(result.text)\(result.errors)")
    }

    @Test(arguments: ["kill -TERM $P", "as $CARDFS unmount $D", "as fusermount3 -u $D"])
    func `a mount without privileges ends as cleanly`(end: String) async throws {
        let result = try await user(
            """
            as $CARDFS mount sim $D || exit 1
            P=$(as sed -n "s/^cardfs_daemon_process_id{.*} //p" $D/metrics.prom)
            grep -h ^CapEff /proc/$P/task/*/status | sort -u
            as bash -c "cd $D; echo stop > ctl; echo start > ctl; echo hello > dma/tx; head -c 6 dma/rx"
            as bash -c "cd $D; until grep -q Stopped state; do sleep .02; done; sleep .1; echo 9.1 > sim/firmware" &
            as bash -c "echo reload > $D/ctl"; wait
            as bash -c "cd $D; echo again > dma/tx; head -c 6 dma/rx"
            \(end)
            for i in $(seq 200); do running || break; sleep .05; done
            mounted && echo mounted; running && { echo running; pkill -9 -u $U; }; exit 0
            """
        )
        if result.status == 77 { return }
        #expect(result.text == "CapEff:\t0000000000000000\nhello\nagain\n", "\(result.text)\(result.errors)")
    }

    @Test func `a user who may not ask for awake processors is told`() async throws {
        let result = try await user(
            "as $CARDFS mount sim $D -o latency=5; echo $?; mounted && echo mounted; running && echo running"
        )
        if result.status == 77 || result.errors.contains("No such file") { return }
        #expect(result.text == "77\n")
        #expect(
            result.errors.hasPrefix("cardfs: the option latency needs /dev/cpu_dma_latency: Permission denied\nhint: ")
        )
    }

    @Test func `a user who may not enter a mount is told so by bench`() async throws {
        let result = try await user("$CARDFS mount sim $D || exit 1; as $CARDFS bench $D; echo $?; $CARDFS unmount $D")
        if result.status == 77 { return }
        #expect(result.text == "77\n")
        #expect(result.errors.contains("you may not enter the mount on ") && result.errors.contains("\nhint: "))
    }
}
