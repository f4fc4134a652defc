public import PCIBus

/// The PCI functions of this machine that are bound to vfio-pci, behind the machine's IOMMU: container, group and device, type 1
/// version 2 (linux/vfio.h).
public final class VFIOBus: PCIBus {
    /// The bus's name on a command line.
    public let name = "vfio"

    private let kernel: any VFIOKernel

    /// The bus of this machine.
    public convenience init() { self.init(kernel: LinuxKernel()) }

    init(kernel: any VFIOKernel) { self.kernel = kernel }

    /// Takes a function for this process. Passive level.
    ///
    /// Each refusal says what is missing: ENODEV for no such function, EOPNOTSUPP without an IOMMU, EBUSY for a function that
    /// another driver or process has, EPERM for a group that is not viable, EACCES and ENOENT for /dev/vfio.
    public func open(_ address: PCIAddress) throws(BusError) -> any PCIFunction {
        try VFIOFunction(kernel: kernel, address: address)
    }
}
