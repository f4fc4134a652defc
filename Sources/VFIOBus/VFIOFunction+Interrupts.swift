import CHardware
import CVFIO
import Glibc
public import PCIBus

extension VFIOFunction {
    /// The most vectors of one function that are connected: each takes a descriptor.
    private static let maximumVectors = 256

    /// What VFIO_DEVICE_GET_IRQ_INFO lists.
    public var interruptVectors: [InterruptKind: Int] {
        lock.locked {
            guard let session else { return [:] }
            var vectors: [InterruptKind: Int] = [:]
            for kind in InterruptKind.allCases {
                let count = session.interrupts[Self.index(kind)]
                if count > 0 { vectors[kind] = min(count, Self.maximumVectors) }
            }
            return vectors
        }
    }

    private static func index(_ kind: InterruptKind) -> Int {
        switch kind {
        case .msix: InterruptIndex.msix
        case .msi: InterruptIndex.msi
        case .intx: InterruptIndex.intx
        }
    }

    /// Has the vectors counted by eventfds, for which a thread waits that calls the sink: once for each interrupt the kernel
    /// counted, since a message stands for itself.
    ///
    /// The kernel masks INTx when it tells of one; it is unmasked after the routine. A line that nobody lowers, since the routine
    /// says it was not the card, stays masked for 10 ms each time, so that it cannot keep the machine busy.
    ///
    /// Of MSI fewer vectors than asked for are connected, the low ones, when the platform has no more: as the specification says,
    /// the card then uses those.
    public func connectInterrupts(_ kind: InterruptKind, count: Int, to sink: InterruptSink) throws(BusError) {
        let available = interruptVectors[kind] ?? 0
        guard (1...max(1, available)).contains(count), available > 0 else {
            throw BusError(EINVAL, "\(address) has \(available) vectors of \(kind.rawValue), not \(count)")
        }
        let pump = try EventPump(count: count)
        let kernel = kernel
        let index = Self.index(kind)
        let device = try lock.locked { () throws(BusError) -> CInt in
            guard let session else { throw absence }
            guard interrupts == nil else { throw BusError(EBUSY, "interrupts of \(address) are connected already") }
            var result = InterruptRequest.connect(kernel, session.device, index, pump.descriptors)
            if result > 0, kind == .msi {
                result = InterruptRequest.connect(
                    kernel,
                    session.device,
                    index,
                    Array(pump.descriptors.prefix(Int(result)))
                )
            }
            guard result == 0 else {
                throw BusError(
                    result < 0 ? -result : ENOSPC,
                    result < 0
                        ? "\(kind.rawValue) of \(address) cannot be enabled: \(meaning(-result))"
                        : "this machine has \(result) vectors left for \(address), which needs \(count) of \(kind.rawValue)"
                )
            }
            interrupts = (index, pump)
            return session.device
        }
        let isLevel = kind == .intx
        do {
            try pump.start(name: "vfio-irq") { [unowned pump] vector, counted in
                var isServed = false
                for _ in 0..<counted where chw_serve(sink.routine, sink.context, UInt32(vector)) { isServed = true }
                guard isLevel else { return }
                if !isServed { pump.pause(milliseconds: 10) }
                InterruptRequest.unmask(kernel, device)
            }
        } catch {
            disconnectInterrupts()
            throw error
        }
    }

    /// Disables the vectors and ends their thread. Not from the sink. Nothing when none are connected.
    public func disconnectInterrupts() {
        let connected = lock.locked { () -> (index: Int, pump: EventPump)? in
            defer { interrupts = nil }
            guard let interrupts, let session else { return interrupts }
            InterruptRequest.disconnect(kernel, session.device, interrupts.index)
            return interrupts
        }
        connected?.pump.stop()
    }
}
