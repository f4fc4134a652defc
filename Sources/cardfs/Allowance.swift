import CHardware
import CardFS
import Glibc

/// What a mount takes of the limits of its process, looked at before anything is made: what runs out in the middle cannot always
/// be told.
enum Allowance {
    /// Files that are open at a time, those of the programs it starts included.
    private static let files: UInt64 = 64
    /// Address space beside the far receiver of a simulated card: libraries, stacks, payload memory, tables.
    private static let addressSpace: UInt64 = 320 << 20
    /// The largest file in memory.
    private static let fileSize: UInt64 = 8 << 20

    /// Throws a refusal that names the limit which is too low.
    static func check(_ options: MountOptions) throws(Refusal) {
        // A write beyond the limit is an error then, and not the end of the process.
        signal(SIGXFSZ, SIG_IGN)
        guard ProcessLimit.files.raise(to: files) else { throw refusal(.files, files, "open files") }
        let memory = addressSpace + UInt64(options.receiverByteCount)
        for limit in [ProcessLimit.addressSpace, .data] {
            guard let value = limit.value else { continue }
            guard value >= memory else { throw refusal(limit, memory >> 10, "KiB of memory") }
            // The allocator would otherwise reserve much of it for each thread.
            chw_share_heap()
        }
        if let value = ProcessLimit.fileSize.value, value < fileSize {
            throw refusal(.fileSize, fileSize >> 10, "KiB of a file in memory")
        }
    }

    private static func refusal(_ limit: ProcessLimit, _ needed: UInt64, _ noun: String) -> Refusal {
        Refusal(
            "a mount needs \(needed) \(noun), and \(limit.words ?? "there are fewer")",
            hint: "ulimit -\(limit.rawValue) \(needed), or a higher limit by the administrator",
            kind: .exhausted
        )
    }
}
