import CHardware
import CVFIO
import PCIBus

/// A BAR that is in use: the parts of it that are mapped, and the calls for the rest.
///
/// The records behind the pointers are what a ``RegisterWindow`` leads to; they live as long as the mapping.
final class RegisterMapping {
    /// The way to the BAR.
    let window: RegisterWindow

    private let kernel: any VFIOKernel
    private let device: CInt
    private let fileOffset: UInt64
    private let region: UnsafeMutablePointer<cvfio_region>
    private let areas: UnsafeMutablePointer<cvfio_area>
    private var mapped: [(base: UnsafeMutableRawPointer, byteCount: Int, offset: UInt64, guardSlot: CInt)] = []
    /// Set by the handler of SIGBUS when it put a page of all ones into a mapping.
    private let lost: UnsafeMutablePointer<Bool>

    /// Maps what can be mapped of a region. An area that the kernel refuses all the same is reached by calls.
    init(_ kernel: any VFIOKernel, device: CInt, _ information: RegionInformation) {
        self.kernel = kernel
        self.device = device
        fileOffset = information.fileOffset
        lost = .allocate(capacity: 1)
        lost.initialize(to: false)
        areas = .allocate(capacity: max(1, information.mappable.count))
        region = .allocate(capacity: 1)
        for area in information.mappable {
            guard
                case .mapped(let base) = kernel.map(
                    device,
                    byteCount: Int(area.byteCount),
                    offset: information.fileOffset + area.offset,
                    place: nil
                )
            else { continue }
            let slot = cvfio_guard_add(base, Page.roundedUp(Int(area.byteCount)), lost)
            guard slot >= 0 else {
                // Without the guard a card that goes would take the process with it.
                kernel.unmap(base, byteCount: Int(area.byteCount))
                continue
            }
            (areas + mapped.count).initialize(
                to: cvfio_area(offset: area.offset, byte_count: area.byteCount, base: base)
            )
            mapped.append((base, Int(area.byteCount), area.offset, slot))
        }
        region.initialize(
            to: cvfio_region(
                descriptor: device,
                file_offset: information.fileOffset,
                area_count: UInt32(mapped.count),
                areas: UnsafePointer(areas)
            )
        )
        var raw = chw_window()
        raw.byte_count = information.byteCount
        if mapped.count == 1, mapped[0].offset == 0, UInt64(mapped[0].byteCount) == information.byteCount {
            raw.base = mapped[0].base
        } else {
            raw.context = UnsafeMutableRawPointer(region)
            raw.load = { cvfio_region_load($0, $1, $2) }
            raw.store = { cvfio_region_store($0, $1, $2, $3) }
        }
        window = RegisterWindow(raw)
    }

    /// Puts the device back where the handler of SIGBUS put pages of all ones. To be called while the function decodes memory.
    func restore() {
        // A fault that comes in between sets the word again, so the next look finds it.
        guard cvfio_guard_take_lost(lost) else { return }
        for area in mapped {
            _ = kernel.map(device, byteCount: area.byteCount, offset: fileOffset + area.offset, place: area.base)
        }
    }

    deinit {
        for area in mapped.reversed() {
            cvfio_guard_remove(area.guardSlot)
            kernel.unmap(area.base, byteCount: area.byteCount)
        }
        region.deallocate()
        areas.deallocate()
        lost.deallocate()
    }
}
