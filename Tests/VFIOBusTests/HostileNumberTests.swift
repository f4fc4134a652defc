import CHardware
import CVFIO
import Glibc
import PCIBus
import Testing

@testable import VFIOBus

/// Nonsense in the numbers that the kernel and sysfs say of a function: refused with a sentence, or bounded.
@Suite(.timeLimit(.minutes(2))) struct HostileNumberTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var prepare: @Sendable (FakeVFIO) -> Void

        init(_ name: String, _ prepare: @escaping @Sendable (FakeVFIO) -> Void) {
            testDescription = name
            self.prepare = prepare
        }

        /// A region whose numbers are what they are.
        static func region(
            _ name: String,
            _ index: Int = 0,
            byteCount: UInt64,
            fileOffset: UInt64? = nil,
            areas: [(UInt64, UInt64)]? = nil
        ) -> Case {
            Case(name) { kernel in
                kernel.setRegion(index, byteCount: byteCount, mappable: areas ?? [(0, byteCount)])
                if let fileOffset { kernel.regions[index]?.fileOffset = fileOffset }
                if areas != nil { kernel.isSparse = [index] }
            }
        }

        static func resource(_ name: String, _ text: String) -> Case {
            Case(name) { $0.texts[FakeVFIO.directory + "/resource"] = text }
        }
    }

    private static let configuration = Int(VFIO_PCI_CONFIG_REGION_INDEX)

    static let cases: [Case] = [
        .region("a BAR of 0 bytes", byteCount: 0), .region("a BAR of 1 byte", byteCount: 1),
        .region("a BAR of 3 bytes", byteCount: 3), .region("a BAR of no power of two", byteCount: 0x9001),
        .region("a BAR longer than its memory", byteCount: 0x100000),
        .region("a BAR of 2^55 bytes", byteCount: 1 << 55),
        .region("a BAR of 2^63 bytes", byteCount: 1 << 63), .region("a BAR of 2^64 - 1 bytes", byteCount: .max),
        .region("a BAR that begins at 2^63", byteCount: 0x10000, fileOffset: 1 << 63),
        .region("a BAR that begins at 2^64 - 1", byteCount: 0x10000, fileOffset: .max),
        .region("a BAR that ends beyond 2^63", byteCount: 0x10000, fileOffset: UInt64(Int64.max) - 4095),
        .region("an area of everything", byteCount: 0x10000, areas: [(0, .max)]),
        .region("an area whose end wraps", byteCount: 0x10000, areas: [(.max - 0xfff, 0x2000), (0x8000, 0x1000)]),
        .region("an area beyond the end", byteCount: 0x10000, areas: [(0xf000, 0x2000), (0x10000, 0x1000)]),
        .region("areas on no page", byteCount: 0x10000, areas: [(1, 0x1000), (0x3001, 7)]),
        .region("areas that overlap", byteCount: 0x10000, areas: [(0, 0x4000), (0x2000, 0x4000)]),
        .region("more areas than are listed", byteCount: 0x10000, areas: (0..<100).map { (UInt64($0) << 9, 0x200) }),
        .region("configuration space of 0 bytes", configuration, byteCount: 0, areas: []),
        .region("configuration space of 255 bytes", configuration, byteCount: 255, areas: []),
        .region("configuration space of 2^64 - 1 bytes", configuration, byteCount: .max, areas: []),
        .region("configuration space at 2^64 - 1", configuration, byteCount: 256, fileOffset: .max, areas: []),
        .resource("a resource of everything", "0x0000000000000000 0xffffffffffffffff 0x0000000000040200\n"),
        .resource("a resource that ends at the end", "0xffffffffffff0000 0xffffffffffffffff 0x0000000000040200\n"),
        .resource(
            "a resource that ends before it begins",
            "0x00000000fe600000 0x00000000fe5fffff 0x0000000000040200\n"
        ),
        .resource("a resource of words", "what is this\n0x 0x 0x\n-1 -1 -1\n0x10000000000000000 0x1 0x2\n\n\n\n\n\n"),
        .resource("no resource", ""),
        Case("2^32 - 1 interrupts of each kind") { $0.vectors = [Int](repeating: Int(UInt32.max), count: 5) },
        Case("no interrupts") { $0.vectors = [0, 0, 0, 0, 0] },
        Case("an answer to a question about a region that is none") { $0.answers[cvfio_device_get_region_info] = 7 },
        Case("an answer to a question about interrupts that is none") { $0.answers[cvfio_device_get_irq_info] = 7 },
        Case("more vectors than were asked for") { $0.platformVectors = 1000 },
        Case("addresses of everything") { $0.iommuRanges = [0...UInt64.max] },
        Case("addresses that overlap") { $0.iommuRanges = [0x1000...0xffff, 0x1000...0xffff, 0x8000...UInt64.max] },
        Case("no addresses") { $0.iommuRanges = [] },
        Case("500 ranges of addresses") { kernel in
            kernel.iommuRanges = (1...500).map { UInt64($0) << 16...UInt64($0) << 16 + 0xfff }
        },
        Case("base addresses that are all ones") { kernel in
            for offset in stride(from: 0x10, to: 0x28, by: 2) { kernel.configure(0xffff, at: offset) }
        },
        Case("a circle of capabilities") { kernel in
            kernel.configure(0x0010, at: 0x06)
            kernel.configure(0x0040, at: 0x34)
            kernel.configure(0x4005, at: 0x40)
        },
        Case("a capability at the end") { kernel in
            kernel.configure(0x0010, at: 0x06)
            kernel.configure(0x00fc, at: 0x34)
            kernel.configure(0xff01, at: 0xfc)
        },
    ]

    @Test(arguments: cases) func `numbers that cannot be so are refused, or reach nothing that is not there`(
        nonsense: Case
    ) throws {
        let kernel = FakeVFIO()
        nonsense.prepare(kernel)
        let function: any PCIFunction
        do {
            function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        } catch {
            #expect(error.sentence.contains("0000:03:00.0"))
            #expect(kernel.open.isEmpty)
            return
        }
        for bar in function.usableBARs {
            guard let window = try? function.map(bar: bar.index) else { continue }
            #expect(window.byteCount == bar.byteCount)
            // The first and the last access that fit.
            for width in AccessWidth.allCases where UInt64(width.byteCount) <= window.byteCount {
                let mask = ~UInt64(width.byteCount - 1)
                for offset in [0, window.byteCount / 2 & mask, (window.byteCount - UInt64(width.byteCount)) & mask] {
                    window.store(window.load(offset, width), offset, width)
                }
            }
        }
        for (kind, count) in function.interruptVectors {
            #expect((1...256).contains(count))
            let sink = InterruptSink(context: UnsafeMutableRawPointer(bitPattern: 8)!) { _, _ in true }
            try? function.connectInterrupts(kind, count: count, to: sink)
            function.disconnectInterrupts()
        }
        for id: UInt8 in [1, 5, 9, 0x10, 0x11] { _ = try function.capability(id) }
        try function.setPowerState(0)
        try function.changeCommand(set: .memorySpace)
        let memory = try function.allocateMemory(byteCount: 4096)
        for range in function.logicalAddressRanges {
            for place in [range.lowerBound, LogicalAddress(range.upperBound.value & ~0xfff)] {
                guard (try? function.mapDMA(memory.base, byteCount: 4096, at: place, access: .read)) != nil else {
                    continue
                }
                try function.unmapDMA(at: place, byteCount: 4096)
            }
        }
        function.freeMemory(memory)
        function.close()
        #expect(kernel.open.isEmpty)
    }
}
