import CHardware
import CardFS
import Glibc

/// The mount under test, through its files only.
struct BenchMount: Sendable {
    /// An absolute path.
    let mountpoint: String
    /// The daemon.
    let daemon: pid_t
    let card: String
    let driver: String
    let bus: String
    /// There are data streams.
    let hasStreams: Bool
    /// The far end can be chosen.
    let hasWire: Bool

    /// Throws a refusal for what is no cardfs mount, or does not answer.
    init(_ path: String) throws(Refusal) {
        let place = try MountPath.resolve(path)
        guard MountTable.current().top(at: place)?.isCardFS == true else {
            throw Refusal("no card is mounted on \(place)", hint: "cardfs mount sim \(place)", kind: .absent)
        }
        mountpoint = place
        guard let metrics = SystemFile.read(place + "/metrics.prom") else {
            let code = errno
            guard code != EACCES, code != EPERM else {
                throw Refusal(
                    "you may not enter the mount on \(place): \(errnoMeaning(code))",
                    hint: "measure as the user who mounted it, or mount with -o allow_other",
                    kind: .denied
                )
            }
            throw Refusal(
                "the mount on \(place) does not answer: \(errnoMeaning(code))",
                hint: "cardfs unmount --force \(place)",
                kind: .unavailable
            )
        }
        func sample(_ name: String) -> Substring? {
            metrics.split(separator: "\n").first { $0.hasPrefix(name + "{") }
        }
        func label(_ name: String) -> String? {
            guard let line = sample("cardfs_info"), let start = line.firstRange(of: name + "=\"")?.upperBound else {
                return nil
            }
            return String(line[start...].prefix { $0 != "\"" })
        }
        guard let pid = sample("cardfs_daemon_process_id")?.split(separator: " ").last.flatMap({ pid_t($0) }),
            let card = label("card"), let driver = label("driver"), let bus = label("bus")
        else {
            throw Refusal(
                "the daemon of \(place) is of another version and does not say what it is",
                hint: "mount the card anew",
                kind: .unavailable
            )
        }
        daemon = pid
        self.card = card
        self.driver = driver
        self.bus = bus
        hasStreams = access(place + "/dma/tx", F_OK) == 0
        hasWire = access(place + "/sim/wire", F_OK) == 0
    }

    /// The path of a file of the mount.
    func path(_ file: String) -> String { mountpoint + "/" + file }

    /// Opens a file of the mount; the caller closes it.
    func open(_ file: String, _ flags: CInt) throws(Refusal) -> CInt {
        let descriptor = Glibc.open(path(file), flags | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(file) }
        return descriptor
    }

    /// The text of a file without its newline.
    func text(_ file: String) throws(Refusal) -> String {
        guard let text = SystemFile.read(path(file)) else { throw failure(file) }
        return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }

    /// Writes a line into a file, in one call.
    func write(_ line: String, to file: String) throws(Refusal) {
        let descriptor = try open(file, O_WRONLY)
        defer { close(descriptor) }
        let bytes = Array((line + "\n").utf8)
        guard bytes.withUnsafeBytes({ Glibc.write(descriptor, $0.baseAddress, $0.count) }) == bytes.count else {
            throw failure(file)
        }
    }

    /// The value of a line `name value` of a file.
    func value(_ name: String, in file: String) throws(Refusal) -> String? {
        let line = try text(file).split(separator: "\n").first { $0.hasPrefix(name + " ") }
        return line.map { String($0.dropFirst(name.count + 1)) }
    }

    /// What errno says of a file, with the mount's own sentence about this process and this file.
    func failure(_ file: String) -> Refusal {
        let code = errno
        let lines = (SystemFile.read(path("last_error")) ?? "").split(separator: "\n")
        let own = lines.last { line in
            // sequence time pid path ERRNO sentence
            let words = line.split(separator: " ", maxSplits: 5)
            return words.count == 6 && words[2] == "\(getpid())" && words[3] == file && words[4] == errnoName(code)
        }
        return Refusal(
            "\(path(file)): \(errnoMeaning(code))",
            hint: own.map { "last_error: \($0)" },
            kind: Refusal.Kind(errno: code, otherwise: .unavailable)
        )
    }

    /// Throws a refusal for a register that there is not. The register is not touched.
    func checkRegister(_ name: String) throws(Refusal) {
        guard access(path("regs/" + name), F_OK) != 0 else { return }
        let code = errno
        guard code == ENOENT else { throw failure("regs/" + name) }
        throw Refusal("\(card) has no register \(name)", hint: "ls \(path("regs")) lists them", kind: .absent)
    }
}
