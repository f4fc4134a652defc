import DriverCore
import PCIBus

/// What a card can do as a bus master, as its vendor-specific capability says (PCI Local Bus Specification 3.0, appendix H);
/// a bare core has none, drives 32 bits and takes any number of runs.
///
/// ```
/// +0  0x09, next capability, 8 bytes, 0x01 (DMA limits)
/// +4  bits 7:0 address bits, bit 8 the transmitter gathers, bit 9 the core can be served by a slave DMA controller
/// ```
struct SpaceWireLimits {
    var addressWidth = 32
    var scatterGather = true
    var hasSlaveInterface = false

    init(of function: any PCIFunction) {
        guard let offset = try? function.capability(0x09, byteCount: 8),
            let header = try? function.readConfiguration(offset, .long), header >> 16 == 0x0108,
            let limits = try? function.readConfiguration(offset + 4, .long), limits != .max
        else { return }
        addressWidth = min(32, max(24, Int(limits & 0xff)))
        scatterGather = limits & 0x100 != 0
        hasSlaveInterface = limits & 0x200 != 0 && function.slaveDMAChannels.count >= 2
    }

    /// The ways to move data, the one to begin with first.
    var engines: [DMAEngine] {
        (scatterGather ? [.scatterGather] : []) + [.common] + (hasSlaveInterface ? [.system] : [])
    }
}
