import ArgumentParser
import CardFS
import Glibc

/// `cardfs bench`.
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures a mount: throughput by block size, and how long registers and interrupts take.",
        discussion: """
            Every byte moved is checked. The figures are said together with the conditions
            they were taken under. On a simulated card, sim/wire is set as needed and set
            back; on a real one the far end has to be a loopback, and nobody else may use
            the streams.

            Examples:
              cardfs bench /mnt/card
              cardfs bench /mnt/card --json > run.json
              cardfs bench /mnt/card --svg run.svg --seconds 2
              cardfs bench /mnt/card --placement same
            """
    )

    @Argument(help: "Where the card is mounted.")
    var mountpoint: String

    @Flag(help: "As JSON, for programs.")
    var json = false

    @Option(help: ArgumentHelp("Write a picture of the curves there.", valueName: "file"))
    var svg: String?

    @Option(help: "Seconds for each point of the sweep.")
    var seconds = 0.4

    @Option(help: "Operations measured for each latency.")
    var samples = 20_000

    @Option(
        help: ArgumentHelp(
            "Processors of this command and of the daemon: free (as the scheduler likes), same or other. Without it, throughput is taken free, and latencies in all three ways.",
            valueName: "place"
        )
    )
    var placement: Placement?

    @Option(
        help: ArgumentHelp(
            "The register to read. Without it scratch, or the first one listed. Only scratch is written to.",
            valueName: "name"
        )
    )
    var register: String?

    @Option(help: ArgumentHelp("What to measure: all, throughput or latency.", valueName: "part"))
    var only = BenchPart.all

    func validate() throws {
        guard seconds >= 0.01, seconds <= 600 else { throw ValidationError("--seconds is from 0.01 to 600") }
        guard samples >= 100, samples <= 100_000_000 else {
            throw ValidationError("--samples is from 100 to 100000000")
        }
    }

    func run() throws {
        let mount = try BenchMount(mountpoint)
        // What cannot work is refused before anything is measured.
        if let register { try mount.checkRegister(register) }
        let picture = try svg.map { path throws(Refusal) in try BenchPicture(path) }
        BenchInterrupt.watch()
        let report: BenchReport
        do {
            report = try BenchRunner(mount: mount, options: self).run()
        } catch {
            picture?.discard()
            throw error
        }
        // The figures first: they are there, whatever becomes of the picture.
        print(json ? BenchJSON.write(report) : BenchText.write(report))
        try picture?.write(BenchSVG.write(report))
    }
}

/// The file of the picture, opened before the measurement, so that one that cannot be written is no news after it.
private struct BenchPicture {
    private let path: String
    private let descriptor: CInt
    /// There was no such file before.
    private let isNew: Bool

    init(_ path: String) throws(Refusal) {
        self.path = path
        isNew = access(path, F_OK) != 0
        descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw Self.failure(path, errno) }
    }

    func write(_ text: String) throws(Refusal) {
        let bytes = Array(text.utf8)
        // A pipe or a terminal has no length.
        _ = ftruncate(descriptor, 0)
        let isWritten = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) } == bytes.count
        guard isWritten, close(descriptor) == 0 else { throw Self.failure(path, errno) }
    }

    func discard() {
        close(descriptor)
        if isNew { unlink(path) }
    }

    private static func failure(_ path: String, _ code: CInt) -> Refusal {
        Refusal("\(path): \(errnoMeaning(code))", hint: "give --svg a file that can be written", kind: .unwritable)
    }
}

/// What is measured.
enum BenchPart: String, CaseIterable, ExpressibleByArgument {
    case all
    case throughput
    case latency
}

extension Placement: ExpressibleByArgument {}
