import ArgumentParser
import CardFS
import Glibc

/// `cardfs unmount`.
struct Unmount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmount",
        abstract: "Drains and unmounts a card.",
        discussion: """
            Returns when the daemon is gone. Who holds the mount when it is busy is
            told by process and file.

            Examples:
              cardfs unmount /mnt/card
              cardfs unmount /mnt/card --force   ends what is parked, and detaches
            """,
        aliases: ["umount"]
    )

    @Argument(help: "Where the card is mounted.")
    var mountpoint: String

    @Flag(help: "End what waits for the card first; data on the way is lost.")
    var force = false

    func run() throws {
        let place = try MountPath.resolve(mountpoint)
        guard let mount = MountTable.current().top(at: place) else {
            throw Refusal(
                "nothing is mounted on \(place)",
                hint: "findmnt -t \(MountTable.type) lists mounted cards",
                kind: .absent
            )
        }
        guard mount.isCardFS else {
            throw Refusal(
                "what is mounted on \(place) is \(mount.type), not a card",
                hint: "umount \(place)",
                kind: .absent
            )
        }
        // A working directory in the mount would keep it busy.
        chdir("/")
        let connection = FuseConnection(number: mount.minor)
        let daemons = connection.daemons(mountpoint: place)

        if force {
            // Without fusectl there is no file to abort by; the kernel then does it together with the detaching.
            if connection.abort() != 0 { _ = Unmounting.force(place) }
            if isMounted(mount) { _ = try Unmounting.unmount(place, lazily: true) }
            end(daemons, connection, place)
        } else if try Unmounting.unmount(place, lazily: false) == EBUSY {
            throw busy(place)
        }
        try drain(mount, connection, daemons)
    }

    private func busy(_ place: String) -> Refusal {
        let holders = HolderScan().holders(of: place).filter { $0.pid != getpid() }.map(\.description)
        let mounts = MountTable.current().below(place).map { "\($0.type) is mounted on \($0.mountpoint)" }
        let all = holders + mounts
        guard !all.isEmpty else {
            return Refusal("\(place) is busy, and by whom only root can see", hint: "look again as root", kind: .busy)
        }
        let shown = all.prefix(8).joined(separator: ", ") + (all.count > 8 ? ", and \(all.count - 8) more" : "")
        return Refusal(
            "\(place) is busy: \(shown)",
            hint: "end them, or cardfs unmount --force \(place)",
            kind: .busy
        )
    }

    /// Ends daemons whose connection nobody could abort, without fusectl and without privileges: they are the user's own
    /// processes then, and what waits for the card ends with them.
    private func end(_ daemons: [Int32], _ connection: FuseConnection, _ place: String) {
        for number in [SIGTERM, SIGKILL] {
            // An aborted connection ends its daemon; as long as it is to be seen, it was not.
            for _ in 0..<50 {
                if !daemons.contains(where: isRunning) { return }
                usleep(20_000)
            }
            // Looked for again: the number of a process that has ended may be another's by now.
            for daemon in connection.daemons(mountpoint: place) where daemons.contains(daemon) { kill(daemon, number) }
        }
    }

    /// Waits until the mount has left the table, its connection is gone and its daemon has ended.
    private func drain(_ mount: MountTable.Entry, _ connection: FuseConnection, _ daemons: [Int32]) throws {
        for _ in 0..<500 {
            if !isMounted(mount), !connection.isListed, !daemons.contains(where: isRunning) { return }
            usleep(20_000)
        }
        let processes = daemons.isEmpty ? "" : ": process " + daemons.map { "\($0)" }.joined(separator: ", ")
        throw Refusal(
            "\(mount.mountpoint) is unmounted, but its daemon has not ended after 10 seconds\(processes)",
            hint: "another mount namespace may hold it; the system log says more: journalctl -t cardfs",
            kind: .unavailable
        )
    }

    /// Whether a process has not ended; one that its parent has yet to notice (a zombie) has.
    private func isRunning(_ pid: Int32) -> Bool {
        guard let text = SystemFile.read("/proc/\(pid)/stat"), let parenthesis = text.lastIndex(of: ")") else {
            return false
        }
        let state = text[text.index(after: parenthesis)...].first { $0 != " " }
        return state != "Z" && state != "X"
    }

    private func isMounted(_ mount: MountTable.Entry) -> Bool {
        MountTable.current().entries.contains {
            $0.id == mount.id && $0.mountpoint == mount.mountpoint && $0.minor == mount.minor
        }
    }
}
