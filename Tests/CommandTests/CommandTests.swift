import ArgumentParser
import CardFS
import Glibc
import Logging
import PCIBus
import TestSupport
import Testing

@testable import cardfs

@Suite struct ArgumentTests {
    @Test(arguments: [
        ["mount", "sim", "/mnt", "-o", "rw,dev,suid"], ["sim", "/mnt", "-o", "rw,dev,suid"],
        ["-o", "rw,dev,suid", "sim", "/mnt"], ["-orw,dev,suid", "sim", "/mnt"], ["sim", "-o", "rw,dev,suid", "/mnt"],
        ["mount", "-o", "rw,dev,suid", "--", "sim", "/mnt"],
    ])
    func `mount is understood in any order, and without its word`(arguments: [String]) throws {
        let parsed = try CardFSCommand.parseAsRoot(CardFSCommand.spelledOut(arguments))
        let mount = try #require(parsed as? Mount)
        #expect(mount.card == "sim" && mount.mountpoint == "/mnt" && mount.options == ["rw,dev,suid"])
        #expect(!mount.foreground && mount.readyDescriptor == nil)
    }

    @Test(arguments: [["-orw,mode=600", "sim", "/m"], ["mount", "sim", "/m", "-orw,mode=600"]])
    func `a joined -o keeps what is behind an equals sign`(arguments: [String]) throws {
        let mount = try #require(try CardFSCommand.parseAsRoot(CardFSCommand.spelledOut(arguments)) as? Mount)
        #expect(mount.options == ["rw,mode=600"])
    }

    @Test func `several -o add up, and -f stays in the foreground`() throws {
        let parsed = try CardFSCommand.parseAsRoot(["mount", "sim", "/m", "-o", "ro", "-f", "-o", "expert"])
        let mount = try #require(parsed as? Mount)
        #expect(mount.options == ["ro", "expert"] && mount.foreground)
    }

    @Test(arguments: [["unmount", "/m"], ["list"], ["help"], ["--version"], ["-h"], ["mount", "a"]])
    func `what begins with a word of its own is left alone`(arguments: [String]) {
        #expect(CardFSCommand.spelledOut(arguments) == arguments)
    }

    @Test func `a card is sim or a PCI address`() throws {
        #expect(try CardName("sim") == .simulated)
        #expect(try CardName("02:00.0") == .pci(PCIAddress(bus: 2, device: 0, function: 0)))
        #expect(throws: Refusal.self) { try CardName("sim2") }
        #expect(throws: Refusal.self) { try CardName("") }
    }

    @Test func `every card has its bus`() throws {
        #expect(try BusRegistry.entry(for: CardName("0000:02:00.0")).name == "vfio")
        #expect(try BusRegistry.entry(for: .simulated).name == "sim")
    }
}

@Suite struct ListTests {
    private let rows: [List.Row]

    init() {
        let fake = FakeMachine()
        fake.addCard("0000:02:00.0", driver: "vfio-pci")
        fake.addCard("0000:03:00.0", classCode: "0x010802", driver: "nvme", group: "8")
        fake.addCard("0000:04:00.0", driver: nil, group: "9")
        fake.addCard("0000:05:00.0", driver: nil, group: nil)
        fake.addCard("0000:06:00.0", driver: "vfio-pci", group: "10")
        fake.addCard("0000:06:00.1", driver: "snd", group: "10")
        rows = List.rows(fake.machine)
    }

    @Test func `the simulated card is always there`() {
        let rows = List.rows(FakeMachine().machine)
        #expect(rows.map(\.card) == ["sim"] && rows.first?.obstacle == nil)
    }

    @Test func `the columns line up`() {
        let table = """
            CARD          IDS        CLASS   DRIVER    GROUP  CARDFS
            sim           -          -       -         -      yes
            0000:02:00.0  10ee:7024  058000  vfio-pci  7      yes
            0000:03:00.0  10ee:7024  010802  nvme      8      no: nvme has it: cardfs bind 0000:03:00.0
            0000:04:00.0  10ee:7024  058000  -         9      no: bound to no driver: cardfs bind 0000:04:00.0
            0000:05:00.0  10ee:7024  058000  -         -      no: no IOMMU isolates it: cardfs doctor 0000:05:00.0
            0000:06:00.0  10ee:7024  058000  vfio-pci  10     no: snd has 0000:06:00.1 of its group: cardfs bind 0000:06:00.1
            0000:06:00.1  10ee:7024  058000  snd       10     no: snd has it: cardfs bind 0000:06:00.1
            """
        #expect(List.table(rows) == table)
    }

    @Test func `a program reads the same as JSON`() async {
        let script =
            "printf %s \"$TEXT\" | python3 -c 'import json,sys; print([(r[\"card\"], r[\"ids\"], r[\"iommu_group\"], "
            + "r[\"available\"]) for r in json.load(sys.stdin)][:3])'"
        let result = await shell(
            "command -v python3 >/dev/null || exit 77; " + script,
            environment: ["TEXT": List.json(rows)]
        )
        if result.status == 77 { return }
        let expected =
            "[('sim', None, None, True), ('0000:02:00.0', '10ee:7024', '7', True), "
            + "('0000:03:00.0', '10ee:7024', '8', False)]\n"
        #expect(result.text == expected)
    }
}

@Suite struct LogTests {
    @Test func `a message is one line with its metadata`() {
        let event = LogEvent(
            level: .warning,
            message: "two\nlines",
            error: Refusal("no", hint: "yes"),
            metadata: ["b": "2"],
            source: nil,
            file: "",
            function: "",
            line: 1
        )
        #expect(LogLine.text(event, metadata: ["a": "1"]) == #"two\012lines: no; yes a=1 b=2"#)
    }

    @Test(arguments: [
        (Logger.Level.trace, LOG_DEBUG), (.debug, LOG_DEBUG), (.info, LOG_INFO), (.notice, LOG_NOTICE),
        (.warning, LOG_WARNING), (.error, LOG_ERR), (.critical, LOG_CRIT),
    ])
    func `a level has its severity in the system log`(level: Logger.Level, severity: CInt) {
        #expect(SystemLogHandler.priority(level) == severity)
    }
}

/// The executable itself, run as a person runs it.
@Suite(.enabled(if: cardfsExecutable != nil)) struct ExecutableTests {
    private func cardfs(_ arguments: String) async -> ShellResult {
        await shell("exec \"$CARDFS\" \(arguments)", environment: ["CARDFS": cardfsExecutable ?? ""])
    }

    @Test func `version and help go to standard output`() async {
        let version = await cardfs("--version")
        #expect(version.status == 0 && version.text == "0.1.0\n" && version.errors.isEmpty)
        let help = await cardfs("mount --help")
        #expect(help.status == 0 && help.text.contains("direct_threshold=SIZE") && !help.text.contains("ready-fd"))
        #expect(help.text.split(separator: "\n").allSatisfy { $0.count <= 80 })
    }

    @Test(
        arguments: [
            (64, "mount", "cardfs: missing expected argument '<card>'\nhint: cardfs mount --help\n"),
            (64, "sim", "cardfs: missing expected argument '<mountpoint>'\nhint: cardfs mount --help\n"),
            (
                66, "mount sim /etc/passwd",
                "cardfs: /etc/passwd is not a directory\nhint: mount on an empty directory\n"
            ),
            (66, "mount sim /not-there", "cardfs: /not-there: No such file or directory\nhint: mkdir -p /not-there\n"),
            (
                64, "mount sim /",
                "cardfs: a card is not mounted on /: programs would not find it there, and could not take it away\n"
                    + "hint: mkdir /mnt/card, and mount there\n"
            ),
            (
                64, "sim /tmp -o dirct_threshold=1",
                "cardfs: unknown option \"dirct_threshold\": did you mean direct_threshold?\n"
                    + "hint: cardfs mount --help lists the options\n"
            ),
            (
                66, "mount ffff:fe:1f.7 /tmp",
                "cardfs: there is no PCI function at ffff:fe:1f.7: cardfs list shows those there are\n"
                    + "hint: cardfs doctor ffff:fe:1f.7 shows all that is missing\n"
            ),
            (66, "unmount /proc", "cardfs: what is mounted on /proc is proc, not a card\nhint: umount /proc\n"),
            (66, "umount /proc", "cardfs: what is mounted on /proc is proc, not a card\nhint: umount /proc\n"),
            (64, "list --jso", "cardfs: unknown option '--jso'. Did you mean '--json'?\nhint: cardfs list --help\n"),
            (64, "help nosuch", "cardfs: there is no command \"nosuch\"\nhint: cardfs --help lists them\n"),
            (
                64, "bind sim",
                "cardfs: the simulated card belongs to no driver of the kernel\nhint: cardfs mount sim MOUNTPOINT\n"
            ),
            (66, "bench /proc", "cardfs: no card is mounted on /proc\nhint: cardfs mount sim /proc\n"),
        ] as [(Int32, String, String)]
    )
    func `what goes wrong is one sentence, one hint, and a status for its kind`(
        status: Int32,
        arguments: String,
        errors: String
    ) async {
        let result = await cardfs(arguments)
        #expect(result.status == status && result.output.isEmpty)
        #expect(result.errors == errors)
    }

    @Test func `nothing mounted is told, and how to see what is`() async {
        let result = await shell(
            "D=$(mktemp -d); \"$CARDFS\" unmount $D; echo $?; rmdir $D",
            environment: ["CARDFS": cardfsExecutable ?? ""]
        )
        #expect(result.text == "66\n" && result.errors.contains("nothing is mounted on"))
    }

    @Test func `help is there for every command, also by its other name`() async {
        for name in ["mount", "unmount", "umount", "list", "doctor", "bind", "unbind", "bench"] {
            let result = await cardfs("help \(name)")
            #expect(result.status == 0 && result.text.contains("USAGE: cardfs "), "\(name)")
        }
    }

    /// The package's plugin for manual pages asks this way.
    @Test func `the parser's own options are not taken for a mount`() async {
        let script = "import json,sys; print(json.load(sys.stdin)['command']['commandName'])"
        let dump = await shell(
            "command -v python3 > /dev/null || exit 77; $CARDFS --experimental-dump-help | python3 -c \"\(script)\"",
            environment: ["CARDFS": cardfsExecutable ?? ""]
        )
        #expect(dump.status == 77 || dump.text == "cardfs\n")
        for shell in ["bash", "zsh", "fish"] {
            let script = await cardfs("--generate-completion-script \(shell)")
            #expect(script.status == 0 && script.text.contains("unmount"), "\(shell)")
        }
    }

    @Test func `a mount that fails leaves nothing behind`() async {
        do {
            _ = try MountedCard("no_such_option")
            Issue.record("it was mounted")
        } catch {
            #expect("\(error)".contains("unknown option \"no_such_option\""))
        }
    }

    @Test func `the executable does without all of Foundation`() async {
        let result = await shell("ldd \"$CARDFS\"", environment: ["CARDFS": cardfsExecutable ?? ""])
        #expect(!result.text.contains("libFoundation.so"))
    }
}
