import DriverCore
import Glibc
import PCIBus
import Synchronization

/// The text of `metrics.prom`.
func metricsText(_ fileSystem: CardFileSystem) -> String {
    let device = fileSystem.device
    let card = [Metric.Label("card", device.function.address.description)]
    var metrics: [Metric] = []
    func add(_ name: String, _ kind: Metric.Kind, _ help: String, _ value: UInt64) {
        metrics.append(
            Metric("cardfs_" + name, kind, help: help, samples: [Metric.Sample(.integer(value), labels: card)])
        )
    }
    let state = device.state
    metrics.append(
        Metric(
            "cardfs_info",
            .gauge,
            help: "What is mounted; always 1.",
            samples: [
                Metric.Sample(
                    .integer(1),
                    labels: card + [
                        Metric.Label("bus", device.function.busName), Metric.Label("driver", device.driverName),
                        Metric.Label("pnp", state.pnp.rawValue), Metric.Label("power", state.power.rawValue),
                    ]
                )
            ]
        )
    )
    add("daemon_process_id", .gauge, "The process that serves the mount.", UInt64(getpid()))
    add("up", .gauge, "Whether the card is started and in D0.", state.pnp == .started && state.power == .d0 ? 1 : 0)
    if let dma = device.dma {
        for counter in dma.counters {
            add(counter.name, counter.name.hasSuffix("_total") ? .counter : .gauge, counter.help, counter.value)
        }
    }
    for family in device.dma?.countersByCause ?? [] {
        metrics.append(
            Metric(
                "cardfs_" + family.name,
                .counter,
                help: family.help,
                samples: family.causes.map {
                    Metric.Sample(.integer($0.value), labels: card + [Metric.Label("cause", $0.cause)])
                }
            )
        )
    }
    add("interrupts_total", .counter, "Interrupts the card raised.", device.interrupt.pointee.log.totalCount)
    add(
        "interrupts_declined_total",
        .counter,
        "Interrupts of a shared line that were not this card's.",
        device.interrupt.pointee.declinedCount
    )
    let counters = fileSystem.mount
    if fileSystem.options.verify {
        let findings = Verifier.shared.findings
        metrics.append(
            Metric(
                "cardfs_verifier_findings_total",
                .counter,
                help: "Misuse of the driver model.",
                samples: Misuse.allCases.filter { $0.ruledOut == nil }.map { misuse in
                    Metric.Sample(
                        .integer(findings.first { $0.misuse == misuse }?.count ?? 0),
                        labels: card + [Metric.Label("misuse", misuse.rawValue), Metric.Label("code", misuse.codeText)]
                    )
                }
            )
        )
    }
    add("opens_total", .counter, "Files opened.", counters.pointee.counters.opens.load(ordering: .relaxed))
    add(
        "register_reads_total",
        .counter,
        "Accesses to registers and BARs that read.",
        counters.pointee.counters.registerReads.load(ordering: .relaxed)
    )
    add(
        "register_writes_total",
        .counter,
        "Accesses to registers and BARs that write.",
        counters.pointee.counters.registerWrites.load(ordering: .relaxed)
    )
    add(
        "failures_total",
        .counter,
        "File operations that failed.",
        counters.pointee.counters.failures.load(ordering: .relaxed)
    )
    add("requests_dropped_total", .counter, "Requests the driver dropped unanswered.", device.pool.pointee.droppedCount)
    add("requests_in_flight", .gauge, "Requests under way.", UInt64(device.pool.pointee.inUse))
    add("open_files", .gauge, "Files open now.", UInt64(counters.pointee.handles.pointee.count))
    add("free_receive_buffers", .gauge, "Receive buffers nobody has.", UInt64(device.arena.pointee.freeReceiveBuffers))
    metrics += shareMetrics(counters, card)
    return PrometheusText.write(metrics)
}

/// What users have of what there is, and what they may have.
private func shareMetrics(_ mount: UnsafeMutablePointer<MountState>, _ card: [Metric.Label]) -> [Metric] {
    let figures = SharedResource.all.map { (name: $0.name, figures: mount.pointee.users.figures($0)) }
    func family(_ name: String, _ kind: Metric.Kind, _ help: String, _ value: (UserShares.Figures) -> Int) -> Metric {
        Metric(
            "cardfs_" + name,
            kind,
            help: help,
            samples: figures.map {
                Metric.Sample(
                    .integer(UInt64(max(0, value($0.figures)))),
                    labels: card + [Metric.Label("resource", $0.name)]
                )
            }
        )
    }
    return [
        family("shared_limit", .gauge, "How much of it there can be.") { $0.total },
        family("shared_now", .gauge, "How much of it is taken now.") { $0.now },
        family("shared_most", .gauge, "The most that was taken at a time.") { $0.most },
        family("user_limit", .gauge, "How much one user may have who is neither root nor the owner.") { $0.user },
        family("user_most", .gauge, "The most that one such user had at a time.") { $0.mostOfUser },
        family("users_limit", .gauge, "How much such users may have together.") { $0.together },
        family("shared_refused_total", .counter, "How often somebody was refused more.") { $0.refusals },
    ]
}
