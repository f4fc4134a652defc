import ArgumentParser
import CardFS
import Glibc
import Logging

/// `cardfs mount`.
struct Mount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount",
        abstract: "Mounts a card and returns when the mount answers.",
        discussion: """
            Examples:
              cardfs mount sim /mnt/card
              cardfs mount sim /mnt/card -o direct_threshold=4K,linger=0 -f
              mount -t fuse.cardfs sim /mnt/card -o allow_other,mode=666
              (fstab)  sim  /mnt/card  fuse.cardfs  noauto,user,gather=1ms  0 0

            Options of -o:
            \(MountOptions.help)

            A TIME is 10s, 10ms or 500us, a SIZE is 16384, 16K or 1M. The options
            of every mount (nodev, noexec, nofail, x-systemd.automount, …) are taken.
            """
    )

    @Argument(help: "sim, or a PCI address such as 0000:02:00.0.")
    var card: String

    @Argument(help: "A directory.")
    var mountpoint: String

    @Option(
        name: .customShort("o"),
        help: ArgumentHelp("Options, separated by commas; may be given several times.", valueName: "key=value,…")
    )
    var options: [String] = []

    @Flag(name: [.customShort("f"), .customLong("foreground")], help: "Stay in the foreground until a signal comes.")
    var foreground = false

    @Option(name: .customLong("ready-fd"), help: .hidden)
    var readyDescriptor: CInt?

    func run() throws {
        let card = try CardName(card)
        let parsed = try MountOptions(options)
        _ = try BusRegistry.entry(for: card)
        try Allowance.check(parsed)

        if let readyDescriptor {
            Daemon.detach(keeping: readyDescriptor)
            try serveAsDaemon(card, parsed, Readiness(descriptor: readyDescriptor))
        } else if foreground {
            LoggingSystem.bootstrap { _ in StandardErrorLogHandler() }
            let logger = Logger(label: "cardfs")
            let (place, claim) = try Mountpoint.prepare(mountpoint, logger: logger)
            let status = try MountRunner.run(
                card: card,
                mountpoint: place,
                options: parsed,
                logger: logger,
                ready: {
                    claim.release()
                    return true
                }
            )
            if status != 0 { throw ExitCode(status) }
        } else {
            LoggingSystem.bootstrap { _ in StandardErrorLogHandler() }
            let (place, claim) = try Mountpoint.prepare(mountpoint, logger: Logger(label: "cardfs"))
            defer { claim.release() }
            let arguments = ["mount", card.description, place] + options.flatMap { ["-o", $0] }
            try Daemon.launch(arguments, mountpoint: place)
        }
    }

    private func serveAsDaemon(_ card: CardName, _ options: MountOptions, _ readiness: Readiness) throws {
        SystemLogHandler.open()
        LoggingSystem.bootstrap { _ in SystemLogHandler() }
        let logger = Logger(label: "cardfs")
        do {
            let status = try MountRunner.run(
                card: card,
                mountpoint: mountpoint,
                options: options,
                logger: logger,
                ready: readiness.tellReady
            )
            if status != 0 { throw ExitCode(status) }
        } catch {
            let refusal = error as? Refusal ?? Refusal("\(error)")
            if !(error is ExitCode) { logger.error("\(refusal)") }
            readiness.tell(refusal)
            throw ExitCode(refusal.kind.rawValue)
        }
    }
}
