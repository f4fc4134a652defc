import CHardware
import Glibc
import PCIBus

extension SysfsFunction {
    /// Tells a function where its BARs are, if it has forgotten.
    ///
    /// A slot whose power was cut and switched on again behind the kernel's back holds a card that has lost its addresses, while
    /// the kernel goes on with those it gave. vfio-pci takes over what it reads when the function is opened, so they are written
    /// before that, through `config` of sysfs, which takes root. Without it, or where nothing differs, nothing is done.
    func restoreAddresses() {
        let descriptor = kernel.open(directory + "/config")
        guard descriptor >= 0 else { return }
        defer { kernel.close(descriptor) }
        guard let identity = word(descriptor, ConfigurationSpace.vendorID), identity != 0, identity != .max else {
            return
        }
        for (index, resource) in resources.enumerated() where resource.byteCount > 0 {
            let offset = ConfigurationSpace.baseAddress0 + 4 * index
            guard let low = word(descriptor, offset) else { return }
            // The bits below say what kind of BAR it is, and are the card's own.
            let kind: UInt32 = low & 1 != 0 ? 0x3 : 0xf
            let isWide = low & 7 == 4
            put(descriptor, offset, UInt32(truncatingIfNeeded: resource.start) & ~kind | low & kind, instead: low)
            guard isWide, let high = word(descriptor, offset + 4) else { continue }
            put(descriptor, offset + 4, UInt32(truncatingIfNeeded: resource.start >> 32), instead: high)
        }
    }

    private func word(_ descriptor: CInt, _ offset: Int) -> UInt32? {
        var value: UInt32 = 0
        return kernel.read(descriptor, &value, 4, at: UInt64(offset)) == 4 ? UInt32(littleEndian: value) : nil
    }

    private func put(_ descriptor: CInt, _ offset: Int, _ value: UInt32, instead old: UInt32) {
        guard value != old else { return }
        var bytes = value.littleEndian
        _ = kernel.write(descriptor, &bytes, 4, at: UInt64(offset))
    }
}
