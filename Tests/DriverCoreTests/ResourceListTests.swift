import PCIBus
import Testing

@testable import DriverCore

@Suite struct ResourceListTests {
    @Test func `a BAR above 4 GiB keeps its whole address`() {
        let function = FakeFunction(bars: [:])
        function.addBAR(0, 4096, kind: .memory64)
        function.baseAddressRegisters[0].address = PhysicalAddress(0x12_3456_7000)
        for (offset, value) in [(0x10, 0x7004), (0x12, 0x3456), (0x14, 0x12), (0x16, 0)] as [(Int, UInt16)] {
            function.put(value, at: offset)
        }
        let lists = try? ResourceLists.of(function)
        #expect(lists?.memory(bar: 0)?.start == 0x12_3456_7000 && lists?.raw.first?.start == 0x12_3456_7000)
    }

    @Test func `a list that begins with an interrupt or a port is as good as another`() {
        let interrupt = ResourceDescriptor(type: .interrupt, start: 0, length: 1, interruptKind: .intx)
        let port = ResourceDescriptor(type: .port, start: 0x3000, length: 32, bar: 1)
        let bar0 = ResourceDescriptor(type: .memory, start: 0xe000_0000, length: 4096, bar: 0)
        let bar2 = ResourceDescriptor(type: .memory, start: 0xe100_0000, length: 256, bar: 2)
        for list in [[interrupt, port, bar0, bar2], [port, bar2, interrupt, bar0], [bar0, bar2, port, interrupt]] {
            let lists = ResourceLists(raw: list, translated: list)
            #expect(lists.memory(bar: 0) == bar0 && lists.memory(bar: 2) == bar2 && lists.memory(bar: 1) == nil)
        }
    }
}
