import TestSupport
import Testing

extension MountTests {
    /// Asynchronous direct transfers (io_submit, io_uring), which the kernel would cut into parallel pieces if it were let.
    @Suite struct AsynchronousTests {
        @Test(arguments: [1, 2, 8])
        func `an asynchronous transfer moves its bytes in order, however many threads receive`(threads: Int)
            async throws
        {
            let program = try CompiledProgram("asynchronous")
            let card = try MountedCard("threads=\(threads)")
            await card.run(
                """
                T=$(mktemp -d); trap 'rm -r $T' EXIT
                N=$((4 << 20))
                $PROGRAM pattern $N > $T/sent
                for way in libaio io_uring; do
                    $PROGRAM $way probe || { [ $? = 77 ] && continue; exit 1; }
                    for offset in 0 0 0 100 2048; do
                        head -c $N $M/dma/rx | cmp - $T/sent & reader=$!
                        $PROGRAM $way write $M/dma/tx $N $offset
                        wait $reader
                    done
                    for offset in 0 100; do
                        dd if=$T/sent of=$M/dma/tx bs=1M 2> $T/dd & writer=$!
                        $PROGRAM $way read $M/dma/rx $N $offset | cmp - $T/sent
                        wait $writer
                    done
                done
                """,
                timeout: .seconds(60),
                environment: ["PROGRAM": program.path]
            )
        }

        @Test func `an asynchronous read gets text and lines as read does`() async throws {
            let program = try CompiledProgram("asynchronous")
            let card = try MountedCard()
            await card.run(
                """
                printf 12345678 > $M/dma/tx
                for way in libaio io_uring; do
                    $PROGRAM $way probe || { [ $? = 77 ] && continue; exit 1; }
                    $PROGRAM $way read $M/metrics.prom 5 0 | grep -q '^# HEL'
                    $PROGRAM $way read $M/interrupts/count 2 0 | grep -q '^[0-9]'
                    $PROGRAM $way read $M/regs/scratch 11 0 | grep -q '^0x'
                    $PROGRAM $way read $M/dma/rx 4 0 | grep -q '^[1-8]*$'
                    $PROGRAM $way read $M/interrupts/log 20 0 | grep -q '^[0-9]' & reader=$!
                    until printf x > $M/dma/tx && ! kill -0 $reader 2> /dev/null; do sleep .05; done
                    wait $reader
                done
                """,
                environment: ["PROGRAM": program.path]
            )
        }

        /// What programs make of 300,000 bytes that wait in `dma/rx`, by its st_size, and the reason why that is 4096:
        ///
        /// | st_size | 0 | 4096 | 1 MiB | 2^62 |
        /// |---|---|---|---|---|
        /// | cat, dd, cp, python | all | all | all | all |
        /// | node | all | 4096 bytes | all | |
        /// | rsync | an empty file, status 0 | 4096 bytes | fails | |
        /// | tar | an empty file, status 0 | 4096 bytes | pads with zeros | pads until the disk is full |
        /// | asynchronous direct reads | nothing | all | all | all |
        ///
        /// (cp only where st_blocks fits the size: it looks for holes otherwise, and fails.)
        @Test(
            arguments: [
                ("cat $M/dma/rx > $T/got & sleep 1; kill $!", 300_000),
                ("timeout 1 cp $M/dma/rx $T/got || true", 300_000),
                ("timeout 1 dd if=$M/dma/rx of=$T/got bs=64K status=none || true", 300_000),
                (
                    "python3 -c \"import sys; open('$T/got', 'wb').write(open('$M/dma/rx', 'rb', 0).read(300000))\"",
                    300_000
                ),
                ("tar -C $M/dma -cf $T/archive rx 2> $T/said; tar -C $T -xf $T/archive; mv $T/rx $T/got", 4096),
                ("rsync $M/dma/rx $T/got", 4096),
                (
                    "command -v node > /dev/null || { head -c 4096 $T/sent > $T/got; exit; }; "
                        + "node -e 'const fs = require(\"fs\"); fs.writeFileSync(process.argv[2], fs.readFileSync(process.argv[1]))' "
                        + "$M/dma/rx $T/got",
                    4096
                ),
            ]
        )
        func `programs that copy what waits in dma/rx get the beginning of it, and never bytes that were not there`(
            program: String,
            count: Int
        ) async throws {
            let card = try MountedCard()
            await card.run(
                """
                T=$(mktemp -d); export T; trap 'rm -r $T' EXIT
                head -c 300000 /dev/urandom > $T/sent; cat $T/sent > $M/dma/tx
                set -- $(stat -c '%s %b' $M/dma/rx); [ $1 -gt 0 ] && [ $1 -le 1048576 ] && [ $2 = $((($1 + 511) / 512)) ]
                timeout 10 bash -c "$PROGRAM"
                S=$(stat -c %s $T/got); [ $S = \(count) ] || { echo "$S bytes"; exit 1; }
                cmp -n $S $T/got $T/sent
                """,
                environment: ["PROGRAM": program]
            )
        }

        @Test func `st_blocks of every file fits its size`() async throws {
            let card = try MountedCard()
            await card.check(
                """
                for place, directories, files in os.walk(M):
                    for name in files:
                        info = os.lstat(os.path.join(place, name))
                        assert info.st_blocks == (info.st_size + 511) // 512, (name, info)
                """
            )
        }
    }
}
