public import CHardware
public import DriverCore
public import PCIBus

/// Drives any function that cardfs has no driver of its own for: its registers, its configuration space and its interrupts
/// are there, and it does no DMA.
///
/// It stands last in the list of drivers, since it takes everything. Nothing of the card is written but the command register:
/// a card whose registers are unknown is started by whoever knows them.
public final class GenericDriver: CardDriver {
    /// For people.
    public static let name = "generic"

    /// Every function.
    public static func matches(_ identity: PCIIdentity) -> Bool { true }

    /// No register has a name, and `bar0` and `offset` reach nothing before the function is known.
    public static var registerMap: RegisterMap { RegisterMap(registers: [], window: 0..<0, protectedBARs: []) }

    /// `bar0` and `offset` reach all of BAR0, where it is memory.
    public static func registerMap(of function: any PCIFunction) -> RegisterMap {
        let bar0 = function.usableBARs.first { $0.index == 0 && $0.kind != .io }
        // A window holds one 32-bit register at least.
        let byteCount = bar0.map { $0.byteCount >= 4 ? $0.byteCount : 0 } ?? 0
        return RegisterMap(registers: [], window: 0..<byteCount, protectedBARs: [])
    }

    /// No DMA: the card is shown no memory.
    public static var dmaDescription: DeviceDescription? { nil }

    // The device owns this driver and ends it first.
    private unowned let device: Device
    private let interrupts: UnsafeMutablePointer<GenericInterrupts>

    /// Makes the driver; the card is not touched.
    public init(device: Device) throws(StatusError) {
        self.device = device
        interrupts = .allocate(capacity: 1)
        interrupts.initialize(
            to: GenericInterrupts(function: device.function, deferred: device.deferred, clock: device.clock)
        )
        interrupts.pointee.call = device.deferred.pointee.register(context: interrupts) { context in
            context.assumingMemoryBound(to: GenericInterrupts.self).pointee.look()
        }
        device.interrupt.pointee.setServiceRoutine(context: interrupts) { context, _ in
            context.assumingMemoryBound(to: GenericInterrupts.self).pointee.serve()
        }
    }

    deinit {
        interrupts.deinitialize(count: 1)
        interrupts.deallocate()
    }

    /// Maps every BAR that is memory. A function without one has only its configuration space, which is enough to mount.
    public func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
        for resource in resources.translated where resource.type == .memory {
            if let bar = resource.bar { _ = try device.mapBAR(bar) }
        }
    }

    /// The framework unmaps what was mapped.
    public func releaseHardware() {}

    /// Nothing of the card is touched.
    public func d0Entry() throws(StatusError) {
        interrupts.pointee.isLevel = try device.interruptChoice()?.kind == .intx
    }

    /// Nothing is known that would have to be done.
    public func d0Exit() {}

    /// Lets a level through that was switched off when the card was stopped.
    public func interruptsEnabled() throws(StatusError) {
        guard interrupts.pointee.isLevel else { return }
        try? device.function.changeCommand(clear: .interruptDisable)
    }

    /// Nothing is left to do.
    public func interruptsDisabling() {}

    /// Switches bus mastering on where the card's interrupts are messages, which it sends as a bus master. No memory is
    /// mapped for it, so that the IOMMU stops everything else that it might send.
    public func startIO() {
        guard let choice = try? device.interruptChoice(), choice.kind != .intx else { return }
        try? device.function.changeCommand(set: .busMaster)
    }

    /// Switches bus mastering off.
    public func suspendIO() { try? device.function.changeCommand(clear: .busMaster) }

    /// There are no streams.
    public var entryPoints: chw_entry_points? { nil }

    /// There are no streams.
    public var dma: (any DMAControl)? { nil }
}
