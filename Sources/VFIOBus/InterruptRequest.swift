import CHardware
import CVFIO

/// The interrupt indices of a PCI function (VFIO_PCI_*_IRQ_INDEX).
enum InterruptIndex {
    static let intx = Int(VFIO_PCI_INTX_IRQ_INDEX)
    static let msi = Int(VFIO_PCI_MSI_IRQ_INDEX)
    static let msix = Int(VFIO_PCI_MSIX_IRQ_INDEX)
    /// An uncorrectable error was reported by the card or on the way to it.
    static let error = Int(VFIO_PCI_ERR_IRQ_INDEX)
    /// The kernel wants the function back.
    static let request = Int(VFIO_PCI_REQ_IRQ_INDEX)
}

/// Requests of VFIO_DEVICE_SET_IRQS.
enum InterruptRequest {
    /// Has the vectors of an index counted by eventfds, which also enables them. 0, an errno made negative, or how many the
    /// platform would give when it has not as many.
    static func connect(_ kernel: any VFIOKernel, _ device: CInt, _ index: Int, _ descriptors: [CInt]) -> CInt {
        send(
            kernel,
            device,
            flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            index,
            count: descriptors.count,
            descriptors
        )
    }

    /// Disables all vectors of an index.
    @discardableResult
    static func disconnect(_ kernel: any VFIOKernel, _ device: CInt, _ index: Int) -> CInt {
        send(kernel, device, flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, count: 0, [])
    }

    /// Unmasks INTx, which the kernel masks each time it tells of one. Allocates nothing: it is part of each interrupt.
    @discardableResult
    static func unmask(_ kernel: any VFIOKernel, _ device: CInt) -> CInt {
        var request = vfio_irq_set()
        request.argsz = UInt32(MemoryLayout<vfio_irq_set>.size)
        request.flags = UInt32(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK)
        request.index = UInt32(InterruptIndex.intx)
        request.count = 1
        return kernel.control(device, cvfio_device_set_irqs, &request)
    }

    private static func send(
        _ kernel: any VFIOKernel,
        _ device: CInt,
        flags: CInt,
        _ index: Int,
        count: Int,
        _ descriptors: [CInt]
    ) -> CInt {
        let header = MemoryLayout<vfio_irq_set>.size
        let size = header + 4 * descriptors.count
        return withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { buffer in
            guard let base = buffer.baseAddress else { return -EINVAL }
            var words = [UInt32(size), UInt32(flags), UInt32(index), 0, UInt32(count)]
            words += descriptors.map { UInt32(bitPattern: $0) }
            for (place, word) in words.enumerated() {
                base.storeBytes(of: word, toByteOffset: 4 * place, as: UInt32.self)
            }
            return kernel.control(device, cvfio_device_set_irqs, base)
        }
    }
}
