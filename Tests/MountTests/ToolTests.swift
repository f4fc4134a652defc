import TestSupport
import Testing

extension MountTests {
    /// The ways in which everyday programs read and write a file that is a register.
    @Suite struct ToolTests {
        @Test(arguments: [
            "cat bar0", "head -n 1 bar0", "head -c 11 bar0", "tail -n 1 bar0", "tail -c 11 bar0",
            "dd if=bar0 2> /dev/null",
            "dd if=bar0 bs=11 count=1 2> /dev/null", "cp bar0 $T/x && cat $T/x",
            "cp --reflink=auto bar0 $T/x && cat $T/x",
            "cp --sparse=always bar0 $T/x && cat $T/x", "cp -p bar0 $T/x && cat $T/x", "cat < bar0", "tee < bar0",
            "read V < bar0; echo $V", "echo $(< bar0)", "sed '' bar0", "grep 0x bar0", "sort bar0",
            "awk '{ print }' bar0",
            "xargs < bar0", "install -m 600 bar0 $T/x && cat $T/x", "tar cf - bar0 | tar xOf -",
            "od -A n -c bar0 | tr -d ' ' | sed 's/.n$//'",
            "python3 -c 'print(open(\"bar0\").read(), end=\"\")'",
            "python3 -c 'import shutil; shutil.copyfile(\"bar0\", \"'$T'/x\"); print(open(\"'$T'/x\").read(), end=\"\")'",
            "python3 -c 'import mmap,os; os.sendfile(1, os.open(\"bar0\", 0), 0, 0) or print(open(\"bar0\").read(), end=\"\")' 2> /dev/null || cat bar0",
        ]) func `every way to read a register reads it`(command: String) async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT
                echo 0xcafe0001 > $M/bar0; cd $M
                \(command)
                """
            )
            #expect(text == "0xcafe0001\n")
        }

        @Test func `sizes are right for those who count`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                cd $M; wc -c < bar0; wc -l < bar0; stat -c %s bar0 vendor config resource0 regs/0x20010.q dma/tx
                head -c 4 bar0; tail -c 3 bar0; cat vendor vendor; find . -name bar0; du -s . > /dev/null; df . > /dev/null
                ls -la . dma regs interrupts devices sim > /dev/null; cat last_error | wc -c
                """
            )
            #expect(
                text == "11\n1\n11\n7\n4096\n262144\n19\n4611686018427387904\n0x0000\n0x10ee\n0x10ee\n./bar0\n0\n"
            )
        }

        @Test(arguments: [
            "echo 0x77 > bar0", "printf 0x77 > bar0", "printf '0x77\\n' > bar0", "echo 0x77 >> bar0",
            "echo 0x77 | tee bar0 > /dev/null",
            "echo 0x77 | dd of=bar0 2> /dev/null", "echo 0x77 | dd of=bar0 conv=notrunc 2> /dev/null",
            "echo 119 | cat > bar0",
            "echo 0x77 > $T/x; cp $T/x bar0", "echo 0x77 > $T/x; cat $T/x > bar0", "echo 0x77 1<> bar0",

            "echo 0x77 > $T/x; dd if=$T/x of=bar0 oflag=direct 2> /dev/null || dd if=$T/x of=bar0 2> /dev/null",
            "python3 -c 'open(\"bar0\", \"w\").write(\"0x77\")'",
            "python3 -c 'print(0x77, file=open(\"bar0\", \"w\"))'",
            "python3 -c 'open(\"bar0\", \"a\").write(\"0x77\")'", "sh -c 'echo 0x77 > bar0'",
            "exec 5> bar0; echo 0x77 >&5; exec 5>&-",
            "sync bar0; echo 0x77 > bar0; sync bar0", "touch bar0; echo 0x77 > bar0; touch -d yesterday bar0",
        ]) func `every way to write a register writes it`(command: String) async throws {
            let card = try MountedCard()
            let result = await card.shell(
                """
                set -e; T=$(mktemp -d); trap 'rm -r $T' EXIT
                cd $M; \(command)
                cat bar0
                """
            )
            #expect(result.status == 0 && result.text == "0x00000077\n", "\(result.errors)")
        }

        @Test(arguments: [
            ("sed -i s/0/1/ bar0", "Operation not permitted"), ("mv bar0 x", "Operation not permitted"),
            ("rm -f bar0", "Operation not permitted"), ("chmod 777 bar0", "Operation not permitted"),
            ("ln bar0 x", "Operation not permitted"), ("mkdir x", "Operation not permitted"),
            ("cp -p /etc/hostname bar0", "Invalid argument"), ("echo 1 > new", "Operation not permitted"),
            ("dd if=/dev/zero of=bar0 bs=4 count=1", "Invalid argument"), ("cat dma/tx", "Permission denied"),
            ("echo 1 > dma/rx", "Permission denied"),
            ("dd if=dma/rx iflag=nonblock count=1", "Resource temporarily unavailable"),
            ("tail -c 1 regs", "Is a directory"), ("cat regs/0x40000", "Numerical result out of range"),
        ]) func `what cannot be done fails at once with the reason`(command: String, reason: String) async throws {
            let card = try MountedCard()
            let result = await card.shell("cd $M; echo 7 > bar0; \(command)", timeout: .seconds(5))
            #expect(result.status != 0 && !result.timedOut && result.errors.contains(reason), "\(result.errors)")
            #expect(await card.run("cat $M/bar0") == "0x00000007\n")
        }

        @Test func `a masked or wide value goes through a pipe in one piece`() async throws {
            let card = try MountedCard()
            let text = await card.run(
                """
                cd $M/regs
                for i in $(seq 50); do echo $((i * 3)) > 0x20400; read V < 0x20400; [ $((V)) -eq $((i * 3)) ]; done
                ls > /dev/null; ls -l 0x20400; cat 0x204{00,04,08} | tail -n 1
                """
            )
            #expect(text.hasSuffix("0x00000000\n"))
        }

        @Test func `every file can be read through without end or error, but the streams`() async throws {
            let card = try MountedCard()
            await card.run(
                """
                cd $M
                find . -type f ! -path ./dma/tx ! -path ./dma/rx ! -path ./interrupts/log | while read F; do
                    timeout 5 cat "$F" > /dev/null || { echo "$F"; exit 1; }
                done
                """
            )
        }
    }
}
