import CVFIO
import Glibc
import PCIBus
import Testing

@testable import VFIOBus

/// Configuration space and BARs.
@Suite struct AccessTests {
    @Test(arguments: [(0, AccessWidth.quad), (-4, .long), (254, .long), (256, .byte), (1, .word), (2, .long)])
    func `an access to configuration space is 1, 2 or 4 bytes, aligned, and inside`(offset: Int, width: AccessWidth)
        throws
    {
        let function = try VFIOBus(kernel: FakeVFIO()).open(FakeVFIO.address)
        #expect(refusal { () throws(BusError) in _ = try function.readConfiguration(offset, width) }?.code == EINVAL)
        #expect(refusal { () throws(BusError) in try function.writeConfiguration(0, offset, width) }?.code == EINVAL)
        function.close()
    }

    @Test(arguments: [(UInt8(0xff), UInt32(0xffff)), (0, 0)])
    func `a card that is gone has no vendor, although VFIO still says its IDs`(byte: UInt8, vendor: UInt32) throws {
        let kernel = FakeVFIO()
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(try function.readConfiguration(0, .long) == 0x11e8_1234)
        kernel.lock.locked { kernel.absence = byte }
        #expect(try function.readConfiguration(0, .word) == vendor)
        kernel.lock.locked { kernel.absence = nil }
        #expect(try function.readConfiguration(0, .word) == 0x1234)
        function.close()
    }

    @Test func `a BAR that may be mapped is a mapping, and the memory is the card's`() throws {
        let kernel = FakeVFIO()
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let window = try function.map(bar: 0)
        #expect(window.isMapped && window.byteCount == 0x10000)
        window.store32(0xdead_beef, 0x100)
        #expect(kernel.word(bar: 0, 0x100, mapped: true) == 0xdead_beef)
        #expect(window.load(0x102, .word) == 0xdead)
        #expect(refusal { () throws(BusError) in _ = try function.map(bar: 0) }?.code == EBUSY)
        function.unmap(bar: 0)
        _ = try function.map(bar: 0)
        function.close()
    }

    @Test(arguments: [true, false])
    func `a BAR that may not be mapped, or cannot, is reached by calls of the exact width`(isRefused: Bool) throws {
        let kernel = FakeVFIO()
        if isRefused { kernel.refusesMapping = true } else { kernel.setRegion(0, byteCount: 0x10000, mappable: []) }
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let window = try function.map(bar: 0)
        #expect(!window.isMapped && window.byteCount == 0x10000)
        kernel.setWord(0x0403_0201, bar: 0, 8, mapped: false)
        for (width, value) in [(AccessWidth.byte, UInt64(0x01)), (.word, 0x0201), (.long, 0x0403_0201)] {
            #expect(window.load(8, width) == value)
        }
        window.store(0xff, 9, .byte)
        #expect(kernel.word(bar: 0, 8, mapped: false) == 0x0403_ff01)
        window.store(0x1122_3344_5566_7788, 16, .quad)
        #expect(window.load(16, .quad) == 0x1122_3344_5566_7788)
        function.close()
    }

    @Test func `of a BAR that is mapped in parts each part is mapped, and calls reach the rest`() throws {
        let kernel = FakeVFIO()
        // The MSI-X table lies in the second page.
        kernel.setRegion(0, byteCount: 0x10000, mappable: [(0, 0x1000), (0x2000, 0xe000)])
        kernel.isSparse = [0]
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let window = try function.map(bar: 0)
        #expect(!window.isMapped)
        for (offset, isMapped) in [
            (0, true), (0xffc, true), (0x1000, false), (0x1ffc, false), (0x2000, true), (0xfffc, true),
        ] {
            window.store32(UInt32(offset) | 1, UInt64(offset))
            #expect(kernel.word(bar: 0, offset, mapped: isMapped) == UInt32(offset) | 1)
            #expect(kernel.word(bar: 0, offset, mapped: !isMapped) == 0)
            #expect(window.load32(UInt64(offset)) == UInt32(offset) | 1)
        }
        function.close()
    }

    @Test(arguments: [0x10000, 0x10001] as [UInt64])
    func `a sparse area outside the BAR is not believed`(offset: UInt64) throws {
        let kernel = FakeVFIO()
        kernel.setRegion(0, byteCount: 0x10000, mappable: [(offset, 0x1000), (0x8000, 0x9000)])
        kernel.isSparse = [0]
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let window = try function.map(bar: 0)
        kernel.setWord(7, bar: 0, 0x8000, mapped: false)
        #expect(window.load32(0x8000) == 7)
        function.close()
    }

    @Test(arguments: [false, true])
    func `an access to a mapped BAR that nobody decodes reads all ones, and the card is back once it decodes`(
        isSparse: Bool
    ) throws {
        let kernel = FakeVFIO()
        if isSparse {
            kernel.setRegion(0, byteCount: 0x10000, mappable: [(0, 0x8000)])
            kernel.isSparse = [0]
        }
        let function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        let window = try function.map(bar: 0)
        window.store32(0x1111, 0x7000)
        try function.changeCommand(clear: .memorySpace)
        kernel.setDecoding(false, bar: 0)
        // SIGBUS, which must not end the process.
        #expect(window.load32(0x7000) == 0xffff_ffff)
        #expect(window.load(0x123, .byte) == 0xff)
        window.store32(1, 0x200)
        kernel.setDecoding(true, bar: 0)
        kernel.setWord(0x2222, bar: 0, 0x7000, mapped: true)
        try function.changeCommand(set: .memorySpace)
        #expect(window.load32(0x7000) == 0x2222)
        #expect(window.load32(0x200) == 0)
        function.close()
    }

    @Test func `a reset leaves the bus master off; without a way to reset it is refused`() throws {
        let kernel = FakeVFIO()
        var function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        try function.changeCommand(set: [.busMaster, .memorySpace])
        try function.resetFunction()
        #expect(kernel.requests.contains(cvfio_device_reset))
        #expect(kernel.command == ConfigurationSpace.Command.memorySpace.rawValue)
        kernel.lock.locked { kernel.answers[cvfio_device_reset] = -EAGAIN }
        #expect(refusal { () throws(BusError) in try function.resetFunction() }?.code == EAGAIN)
        function.close()

        kernel.deviceFlags = UInt32(VFIO_DEVICE_FLAGS_PCI)
        function = try VFIOBus(kernel: kernel).open(FakeVFIO.address)
        #expect(refusal { () throws(BusError) in try function.resetFunction() }?.code == EOPNOTSUPP)
        function.close()
    }
}
