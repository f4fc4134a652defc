import CFuse
import CHardware
import DriverCore
import PCIBus
import Synchronization

/// Makes the tree of a card from what its driver and its bus offer.
struct TreeBuilder {
    let device: Device
    let options: MountOptions
    let mount: UnsafeMutablePointer<MountState>
    let link: TreeLink

    func build() -> Tree {
        var tree = Tree(rootMode: 0o755)
        addRegisters(&tree)
        addPCI(&tree)
        if device.dma != nil { addDMA(&tree) }
        addInterrupts(&tree)
        addControls(&tree)
        return tree
    }

    /// The permissions of a file: those of the contract, or what `-o mode=` leaves of the same kind of access.
    private func mode(_ usual: UInt32) -> UInt32 {
        guard let chosen = options.mode else { return usual }
        switch usual {
        case 0o660: return chosen & 0o666
        case 0o220: return chosen & 0o222
        case 0o440: return chosen & 0o444
        default: return usual
        }
    }

    // MARK: Registers

    private func addRegisters(_ tree: inout Tree) {
        let registers = device.registerMap.registers
        if !device.registerMap.window.isEmpty {
            tree.add(Node(name: "bar0", parent: 1, kind: .windowRegister, mode: mode(0o660), size: 11))
            tree.add(Node(name: "offset", parent: 1, kind: .windowOffset, mode: mode(0o660), size: 11))
        }
        let function = device.function
        if function.usableBARs.contains(where: { $0.index == 0 && $0.kind != .io }) {
            tree.add(
                Node(
                    name: "paddr",
                    parent: 1,
                    kind: .text,
                    mode: 0o400,
                    size: 19,
                    read: {
                        // Asked each time: a card that was stopped may be started at another place.
                        let place = function.usableBARs.first { $0.index == 0 }?.address.value ?? 0
                        return "0x\(hexadecimal(place, digits: 16))\n"
                    }
                )
            )
            let directory = tree.addDirectory("regs")
            for register in registers {
                tree.add(
                    Node(
                        name: register.name,
                        parent: directory,
                        kind: .register,
                        mode: register.isWritable ? mode(0o660) : 0o444,
                        size: UInt64(2 * register.width.byteCount + 3),
                        bar: 0,
                        offset: register.offset,
                        width: register.width
                    )
                )
            }
        }
        for bar in device.function.usableBARs where bar.kind != .io {
            tree.add(
                Node(
                    name: "resource\(bar.index)",
                    parent: 1,
                    kind: .resource,
                    mode: mode(0o660),
                    size: bar.byteCount,
                    bar: bar.index
                )
            )
        }
    }

    // MARK: PCI

    private func addPCI(_ tree: inout Tree) {
        let device = device
        tree.add(
            Node(
                name: "config",
                parent: 1,
                kind: .configuration,
                mode: 0o640,
                size: UInt64(device.function.configurationSize)
            )
        )
        let identity = device.identity
        func constant(_ name: String, _ text: String) {
            tree.add(
                Node(
                    name: name,
                    parent: 1,
                    kind: .text,
                    mode: 0o444,
                    size: UInt64(text.utf8.count),
                    read: { text }
                )
            )
        }
        constant("vendor", "0x\(hexadecimal(identity.vendor, digits: 4))\n")
        constant("device", "0x\(hexadecimal(identity.device, digits: 4))\n")
        constant("class", "0x\(hexadecimal(identity.classCode, digits: 6))\n")
        constant("revision", "0x\(hexadecimal(identity.revision, digits: 2))\n")
        constant("subsystem_vendor", "0x\(hexadecimal(identity.subsystemVendor, digits: 4))\n")
        constant("subsystem_device", "0x\(hexadecimal(identity.subsystem, digits: 4))\n")
        tree.add(
            Node(
                name: "irq",
                parent: 1,
                kind: .text,
                mode: 0o444,
                read: { () throws(FileError) in
                    do throws(BusError) {
                        let line = try device.function.readConfiguration(ConfigurationSpace.interruptLine, .byte)
                        return "\(line == 0xff ? 0 : line)\n"
                    } catch { throw FileError(error) }
                }
            )
        )
        tree.add(
            Node(
                name: "resource",
                parent: 1,
                kind: .text,
                mode: 0o444,
                size: UInt64(Self.resourceText(device.function).utf8.count),
                read: { Self.resourceText(device.function) }
            )
        )
        let directory = tree.addDirectory("devices")
        tree.add(
            Node(
                name: device.function.address.description,
                parent: directory,
                kind: .link,
                mode: 0o777,
                size: 2,
                target: ".."
            )
        )
    }

    /// The lines of sysfs: start, end and IORESOURCE flags of six BARs and the ROM.
    private static func resourceText(_ function: any PCIFunction) -> String {
        var lines = [String](repeating: "0x0000000000000000 0x0000000000000000 0x0000000000000000", count: 7)
        for bar in function.usableBARs {
            var flags: UInt64
            switch bar.kind {
            case .io: flags = 0x40101
            case .memory32: flags = 0x40200
            case .memory64: flags = 0x140204
            }
            if bar.isPrefetchable { flags |= 0x2008 }
            let end = bar.address.value + (bar.byteCount - 1)
            lines[bar.index] = [bar.address.value, end, flags]
                .map { "0x" + hexadecimal($0, digits: 16) }.joined(separator: " ")
        }
        return lines.joined(separator: "\n") + "\n"
    }

    // MARK: DMA

    private func addDMA(_ tree: inout Tree) {
        let device = device
        let mount = Shared(mount)
        let directory = tree.addDirectory("dma")
        tree.add(Node(name: "tx", parent: directory, kind: .transmit, mode: mode(0o220), size: Node.endlessSize))
        tree.add(Node(name: "rx", parent: directory, kind: .receive, mode: mode(0o440), size: Node.streamSize))
        tree.add(
            Node(
                name: "framing",
                parent: directory,
                kind: .text,
                mode: mode(0o660),
                read: { device.dma?.framing == .packet ? "packet\n" : "stream\n" },
                write: { line throws(FileError) in
                    switch line {
                    case "stream": device.dma?.framing = .stream
                    case "packet": device.dma?.framing = .packet
                    default:
                        throw FileError(EINVAL, "\(QuotedText.quotation(line)) is no framing; write stream or packet")
                    }
                    mount.value.pointee.packetLimit.store(
                        line == "packet" ? mount.value.pointee.maximumPacketLength : .max,
                        ordering: .relaxed
                    )
                }
            )
        )
        tree.add(
            Node(
                name: "engine",
                parent: directory,
                kind: .text,
                mode: mode(0o660),
                read: { (device.dma?.engine.rawValue ?? "none") + "\n" },
                command: { line, _ throws(FileError) in
                    guard let engine = DMAEngine(rawValue: line) else {
                        let known = DMAEngine.allCases.map(\.rawValue).joined(separator: ", ")
                        throw FileError(EINVAL, "\(QuotedText.quotation(line)) is no engine; the engines are \(known)")
                    }
                    do throws(StatusError) { try device.dma?.select(engine) } catch { throw FileError(error) }
                }
            )
        )
        if device.dma?.lendsRing == true {
            tree.add(
                Node(
                    name: "buffer",
                    parent: directory,
                    kind: .link,
                    mode: 0o777,
                    read: { () throws(FileError) in
                        // The memory is another after a stop, and so is the descriptor.
                        guard let ring = device.dma?.mappableRing else {
                            throw FileError(
                                ENODEV,
                                "\(device.function.address) has no DMA memory that could be mapped now; see state"
                            )
                        }
                        return "/proc/\(getpid())/fd/\(ring.file)"
                    }
                )
            )
        }
        tree.add(
            Node(
                name: "rx_end",
                parent: directory,
                kind: .text,
                mode: 0o444,
                read: {
                    switch device.dma?.lastPacketEnd {
                    case .eop: "EOP\n"
                    case .eep: "EEP\n"
                    case .more: "more\n"
                    default: "none\n"
                    }
                }
            )
        )
        tree.add(
            Node(
                name: "plan",
                parent: directory,
                kind: .text,
                mode: 0o444,
                read: { Self.planText(device.dma?.lastPlan ?? TransferPlan()) }
            )
        )
        tree.add(
            Node(
                name: "last_error",
                parent: directory,
                kind: .text,
                mode: 0o444,
                read: { device.lastTransferFailure.map { QuotedText.lines($0.text) } ?? "none\n" }
            )
        )
    }

    private static func planText(_ plan: TransferPlan) -> String {
        guard plan.time != 0 else { return "none\n" }
        let memory = [
            TransferPlan.Memory.request: "request", .system: "system_buffer", .ring: "receive_ring",
            .commonBuffer: "common_buffer",
        ]
        return """
            direction \(plan.direction == .toDevice ? "tx" : "rx")
            method \(plan.isBuffered ? "buffered" : "direct")
            memory \(memory[plan.memory] ?? "")
            bytes \(plan.byteCount)
            pages \(plan.pages)
            map_registers \(plan.mapRegisters)
            elements \(plan.elements)
            bounced_bytes \(plan.bouncedBytes)
            transfers \(plan.transfers)
            engine \(plan.engine.rawValue)

            """
    }

    // MARK: Interrupts, state, commands

    private func addInterrupts(_ tree: inout Tree) {
        let device = device
        let directory = tree.addDirectory("interrupts")
        tree.add(
            Node(
                name: "count",
                parent: directory,
                kind: .text,
                mode: 0o444,
                read: { "\(device.interrupt.pointee.log.totalCount)\n" }
            )
        )
        tree.add(Node(name: "log", parent: directory, kind: .interruptLog, mode: 0o444, size: Node.streamSize))
    }

    private func addControls(_ tree: inout Tree) {
        let device = device
        let link = link
        tree.add(Node(name: "state", parent: 1, kind: .state, mode: 0o444, read: { device.stateText }))
        let commands = Command.allCases.map { "\($0.rawValue) \($0.summary)\n" }.joined()
        tree.add(
            Node(
                name: "ctl",
                parent: 1,
                kind: .text,
                mode: mode(0o660),
                size: UInt64(commands.utf8.count),
                read: { commands },
                command: { line, cancellation throws(FileError) in
                    guard let command = Command(rawValue: line) else {
                        let known = Command.allCases.map(\.rawValue).joined(separator: ", ")
                        throw FileError(
                            EINVAL,
                            "\(QuotedText.quotation(line)) is no command; the commands are \(known)"
                        )
                    }
                    do throws(StatusError) { try command.run(device, cancellation) } catch { throw FileError(error) }
                }
            )
        )
        tree.add(
            Node(
                name: "trace",
                parent: 1,
                kind: .trace,
                mode: mode(0o660),
                size: Node.streamSize,
                write: { line throws(FileError) in
                    guard line == "on" || line == "off" else {
                        throw FileError(EINVAL, "\(QuotedText.quotation(line)) is neither on nor off")
                    }
                    link.fileSystem?.setTrace(line == "on")
                }
            )
        )
        tree.add(
            Node(
                name: "metrics.prom",
                parent: 1,
                kind: .text,
                mode: 0o444,
                read: { link.fileSystem.map(metricsText) ?? "" }
            )
        )
        tree.add(
            Node(
                name: "last_error",
                parent: 1,
                kind: .failureLog,
                mode: 0o444
            )
        )
        let controls = device.function.controls
        guard !controls.isEmpty else { return }
        let directory = tree.addDirectory("sim")
        for control in controls {
            var node = Node(name: control.name, parent: directory, kind: .text, mode: 0o444, read: { control.read() })
            if let write = control.write {
                node.mode = mode(0o660)
                node.write = { line throws(FileError) in
                    do throws(BusError) { try write(line) } catch { throw FileError(error) }
                }
            }
            tree.add(node)
        }
    }
}

/// A pointer to a record that does its own locking, to be captured by closures of any thread.
struct Shared<Record: ~Copyable>: @unchecked Sendable {  // the record consists of atomics where this is used
    let value: UnsafeMutablePointer<Record>
    init(_ value: UnsafeMutablePointer<Record>) { self.value = value }
}
