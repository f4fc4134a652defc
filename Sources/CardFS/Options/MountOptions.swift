public import PCIBus

/// What `-o` asks for. Times are nanoseconds, sizes are bytes.
public struct MountOptions: Hashable, Sendable {
    /// No file can be written.
    public var readOnly = false
    /// Other users may enter the mount; the modes of the files decide what they may do there.
    public var allowOther = false
    /// Who owns the files; nil for the mounting user.
    public var uid: UInt32?
    /// The group of the files; nil for the mounting user's group.
    public var gid: UInt32?
    /// Permission bits that take the place of 0660 for the files that are written and read; nil for each file's own.
    public var mode: UInt32?
    /// Where a simulated card sits; nil for its usual place.
    public var address: PCIAddress?
    /// Requests smaller than this are copied through a system buffer, larger ones are mapped.
    public var directThreshold = 16384
    /// How long a stream read waits for more after a byte came.
    public var gatherNanoseconds: UInt64 = 10_000_000
    /// How long a write waits without progress; 0 for ever.
    public var transmitTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// How long a read waits without progress; 0 for ever.
    public var receiveTimeoutNanoseconds: UInt64 = 0
    /// How long a program keeps a piece of the receive ring that others wait for; 0 for ever.
    public var loanTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// How long close waits until the card has what was written; 0 not at all.
    public var lingerNanoseconds: UInt64 = 2_000_000_000
    /// How the card interrupts; nil for the best it has.
    public var interrupts: InterruptKind?
    /// How long a reload waits for the card.
    public var reloadTimeoutNanoseconds: UInt64 = 60_000_000_000
    /// Misuse of the driver model is looked for and told of.
    public var verify = false
    /// BAR2 of the SpaceWire card may be written.
    public var allowBAR2Writes = false
    /// Registers that the driver owns may be written.
    public var expert = false
    /// Memory of the far receiver of a simulated card.
    public var receiverByteCount = 64 << 20
    /// Address lines of a simulated card, 24…32.
    public var simulatedAddressBits = 32
    /// Whether a simulated card takes a packet from several runs of addresses.
    public var simulatedScatterGather = true
    /// Map registers of a simulated machine; nil for as many as the driver wants.
    public var simulatedMapRegisters: Int?
    /// Files of the card that one user may have open who is neither root nor the mount's owner.
    public var userFiles = 4096
    /// Requests of each kind that such a user may have waiting.
    public var userRequests = 128
    /// Payload memory that the waiting requests of such a user may hold, a multiple of 1 MiB.
    public var userByteCount = 16 << 20
    /// Threads that receive requests, 1…8; nil leaves it to the session.
    public var threads: Int?
    /// How long a receive thread looks for the next request before it sleeps; 0 not at all.
    public var spinNanoseconds: UInt64 = 0
    /// Microseconds in which a processor is to wake while files of the card are open; nil asks for nothing.
    public var latencyMicroseconds: Int32?
    /// Options of every mount, such as `nodev`, that libfuse hands to the kernel; in the order given, each once.
    public var kernelOptions: [String] = []

    /// The options of a mount without `-o`.
    public init() {}

    /// Reads the values of `-o`, each a list with commas; a later option takes the place of an earlier one.
    ///
    /// Throws a ``Refusal`` that names the first option that is unknown or has a value it cannot have.
    public init(_ lists: [String]) throws(Refusal) {
        for list in lists {
            for item in list.split(separator: ",") { try apply(item) }
        }
    }

    private mutating func apply(_ item: Substring) throws(Refusal) {
        let parts = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        let name = String(parts[0])
        let value = parts.count == 2 ? String(parts[1]) : nil
        guard let option = Self.table.first(where: { $0.name == name }) else {
            if Self.isForOthers(name) { return }
            if Self.kernelWords.contains(name), value == nil { return keepForKernel(name) }
            throw Self.unknown(name)
        }
        switch option.setter {
        case .flag(let set):
            guard value == nil else {
                throw Refusal("option \(name) takes no value", hint: Self.whereListed, kind: .usage)
            }
            set(&self)
        case .value(let set):
            guard let value, !value.isEmpty else {
                throw Refusal(
                    "option \(name) needs a value: \(option.form)",
                    hint: Self.whereListed,
                    kind: .usage
                )
            }
            do throws(BadValue) {
                try set(&self, value)
            } catch {
                throw Refusal(
                    "option \(name): \"\(value)\" \(error.reason)",
                    hint: "write \(option.form): \(option.help)",
                    kind: .usage
                )
            }
        }
    }

    private mutating func keepForKernel(_ word: String) {
        let opposite = word.hasPrefix("no") ? String(word.dropFirst(2)) : word == "async" ? "sync" : "no" + word
        kernelOptions.removeAll { $0 == word || $0 == opposite || (word == "sync" && $0 == "async") }
        kernelOptions.append(word)
    }
}

// MARK: The table of options

extension MountOptions {
    private struct BadValue: Error {
        var reason: String

        init(_ reason: String) { self.reason = reason }
    }

    private enum Setter: Sendable {
        case flag(@Sendable (inout MountOptions) -> Void)
        case value(@Sendable (inout MountOptions, String) throws(BadValue) -> Void)
    }

    private struct Option: Sendable {
        var name: String
        /// How it is written, value and all.
        var form: String
        var help: String
        var setter: Setter
    }

    private static let table: [Option] = [
        flag("ro", "no file can be written") { $0.readOnly = true },
        flag("rw", "files can be written (default)") { $0.readOnly = false },
        flag("allow_other", "other users may enter the mount") { $0.allowOther = true },
        value("uid", "N", "who owns the files (default: who mounts)") { options, text throws(BadValue) in
            options.uid = UInt32(try number(text, 0...UInt64(UInt32.max - 1)))
        },
        value("gid", "N", "the group of the files") { options, text throws(BadValue) in
            options.gid = UInt32(try number(text, 0...UInt64(UInt32.max - 1)))
        },
        value("mode", "OCTAL", "permissions of the files instead of 660") { options, text throws(BadValue) in
            options.mode = try permissions(text)
        },
        value("address", "DDDD:BB:DD.F", "where a simulated card sits") { options, text throws(BadValue) in
            guard let address = PCIAddress(text) else { throw BadValue("is no PCI address") }
            options.address = address
        },
        value("direct_threshold", "SIZE", "from here on transfers are not copied (16K)") {
            options,
            text throws(BadValue) in
            options.directThreshold = Int(try size(text, 0...UInt64(1 << 30)))
        },
        value("gather", "TIME", "a stream read waits so long for more (10ms)") { options, text throws(BadValue) in
            options.gatherNanoseconds = try time(text)
        },
        value("tx_timeout", "TIME", "a write waits so long (10s; 0 is for ever)") {
            options,
            text throws(BadValue) in
            options.transmitTimeoutNanoseconds = try time(text)
        },
        value("rx_timeout", "TIME", "a read waits so long (0, for ever)") {
            options,
            text throws(BadValue) in
            options.receiveTimeoutNanoseconds = try time(text)
        },
        value("loan_timeout", "TIME", "others wait so long for what a program borrowed (10s)") {
            options,
            text throws(BadValue) in
            options.loanTimeoutNanoseconds = try time(text)
        },
        value("linger", "TIME", "close waits so long for the card (2s)") { options, text throws(BadValue) in
            options.lingerNanoseconds = try time(text)
        },
        value("interrupts", "KIND", "msix, msi or intx (the best the card has)") { options, text throws(BadValue) in
            let kinds: [String: InterruptKind] = ["msix": .msix, "msi": .msi, "intx": .intx]
            guard let kind = kinds[text] else { throw BadValue("is no kind of interrupt: msix, msi or intx") }
            options.interrupts = kind
        },
        value("reload_timeout", "TIME", "reload waits so long for the card (60s)") { options, text throws(BadValue) in
            options.reloadTimeoutNanoseconds = try time(text)
        },
        flag("allow_bar2_writes", "BAR2 may be written") { $0.allowBAR2Writes = true },
        flag("verify", "look for misuse of the driver model") { $0.verify = true },
        flag("expert", "registers the driver owns may be written") { $0.expert = true },
        value("receiver", "SIZE", "a simulated card's far receiver holds so much (64M)") {
            options,
            text throws(BadValue) in
            options.receiverByteCount = Int(try size(text, 4096...UInt64(1 << 36)))
        },
        value("dma_bits", "N", "address lines of a simulated card, 24 to 32 (32)") { options, text throws(BadValue) in
            options.simulatedAddressBits = Int(try number(text, 24...32))
        },
        value("scatter_gather", "0|1", "whether a simulated card gathers (1)") { options, text throws(BadValue) in
            options.simulatedScatterGather = try number(text, 0...1) == 1
        },
        value("map_registers", "N", "map registers of a simulated machine, 2 to 1024") {
            options,
            text throws(BadValue) in
            options.simulatedMapRegisters = Int(try number(text, 2...1024))
        },
        value("user_files", "N", "files one other user may have open (4096)") {
            options,
            text throws(BadValue) in
            options.userFiles = Int(try number(text, 1...UInt64(HandleTable.capacity)))
        },
        value("user_requests", "N", "requests of a kind such a one may have waiting (128)") {
            options,
            text throws(BadValue) in
            options.userRequests = Int(try number(text, 1...65536))
        },
        value("user_memory", "SIZE", "payload that such requests may hold (16M)") {
            options,
            text throws(BadValue) in
            options.userByteCount = Int(try size(text, 1 << 20...1 << 36))
        },
        value("threads", "N", "threads that receive requests, 1 to 8") { options, text throws(BadValue) in
            options.threads = Int(try number(text, 1...8))
        },
        value("spin", "TIME", "look so long for the next request before sleeping (0)") {
            options,
            text throws(BadValue) in
            options.spinNanoseconds = try time(text)
            guard options.spinNanoseconds <= 1_000_000_000 else { throw BadValue("is more than 1s") }
        },
        value("latency", "MICROSECONDS", "processors wake in so long while a file is open") {
            options,
            text throws(BadValue) in
            options.latencyMicroseconds = Int32(try number(text, 0...1_000_000))
        },
    ]

    private static func flag(_ name: String, _ help: String, _ set: @escaping @Sendable (inout MountOptions) -> Void)
        -> Option
    {
        Option(name: name, form: name, help: help, setter: .flag(set))
    }

    private static func value(
        _ name: String,
        _ form: String,
        _ help: String,
        _ set: @escaping @Sendable (inout MountOptions, String) throws(BadValue) -> Void
    ) -> Option {
        Option(name: name, form: "\(name)=\(form)", help: help, setter: .value(set))
    }

    private static func number(_ text: String, _ range: ClosedRange<UInt64>) throws(BadValue) -> UInt64 {
        try checked(range, unit: "") { () throws(NumberFailure) in
            guard !text.contains(where: \.isWhitespace) else { throw .notANumber }
            return try Number.parse(text)
        }
    }

    private static func size(_ text: String, _ range: ClosedRange<UInt64>) throws(BadValue) -> UInt64 {
        try checked(range, unit: " bytes") { () throws(NumberFailure) in try Quantity.bytes(text) }
    }

    private static func time(_ text: String) throws(BadValue) -> UInt64 {
        // A year is as good as for ever, and its end can be added to any time without an overflow.
        try checked(0...(365 * 86400 * 1_000_000_000), unit: " nanoseconds") { () throws(NumberFailure) in
            try Quantity.nanoseconds(text)
        }
    }

    private static func checked(
        _ range: ClosedRange<UInt64>,
        unit: String,
        _ parse: () throws(NumberFailure) -> UInt64
    ) throws(BadValue) -> UInt64 {
        let value: UInt64
        do throws(NumberFailure) {
            value = try parse()
        } catch {
            throw BadValue(error.description)
        }
        guard range.contains(value) else {
            throw BadValue("is not between \(range.lowerBound) and \(range.upperBound)\(unit)")
        }
        return value
    }

    private static func permissions(_ text: String) throws(BadValue) -> UInt32 {
        let digits = text.hasPrefix("0o") ? text.dropFirst(2) : Substring(text)
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "7")).contains($0) }) else {
            throw BadValue("is no octal number")
        }
        guard let mode = UInt32(digits, radix: 8), mode <= 0o777 else {
            throw BadValue("is more than permissions: at most 777")
        }
        return mode
    }
}

// MARK: Options that are not cardfs's own

extension MountOptions {
    /// What libfuse 3 takes as a flag of mount(2).
    private static let kernelWords: Set<String> = [
        "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "dirsync", "atime", "noatime",
    ]

    /// Words for mount(8), fstab and systemd, and flags that mean nothing for files without times on a disk. The name and
    /// the type of the mount are the session's own.
    private static let wordsForOthers: Set<String> = [
        "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "fail", "_netdev",
        "comment",
        "relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime", "nolazytime",
        "fsname", "subtype",
    ]

    private static func isForOthers(_ name: String) -> Bool {
        wordsForOthers.contains(name) || name.hasPrefix("x-") || name.hasPrefix("X-")
    }

    private static let whereListed = "cardfs mount --help lists the options"

    private static func unknown(_ name: String) -> Refusal {
        let close = table.map(\.name).map { (name: $0, distance: editDistance($0, name)) }
            .filter { $0.distance <= max(1, min($0.name.utf8.count, name.utf8.count) / 3) }
            .sorted { $0.distance < $1.distance }
            .prefix(3)
        guard !close.isEmpty else {
            return Refusal("unknown option \"\(name)\"", hint: whereListed, kind: .usage)
        }
        let list = close.map(\.name).joined(separator: " or ")
        return Refusal("unknown option \"\(name)\": did you mean \(list)?", hint: whereListed, kind: .usage)
    }

    /// How many bytes must be inserted, deleted, changed or swapped with their neighbour to make one word of another.
    private static func editDistance(_ left: String, _ right: String) -> Int {
        let left = Array(left.utf8)
        let right = Array(right.utf8)
        var rows = [Array(0...right.count)]
        for i in 0..<left.count {
            var row = [i + 1]
            for j in 0..<right.count {
                var best = min(row[j] + 1, rows[i][j + 1] + 1, rows[i][j] + (left[i] == right[j] ? 0 : 1))
                if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] {
                    best = min(best, rows[i - 1][j - 1] + 1)
                }
                row.append(best)
            }
            rows.append(row)
        }
        return rows[left.count][right.count]
    }

    /// The options as `--help` lists them: one line each, at most 78 columns, the last without a newline.
    public static let help: String = {
        let width = table.map(\.form.count).max() ?? 0
        return table.map { option in
            "  " + option.form + String(repeating: " ", count: width - option.form.count) + "  " + option.help
        }.joined(separator: "\n")
    }()
}
