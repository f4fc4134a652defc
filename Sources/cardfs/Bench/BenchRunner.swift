import CardFS
import Glibc
import PCIBus

/// Runs the parts of a benchmark one after the other, tells how far it is, and leaves the mount as it was.
struct BenchRunner {
    let mount: BenchMount
    let options: Bench

    /// Half a kilobyte to four megabytes.
    static let blockSizes = [512, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304]

    func run() throws -> BenchReport {
        let wire = mount.hasWire ? try mount.text("sim/wire") : nil
        defer {
            if let wire {
                try? mount.write(wire, to: "sim/wire")
                try? mount.write("flush", to: "ctl")
            }
        }
        var report = BenchReport(conditions: conditions())
        if options.only != .latency { try throughput(&report) }
        if options.only != .throughput { try latency(&report) }
        progress(nil)
        return report
    }

    private func throughput(_ report: inout BenchReport) throws {
        guard mount.hasStreams else {
            report.notes.append("this card has no dma/: no throughput was measured")
            return
        }
        if try mount.text("dma/framing") != "stream" {
            throw Refusal(
                "dma/framing is packet: a sweep over block sizes needs a stream",
                hint: "echo stream > \(mount.path("dma/framing"))",
                kind: .busy
            )
        }
        let run = ThroughputRun(mount: mount, seconds: options.seconds)
        let placement = options.placement ?? .free
        if !mount.hasWire {
            report.notes.append(
                "the card has no sim/wire: what was written was read back, so the far end must be a loopback"
            )
        }
        try placement.place(daemon: mount.daemon) {
            for size in Self.blockSizes {
                if mount.hasWire {
                    for streams in [1, 4] {
                        progress("into dma/tx, \(streams) × \(BenchText.size(size))")
                        report.throughput.append(try run.write(blockSize: size, streams: streams, placement: placement))
                        progress("out of dma/rx, \(streams) × \(BenchText.size(size))")
                        report.throughput.append(try run.read(blockSize: size, streams: streams, placement: placement))
                    }
                }
                progress("both at once, \(BenchText.size(size))")
                report.throughput.append(try run.loopback(blockSize: size, placement: placement))
            }
        }
        report.throughput.sort { ($0.path.order, $0.streams, $0.blockSize) < ($1.path.order, $1.streams, $1.blockSize) }
    }

    private func latency(_ report: inout BenchReport) throws {
        let run = LatencyRun(mount: mount, count: options.samples)
        let names = (SystemFile.list(mount.path("regs")) ?? []).sorted()
        let register = options.register ?? (names.contains("scratch") ? "scratch" : names.first)
        var placements = options.placement.map { [$0] } ?? Placement.allCases
        if options.placement == nil, report.conditions.processorCount < 2 {
            placements = [.free]
            report.notes.append("one processor: there is no placement to choose")
        }
        for placement in placements {
            try placement.place(daemon: mount.daemon) {
                if let register {
                    progress("read of regs/\(register), \(placement.words)")
                    report.latency.append(try run.registerRead(register, placement: placement))
                    if register == "scratch" {
                        progress("write of regs/\(register), \(placement.words)")
                        report.latency.append(try run.registerWrite(register, placement: placement))
                    }
                }
                progress("open, read and close of bar0, \(placement.words)")
                report.latency.append(try run.openReadClose("bar0", placement: placement))
                if mount.hasStreams {
                    progress("interrupt to its reader, \(placement.words)")
                    report.latency.append(try run.interruptToReader(placement: placement))
                }
            }
        }
        if register == nil { report.notes.append("this card has no named registers: none was read") }
    }

    private func conditions() -> BenchConditions {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let model = SystemFile.read("/proc/cpuinfo")?.split(separator: "\n").first { $0.hasPrefix("model name") }
        return BenchConditions(
            mountpoint: mount.mountpoint,
            card: mount.card,
            driver: mount.driver,
            bus: mount.bus,
            kernel: release,
            processor: model?.split(separator: ":", maxSplits: 1).last.map { $0.drop { $0 == " " } }.map(String.init)
                ?? "unknown",
            processorCount: sysconf(CInt(_SC_NPROCESSORS_ONLN)),
            time: time(nil),
            load: SystemFile.read("/proc/loadavg")?.split(separator: " ").first.flatMap { Double($0) },
            wakeLatency: wakeLatency()
        )
    }

    /// What the kernel keeps to while a file of the card is open, as the option `latency` has it.
    private func wakeLatency() -> Int32? {
        let file = open(mount.path("bar0"), O_RDONLY | O_CLOEXEC)
        defer { if file >= 0 { close(file) } }
        let device = open(WakeLatency.device, O_RDONLY | O_CLOEXEC)
        guard device >= 0 else { return nil }
        defer { close(device) }
        var number: Int32 = 0
        return read(device, &number, 4) == 4 ? number : nil
    }

    /// One line that is written over, on a terminal; a line for each step where there is none.
    private func progress(_ step: String?) {
        if isatty(STDERR_FILENO) == 1 {
            StandardError.write(step.map { "\r\u{1b}[K\($0)" } ?? "\r\u{1b}[K")
        } else if let step {
            StandardError.write(step + "\n")
        }
    }
}

extension ThroughputFigure.Path {
    fileprivate var order: Int { Self.allCases.firstIndex(of: self) ?? 0 }
}
