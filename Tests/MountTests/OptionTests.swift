import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The options of a mount, seen from the files.
    @Suite struct OptionTests {
        @Test func `ro lets nothing be written`() async throws {
            let card = try MountedCard("ro")
            await card.check(
                """
                for name in "bar0", "dma/tx", "ctl", "config", "regs/0x20010", "sim/wire":
                    fails(errno.EROFS, None, None, lambda: write(name, "1"))
                assert read("bar0") == b"0x00000000\\n" and len(read("config", 64)) == 64
                """
            )
        }

        @Test(arguments: ["spin=200us", "spin=20us,threads=3"])
        func `a session that spins serves as any other, and sleeps when nobody asks`(options: String) async throws {
            let card = try MountedCard(options)
            await card.check(
                """
                def ticks():
                    pid = metric("daemon_process_id")
                    return sum(int(word) for word in open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[11:13])
                fd = opened("regs/0x20000", os.O_RDWR)
                for k in range(2000):
                    os.pwrite(fd, b"%d" % k, 0)
                    assert int(os.pread(fd, 64, 0), 16) == k
                write("dma/tx", bytes(range(256)) * 8192)
                rx = opened("dma/rx")
                assert readall(rx, 2 << 20) == bytes(range(256)) * 8192
                reader = subprocess.Popen(["cat", at("dma/rx")]); time.sleep(0.1)
                reader.send_signal(signal.SIGINT); assert reader.wait(5) == -signal.SIGINT
                time.sleep(0.2); before = ticks(); time.sleep(1)
                assert ticks() - before <= 10, ticks() - before
                """
            )
        }

        @Test func `uid, gid and mode are those of the files`() async throws {
            let card = try MountedCard("uid=1234,gid=2345,mode=640")
            let text = await card.run(
                "stat -c '%u %g %a %n' $M/bar0 $M/dma/tx $M/dma/rx $M/ctl $M/vendor $M/regs/0x20010 $M/sim | sed \"s|$M/||\""
            )
            let expected = """
                1234 2345 640 bar0
                1234 2345 200 dma/tx
                1234 2345 440 dma/rx
                1234 2345 640 ctl
                1234 2345 444 vendor
                1234 2345 640 regs/0x20010
                1234 2345 755 sim

                """
            #expect(text == expected)
        }

        @Test func `allow_other lets others in, as far as the modes go`() async throws {
            guard geteuid() == 0 else { return }
            let card = try MountedCard("allow_other,mode=664")
            await card.run("chmod 755 $(dirname $M)")
            await card.check(
                """
                os.setgid(65534); os.setgroups([]); os.setuid(65534)
                assert read("bar0") == b"0x00000000\\n" and read("state")
                fails(errno.EACCES, None, None, lambda: write("bar0", "1"))
                fails(errno.EACCES, None, None, lambda: read("paddr"))
                """
            )
            let closed = try MountedCard()
            await closed.run("chmod 755 $(dirname $M)")
            await closed.check(
                "os.setgid(65534); os.setuid(65534); fails(errno.EACCES, None, None, lambda: read('vendor'))"
            )
        }

        @Test func `direct_threshold says from where on transfers are not copied`() async throws {
            let card = try MountedCard("direct_threshold=1000")
            await card.check(
                """
                for size, method in (999, b"method buffered"), (1000, b"method direct"):
                    write("dma/tx", bytes(size)); assert method in read("dma/plan"), (size, read("dma/plan"))
                """
            )
        }

        @Test(arguments: [
            ("tx_timout=1s", "unknown option \"tx_timout\": did you mean tx_timeout"),
            ("volume=3", "unknown option \"volume\""),
            ("ro=1", "option ro takes no value"), ("uid", "option uid needs a value"), ("mode=9", "option mode: \"9\""),
            ("gather=fast", "option gather: \"fast\""), ("threads=9", "option threads: \"9\" is not between 1 and 8"),
            ("address=1", "option address: \"1\" is no PCI address"), ("receiver=1", "option receiver: \"1\""),
            ("tx_timeout=-1", "option tx_timeout"), ("direct_threshold=010", "option direct_threshold"),
        ]) func `an option that makes no sense is refused by name`(option: String, sentence: String) async throws {
            let result = await shell(
                "D=$(mktemp -d); $CARDFS mount sim $D -o \(option); S=$?; rmdir $D && exit $S",
                environment: ["CARDFS": try #require(cardfsExecutable)]
            )
            #expect(result.status == 64)
            #expect(result.errors.hasPrefix("cardfs: \(sentence)") && result.errors.contains("\nhint: "))
        }

        @Test func `several cards are mounted side by side`() async throws {
            // A domain of this process alone: others may have simulated cards on this machine.
            let address = String(1 << 16 | (getpid() & 0xffff), radix: 16).dropFirst() + ":02:00.0"
            let first = try MountedCard()
            let second = try MountedCard("address=\(address)")
            #expect(await first.run("ls $M/devices") == "\(first.address)\n")
            #expect(second.address == address && first.address != second.address)
            await first.run("echo 1 > $M/bar0; printf first > $M/dma/tx")
            await second.run("echo 2 > $M/bar0; printf second > $M/dma/tx")
            #expect(await first.run("cat $M/bar0; head -c 5 $M/dma/rx") == "0x00000001\nfirst")
            #expect(
                await second.run(
                    "cat $M/bar0; head -c 6 $M/dma/rx; lspci -A linux-sysfs -O sysfs.path=$M -n 2> /dev/null"
                )
                    == "0x00000002\nsecond\(address) 0280: 10ee:5350 (rev 01)\n"
            )
        }

        @Test func `the same card by two mounts is two simulated cards`() async throws {
            let first = try MountedCard()
            let second = try MountedCard()
            await first.run("echo 1 > $M/bar0")
            #expect(await second.run("cat $M/bar0") == "0x00000000\n")
        }

        @Test func `the daemon can die, and the place is mounted anew`() async throws {
            let card = try MountedCard()
            await card.run("cat $M/state > /dev/null")
            kill(card.pid, SIGKILL)
            let text = await card.run(
                """
                for i in $(seq 100); do cat $M/state > /dev/null 2>&1 || break; sleep .05; done
                ! cat $M/state 2> /dev/null
                $CARDFS mount sim $M 2> /dev/null
                echo 3 > $M/bar0; cat $M/bar0
                $CARDFS unmount $M
                """
            )
            #expect(text == "0x00000003\n")
        }

        @Test func `who has a file open when the daemon dies gets an error, not a wait`() async throws {
            let card = try MountedCard()
            let result = await card.shell(
                """
                cat $M/dma/rx 2> /dev/null & R=$!
                exec 5< $M/bar0; sleep .3; kill -9 \(card.pid)
                wait $R; echo reader $?
                timeout 2 cat <&5; echo register $?
                exec 5<&-
                """
            )
            #expect(result.text == "reader 1\nregister 1\n")
        }
    }

    /// What the mount costs.
    @Suite struct FootprintTests {
        @Test func `a mounted card stays under 192 MiB, also with a full receiver, and idles`() async throws {
            let card = try MountedCard("tx_timeout=500ms,linger=100ms")
            await card.check(
                """
                pid = \(card.pid)
                def resident(): return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/%d/status" % pid).read())[1]) >> 10
                def ticks():
                    fields = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
                    return int(fields[11]) + int(fields[12])
                idle = resident()
                assert idle < 192, idle
                time.sleep(0.5); before = ticks(); time.sleep(4)
                used = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 4
                assert used < 0.01, used
                subprocess.run(["dd", "if=/dev/zero", "of=" + at("dma/tx"), "bs=1M"], stderr=subprocess.DEVNULL)
                assert metric("tx_sent_bytes_total") >= 64 << 20
                full = resident()
                assert full < 192, full
                time.sleep(1); before = ticks(); time.sleep(3)
                used = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 3
                assert used < 0.01, ("parked", used)
                print("resident", idle, full)
                """
            )
        }

        @Test func `a waiting reader costs nothing`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                readers = [subprocess.Popen(["cat", at(name)]) for name in ("dma/rx", "interrupts/log")]
                def ticks():
                    fields = open("/proc/\(card.pid)/stat").read().rsplit(")", 1)[1].split()
                    return int(fields[11]) + int(fields[12])
                time.sleep(0.5); before = ticks(); time.sleep(3)
                used = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 3
                for reader in readers: reader.kill(); reader.wait()
                assert used < 0.01, used
                """
            )
        }

        @Test func `thousands of opens leave nothing behind`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for name, flags in ("bar0", 0), ("dma/rx", 0), ("dma/tx", 1), ("interrupts/log", 0), ("regs/0x20010", 2):
                    for _ in range(1000): os.close(opened(name, flags))
                # Only the file that is read is open. The kernel releases the one before a little later.
                deadline = time.monotonic() + 20
                while metric("requests_in_flight") + metric("open_files") != 1:
                    assert time.monotonic() < deadline, read("metrics.prom").decode()
                    time.sleep(0.05)
                """
            )
        }

        @Test func `a storm of killed readers leaves nothing waiting`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for index in range(200):
                    reader = subprocess.Popen(["cat", at(["dma/rx", "interrupts/log"][index & 1])])
                    time.sleep(0.002 * (index % 4)); reader.kill(); reader.wait(5)
                deadline = time.monotonic() + 20
                while metric("requests_in_flight") + metric("open_files") != 1:
                    assert time.monotonic() < deadline, read("metrics.prom").decode()
                    time.sleep(0.05)
                """
            )
        }
    }
}
