import CardFS
import Glibc
import TestSupport
import Testing

extension MountTests {
    /// The scripts of `Examples/`, each as a person runs it, with little data.
    @Suite struct ExampleTests {
        /// The top of the repository: four levels above this file.
        private static let root = String(
            #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        )

        private static func run(_ script: String, _ timeout: Duration = .seconds(60)) async throws -> ShellResult {
            try await shell(
                script,
                timeout: timeout,
                environment: ["CARDFS": #require(cardfsExecutable), "E": root + "/Examples"]
            )
        }

        @Test func `registers.sh runs through and leaves nothing behind`() async throws {
            let result = try await Self.run("T=$(mktemp -d); TMPDIR=$T $E/registers.sh; S=$?; rmdir $T && exit $S")
            #expect(result.status == 0, "\(result.text)\(result.errors)")
            #expect(result.text.contains("cat regs/0x20012.w") && result.text.contains("bar0 ERANGE"))
        }

        @Test func `registers.sh works on a card that is mounted`() async throws {
            let card = try MountedCard()
            let result = try await Self.run("$E/registers.sh \(card.path)")
            #expect(result.status == 0, "\(result.text)\(result.errors)")
            #expect(await card.run("cat $M/regs/0x20000") == "0x04030201\n")
        }

        @Test func `throughput.sh accounts for every byte`() async throws {
            let result = try await Self.run("T=$(mktemp -d); TMPDIR=$T $E/throughput.sh 16; S=$?; rmdir $T && exit $S")
            #expect(result.status == 0, "\(result.text)\(result.errors)")
            #expect(result.text.split(separator: "\n").count == 12)
        }

        @Test func `engines.sh gets the same bytes through every way`() async throws {
            let result = try await Self.run("T=$(mktemp -d); TMPDIR=$T $E/engines.sh 8; S=$?; rmdir $T && exit $S")
            #expect(result.status == 0, "\(result.text)\(result.errors)")
            #expect(result.text.split(separator: "\n").count == 9 && !result.text.contains("not on this card"))
        }

        @Test func `an example that is interrupted leaves nothing behind`() async throws {
            let result = try await Self.run(
                """
                T=$(mktemp -d); TMPDIR=$T timeout -s INT 2 $E/throughput.sh 1000000 > /dev/null 2>&1; S=$?
                for i in $(seq 50); do rmdir $T 2> /dev/null && break; sleep .1; done
                ls -R $T 2> /dev/null; echo $S
                """
            )
            #expect(result.text == "124\n", "\(result.errors)")
        }

        @Test func `quickstart.sh says where Swift comes from when it is missing`() async throws {
            let result = try await Self.run(
                """
                D=$(mktemp -d); trap 'rm -r $D' EXIT
                for P in sh dirname pwd cat uname id pkg-config fusermount3 lspci; do
                    W=$(PATH=$PATH:/usr/sbin command -v $P) && case $W in /*) ln -s $W $D/ ;; esac
                done
                PATH=$D /bin/sh $E/quickstart.sh 1
                """
            )
            if result.errors.contains("packages are missing") { return }
            #expect(result.status == 1 && result.errors.contains("swift.org/install"), "\(result.text)\(result.errors)")
        }
    }
}
