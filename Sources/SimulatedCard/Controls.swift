import CHardware
public import PCIBus

// The named controls: what a person or a test does to the far end, the cable and the card from outside.

extension SimulatedFunction {
    /// The far end and its rate, the cable, faults, and what the IOMMU saw.
    public var controls: [BusControl] {
        [
            wireControl, rateControl, receivedControl, linkControl, faultControl, firmwareControl, lineControl,
            iommuControl,
        ]
    }

    private var wireControl: BusControl {
        BusControl(
            name: "wire",
            summary: "the far end: loopback (sends everything back), sink (drops it) or source (sends for ever); "
                + "written, it begins empty",
            read: { [self] in locked { "\($0.pointee.wire.mode)\n" } },
            write: { [self] text throws(BusError) in
                guard let mode = Wire.Mode.allCases.first(where: { "\($0)" == text }) else {
                    throw BusError(EINVAL, "wire is loopback, sink or source, not '\(text)'")
                }
                locked { state in
                    state.pointee.wire.connect(mode)
                    // A packet the old far end had begun is cut off.
                    if card.rx.state.pointee.isInPacket {
                        card.rx.state.pointee.isInPacket = false
                        card.rx.state.pointee.endsInError = true
                    }
                    card.interrupt(card.tx)
                    card.interrupt(card.rx)
                }
            }
        )
    }

    private var rateControl: BusControl {
        BusControl(
            name: "rate",
            summary:
                "bytes per second in each direction: unlimited, or a number, also with k, M or G (powers of 1000), as 40M",
            read: { [self] in
                locked { $0.pointee.wire.rate == 0 ? "unlimited\n" : "\($0.pointee.wire.rate)\n" }
            },
            write: { [self] text throws(BusError) in
                let rate = try Self.rate(text)
                locked { state in
                    state.pointee.wire.rate = rate
                    card.tx.state.pointee.nextTransfer = 0
                    card.rx.state.pointee.nextTransfer = 0
                    card.interrupt(card.tx)
                    card.interrupt(card.rx)
                }
            }
        )
    }

    private var receivedControl: BusControl {
        BusControl(
            name: "received",
            summary:
                "what the far end got from this card: bytes, packets, CRC-32C of the bytes; write clear to begin anew",
            read: { [self] in
                let (bytes, packets, crc) = locked {
                    ($0.pointee.wire.receivedBytes, $0.pointee.wire.receivedPackets, $0.pointee.wire.receivedCRC)
                }
                return "bytes \(bytes)\npackets \(packets)\ncrc32c 0x\(hexadecimal(crc, digits: 8))\n"
            },
            write: { [self] text throws(BusError) in
                guard text == "clear" else { throw BusError(EINVAL, "received takes clear, not '\(text)'") }
                locked { $0.pointee.wire.clearReceived() }
            }
        )
    }

    private var linkControl: BusControl {
        BusControl(
            name: "link",
            summary:
                "the state of the link; write down to unplug the cable (a disconnect error), up to plug it; disconnect, parity, "
                + "escape or credit for one such error, after which both ends start again",
            read: { [self] in locked { "\($0.pointee.core.link)\n" } },
            write: { [self] text throws(BusError) in
                if let error = Status.linkErrors.first(where: { $0.key == text }) {
                    return locked { _ in card.failLink(error.value) }
                }
                guard text == "up" || text == "down" else {
                    throw BusError(
                        EINVAL,
                        "link is up, down, or one of the errors disconnect, parity, escape and credit, not '\(text)'"
                    )
                }
                locked { state in
                    state.pointee.wire.isPlugged = text == "up"
                    if text == "down", state.pointee.core.link == .run {
                        state.pointee.core.sticky |= Status.disconnectError
                    }
                    card.updateLink()
                }
            }
        )
    }

    private var faultControl: BusControl {
        BusControl(
            name: "fault",
            summary:
                "none, hang-tx, hang-rx, eep (the next packet to the card ends in EEP), length (the next length the card tells "
                + "of what it has received is nonsense), gone or zeros (the card left the bus, reads are all ones or zero)",
            read: { [self] in locked { $0.pointee.fault.name + "\n" } },
            write: { [self] text throws(BusError) in
                guard let fault = Fault.allCases.first(where: { $0.name == text }) else {
                    let names = Fault.allCases.map(\.name).joined(separator: ", ")
                    throw BusError(EINVAL, "fault is one of \(names), not '\(text)'")
                }
                locked { state in
                    let wasPresent = card.isPresent
                    state.pointee.fault = fault
                    // A card that comes back was powered off, and the platform has configured it anew.
                    if !wasPresent, card.isPresent { card.resetFunction(cause: ResetCause.powerOn) }
                    card.interrupt(card.tx)
                    card.interrupt(card.rx)
                    card.evaluateInterrupts()
                }
                card.settle()
            }
        )
    }

    private var firmwareControl: BusControl {
        BusControl(
            name: "firmware",
            summary:
                "the version loaded into the FPGA; another one written, as 1.1, loads it at once: the card forgets everything, "
                + "its configuration header too",
            read: { [self] in
                locked { "\($0.pointee.registers.firmware >> 16).\($0.pointee.registers.firmware & 0xffff)\n" }
            },
            write: { [self] text throws(BusError) in
                let parts = text.split(separator: ".", omittingEmptySubsequences: false).map { UInt16($0) }
                guard parts.count == 2, let major = parts[0], let minor = parts[1] else {
                    throw BusError(EINVAL, "firmware is two numbers, as 1.1, not '\(text)'")
                }
                locked { state in
                    state.pointee.registers.firmware = UInt32(major) << 16 | UInt32(minor)
                    state.pointee.configuration.forget()
                    card.reset(cause: ResetCause.powerOn)
                    memset(card.windows, 0, RegisterBlock.windowBytes)
                    state.pointee.msix = MSIXTable()
                    state.pointee.interrupts.forgetLevels()
                    card.interrupt(card.tx)
                    card.interrupt(card.rx)
                }
                card.settle()
            }
        )
    }

    private var lineControl: BusControl {
        BusControl(
            name: "line",
            summary:
                "the interrupt line INTA, which the card shares: calls its routine declined, and those nobody claimed; write "
                + "neighbour to have the other function on the line interrupt once",
            read: { [self] in
                let (declined, unclaimed) = locked {
                    ($0.pointee.interrupts.declined, $0.pointee.interrupts.unclaimed)
                }
                return "declined \(declined)\nunclaimed \(unclaimed)\n"
            },
            write: { [self] text throws(BusError) in
                guard text == "neighbour" else { throw BusError(EINVAL, "line takes neighbour, not '\(text)'") }
                guard card.gate.isLine.pointee else {
                    throw BusError(EBUSY, "nobody listens to the line: mount with -o interrupts=intx")
                }
                locked {
                    $0.pointee.interrupts.isNeighbourPulling = true
                    card.pullLine()
                }
            }
        )
    }

    private var iommuControl: BusControl {
        BusControl(
            name: "iommu",
            summary: "bytes mapped for the card, accesses that were refused, and the last of them",
            read: { [self] in
                let faults = locked { _ in card.iommu.faults.pointee }
                let last =
                    faults.count == 0
                    ? "none" : "0x\(hexadecimal(faults.logical, digits: 8)) \(faults.direction.rawValue)"
                return "mapped_bytes \(mappedBytes)\nfaults \(faults.count)\nlast_fault \(last)\n"
            },
            write: nil
        )
    }

    /// Works on the state under its lock; then interrupts are sent.
    private func locked<T>(_ body: (UnsafeMutablePointer<CardState>) -> T) -> T {
        card.lock.lock()
        defer { card.unlockAndDeliver() }
        return body(card.state)
    }

    /// Reads `unlimited` (0) or `40000000`, `40M`, `40MB`, `40MB/s`, `40 MB/s`.
    static func rate(_ text: String) throws(BusError) -> UInt64 {
        if text == "unlimited" { return 0 }
        var rest = Substring(text)
        for suffix in ["/s", "B"] where rest.hasSuffix(suffix) { rest = rest.dropLast(suffix.count) }
        var factor: UInt64 = 1
        switch rest.last {
        case "k": factor = 1_000
        case "M": factor = 1_000_000
        case "G": factor = 1_000_000_000
        default: break
        }
        if factor != 1 { rest = rest.dropLast() }
        if rest.last == " " { rest = rest.dropLast() }
        let isNumber = !rest.isEmpty && rest.utf8.allSatisfy { (0x30...0x39).contains($0) }
        guard isNumber, let number = UInt64(rest), number > 0, number <= 1_000_000_000_000 / factor else {
            throw BusError(EINVAL, "rate is unlimited or bytes per second, as 40000000, 40M or 40MB/s, not '\(text)'")
        }
        return number * factor
    }
}
