import CVFIO
import Glibc
import PCIBus
import Testing

@testable import VFIOBus

/// Taking a function: what can be in the way, and what is told.
@Suite struct OpeningTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var prepare: @Sendable (FakeVFIO) -> Void
        var code: CInt
        var words: String

        init(_ name: String, _ code: CInt, _ words: String, _ prepare: @escaping @Sendable (FakeVFIO) -> Void) {
            testDescription = name
            self.prepare = prepare
            self.code = code
            self.words = words
        }
    }

    static let cases = [
        Case("no such function", ENODEV, "cardfs list") { $0.texts = [:] },
        Case("no IOMMU", EOPNOTSUPP, "intel_iommu=on") { $0.links[FakeVFIO.directory + "/iommu_group"] = nil },
        Case("VFIO without an IOMMU", EOPNOTSUPP, "intel_iommu=on") {
            $0.texts["/sys/kernel/iommu_groups/7/name"] = "vfio-noiommu\n"
        },
        Case("bound to no driver", EBUSY, "cardfs bind 0000:03:00.0") {
            $0.links[FakeVFIO.directory + "/driver"] = nil
        },
        Case("bound to its own driver", EBUSY, "belongs to the driver nvme: cardfs bind 0000:03:00.0") {
            $0.links[FakeVFIO.directory + "/driver"] = "../../../bus/pci/drivers/nvme"
        },
        Case("VFIO not loaded", ENOENT, "modprobe vfio-pci") { $0.refusedOpens["/dev/vfio/vfio"] = ENOENT },
        Case("no permission for the container", EACCES, "chown") { $0.refusedOpens["/dev/vfio/vfio"] = EACCES },
        Case("no permission for the group", EACCES, "/dev/vfio/7") { $0.refusedOpens["/dev/vfio/7"] = EACCES },
        Case("the group is gone", ENOENT, "/dev/vfio/7 is missing") { $0.refusedOpens["/dev/vfio/7"] = ENOENT },
        Case("another process has the group", EBUSY, "fuser -v /dev/vfio/7") {
            $0.refusedOpens["/dev/vfio/7"] = EBUSY
        },
        Case("out of descriptors", EMFILE, "Too many open files") { $0.refusedOpens["/dev/vfio/7"] = EMFILE },
        Case("another version of VFIO", EOPNOTSUPP, "speaks version 1") { $0.answers[cvfio_get_api_version] = 1 },
        Case("no type 1 version 2", EOPNOTSUPP, "modprobe vfio_iommu_type1") { $0.answers[cvfio_check_extension] = 0 },
        Case("group not viable", EPERM, "cardfs doctor 0000:03:00.0") { $0.groupFlags = 0 },
        Case("group in a container", EBUSY, "container already") {
            $0.groupFlags |= UInt32(VFIO_GROUP_FLAGS_CONTAINER_SET)
        },
        Case("container refused", EINVAL, "cannot be taken") { $0.answers[cvfio_group_set_container] = -EINVAL },
        Case("no interrupt remapping", EPERM, "interrupt remapping") { $0.answers[cvfio_set_iommu] = -EPERM },
        Case("IOMMU refused", ENODEV, "cannot be used") { $0.answers[cvfio_set_iommu] = -ENODEV },
        Case("IOMMU tells nothing", EIO, "tells nothing") { $0.answers[cvfio_iommu_get_info] = -ENOTTY },
        Case("device busy", EBUSY, "in use by another process") { $0.answers[cvfio_group_get_device_fd] = -EBUSY },
        Case("device gone meanwhile", ENODEV, "left its IOMMU group") {
            $0.answers[cvfio_group_get_device_fd] = -ENODEV
        },
        Case("device without information", EIO, "tells nothing about itself") {
            $0.answers[cvfio_device_get_info] = -EIO
        },
        Case("no PCI function", ENODEV, "no PCI function for VFIO") { $0.deviceFlags = 0 },
        Case("base addresses lost", EIO, "echo 1 > /sys/bus/pci/rescan") {
            $0.configure(0, at: 0x10)
            $0.configure(0, at: 0x12)
        },
        Case("events cannot be connected", EINVAL, "events of 0000:03:00.0") {
            $0.answers[cvfio_device_set_irqs] = -EINVAL
        },
    ]

    @Test(arguments: cases) func `what is in the way is told with its errno and what to do, and nothing stays open`(
        _ obstacle: Case
    ) {
        let kernel = FakeVFIO()
        obstacle.prepare(kernel)
        let error = refusal { () throws(BusError) in _ = try VFIOBus(kernel: kernel).open(FakeVFIO.address) }
        #expect(error?.code == obstacle.code)
        #expect(error?.sentence.contains(obstacle.words) ?? false, "\(error?.sentence ?? "it was opened")")
        #expect(kernel.open.isEmpty)
    }

    @Test func `container, group and device are opened in the kernel's order and closed`() throws {
        let kernel = FakeVFIO()
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let order = [
            cvfio_get_api_version, cvfio_check_extension, cvfio_group_get_status, cvfio_group_set_container,
            cvfio_set_iommu, cvfio_iommu_get_info, cvfio_group_get_device_fd, cvfio_device_get_info,
        ]
        #expect(kernel.requests.filter(order.contains).reduce(into: []) { if $0.last != $1 { $0.append($1) } } == order)
        #expect(kernel.open.count == 3)
        function.close()
        function.close()
        #expect(kernel.open.isEmpty)
    }

    @Test func `what the function is comes from VFIO and sysfs`() throws {
        let kernel = FakeVFIO()
        kernel.addBAR(2, 0x2000, start: 0x38_4000_0000, flags: 0x14_220c)
        kernel.addBAR(4, 0x100, start: 0xc000, flags: 0x40101)
        kernel.setRegion(Int(VFIO_PCI_CONFIG_REGION_INDEX), byteCount: 4096, mappable: [])
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(function.configurationSize == 4096)
        #expect(function.interruptVectors == [.intx: 1, .msi: 1, .msix: 4])
        let expected = [
            BaseAddressRegister(
                index: 0,
                kind: .memory32,
                isPrefetchable: false,
                address: PhysicalAddress(0xfe60_0000),
                byteCount: 0x10000
            ),
            BaseAddressRegister(
                index: 2,
                kind: .memory64,
                isPrefetchable: true,
                address: PhysicalAddress(0x38_4000_0000),
                byteCount: 0x2000
            ),
            BaseAddressRegister(
                index: 4,
                kind: .io,
                isPrefetchable: false,
                address: PhysicalAddress(0xc000),
                byteCount: 0x100
            ),
        ]
        #expect(function.baseAddressRegisters == expected)
        function.close()
    }

    @Test func `a function given back answers as one that is gone, until it is taken anew`() throws {
        let kernel = FakeVFIO()
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        _ = try function.map(bar: 0)
        let memory = try function.allocateMemory(byteCount: 4096)
        try function.mapDMA(memory.base, byteCount: 4096, at: LogicalAddress(0x1000), access: .read)
        function.release()
        #expect(kernel.open.isEmpty && kernel.mappings.isEmpty)
        #expect(refusal { () throws(BusError) in _ = try function.readConfiguration(0, .word) }?.code == ENODEV)
        #expect(refusal { () throws(BusError) in try function.writeConfiguration(0, 4, .word) }?.code == ENODEV)
        #expect(refusal { () throws(BusError) in _ = try function.map(bar: 0) }?.code == ENODEV)
        #expect(refusal { () throws(BusError) in try function.resetFunction() }?.code == ENODEV)
        let mapping = refusal { () throws(BusError) in
            try function.mapDMA(memory.base, byteCount: 4096, at: LogicalAddress(0x1000), access: .read)
        }
        let unmapping = refusal { () throws(BusError) in
            try function.unmapDMA(at: LogicalAddress(0x1000), byteCount: 4096)
        }
        #expect(mapping?.code == ENODEV && unmapping?.code == ENODEV)
        #expect(function.interruptVectors.isEmpty && function.logicalAddressRanges.isEmpty)

        // Away, back without a driver, back with vfio-pci and in another group.
        kernel.texts[FakeVFIO.directory + "/vendor"] = nil
        #expect(refusal { () throws(BusError) in try function.reclaim() }?.code == ENODEV)
        kernel.texts[FakeVFIO.directory + "/vendor"] = "0x1234\n"
        kernel.links[FakeVFIO.directory + "/driver"] = nil
        #expect(refusal { () throws(BusError) in try function.reclaim() }?.code == EBUSY)
        kernel.links[FakeVFIO.directory + "/driver"] = "../vfio-pci"
        try function.reclaim()
        try function.reclaim()
        #expect(try function.readConfiguration(0, .word) == 0x1234)
        try function.mapDMA(memory.base, byteCount: 4096, at: LogicalAddress(0x1000), access: .read)
        function.close()
        function.freeMemory(memory)
        #expect(kernel.open.isEmpty)
    }

    @Test(
        arguments: [
            // As it is; forgotten; written over by the saved state of a dead card.
            ([0xfe60_0000, 0x0000_000c, 0x0000_0008], [0xfe60_0000, 0x0000_000c, 0x0000_0008]),
            ([0x0000_0000, 0x0000_000c, 0x0000_0000], [0xfe60_0000, 0x0000_000c, 0x0000_0008]),
            ([0xfff0_0000, 0xffff_000c, 0xffff_ffff], [0xfe60_0000, 0x0000_000c, 0x0000_0008]),
        ] as [([UInt32], [UInt32])]
    )
    func `a card that has lost its power gets its addresses back before it is opened`(
        found: [UInt32],
        restored: [UInt32]
    ) throws {
        let kernel = FakeVFIO()
        kernel.addBAR(1, 0x1000, start: 0x8_0000_0000, flags: 0x14220c)
        kernel.exposeCard(found)
        _ = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(kernel.cardAddresses(3) == restored)
    }

    @Test func `a card that is still gone is not written to`() throws {
        let kernel = FakeVFIO()
        kernel.exposeCard([0, 0, 0])
        var gone: UInt32 = .max
        pwrite(try #require(kernel.cardFile), &gone, 4, 0)
        _ = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(kernel.cardAddresses(3) == [0, 0, 0])
    }
}
