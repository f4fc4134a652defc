import PCIBus
import Testing

@testable import DriverCore

@Suite struct DMAAdapterTests {
    let function = FakeFunction()

    private func adapter(width: Int = 32) throws(StatusError) -> DMAAdapter {
        try DMAAdapter(
            function: function,
            description: DeviceDescription(
                addressWidth: width,
                scatterGather: true,
                maximumLength: 1 << 20,
                alignment: 4
            )
        )
    }

    @Test(arguments: [(0, 1, 4), (65, 1, 4), (-1, 1, 4), (32, 0, 4), (32, -1, 4), (32, 1, 0), (32, 1, 3), (32, 1, -4)])
    func `an adapter of what no card can be is refused`(width: Int, length: Int, alignment: Int) {
        let description = DeviceDescription(
            addressWidth: width,
            scatterGather: true,
            maximumLength: length,
            alignment: alignment
        )
        #expect(
            status { () throws(StatusError) in _ = try DMAAdapter(function: function, description: description) }
                == .invalidParameter
        )
    }

    @Test(arguments: [1, 12, 24, 32, 63, 64])
    func `any address width from 1 to 64 makes an adapter`(width: Int) throws {
        #expect(try adapter(width: width).mapRegisterCount == 257)
    }

    @Test(arguments: [
        (1, 4096, 4095), (4095, 4096, 1), (4096, 4096, 0), (4097, 8192, 4095), (5 << 10, 8192, 3 << 10),
    ])
    func `a common buffer is charged whole pages`(byteCount: Int, charged: Int, slack: Int) throws {
        let adapter = try adapter()
        let buffer = try adapter.allocateCommonBuffer(byteCount: byteCount)
        #expect(buffer.memory.byteCount == charged && buffer.slackBytes == slack && buffer.byteCount == byteCount)
        #expect(function.mappings == [buffer.logicalAddress.value: charged])
        #expect(buffer.logicalAddress.value != 0)
        adapter.releaseAll()
    }

    @Test func `a common buffer of no bytes is refused`() throws {
        let adapter = try adapter()
        #expect(
            status { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 0) } == .invalidParameter
        )
    }

    @Test func `the logical address is aligned as asked and below the card's limit`() throws {
        let adapter = try adapter(width: 24)
        let first = try adapter.allocateCommonBuffer(byteCount: 100)
        let second = try adapter.allocateCommonBuffer(byteCount: 8192, alignment: 1 << 16)
        #expect(second.logicalAddress.value % (1 << 16) == 0)
        #expect(first.logicalAddress.value < 1 << 24 && second.logicalAddress.value + 8192 <= 1 << 24)
        #expect(
            status { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 1 << 24) }
                == .insufficientResources
        )
        adapter.releaseAll()
        #expect(function.memories.isEmpty)
    }

    @Test(arguments: ["allocateMemory", "mapDMA"])
    func `a common buffer that cannot be made leaves nothing behind`(step: String) throws {
        let adapter = try adapter()
        function.failing = [step]
        #expect(
            status { () throws(StatusError) in _ = try adapter.allocateCommonBuffer(byteCount: 1) }
                == .insufficientResources
        )
        #expect(function.memories.isEmpty && function.mappings.isEmpty && adapter.commonBufferCount == 0)
        function.failing = []
        #expect(try adapter.allocateCommonBuffer(byteCount: 1).logicalAddress.value == 0x1000)
        adapter.releaseAll()
    }

    @Test func `a common buffer is freed once, by its own adapter, with its own length`() throws {
        let mine = try adapter()
        let buffer = try mine.allocateCommonBuffer(byteCount: 5000)
        let longer = CommonBuffer(memory: buffer.memory, logicalAddress: buffer.logicalAddress, byteCount: 5001)
        let elsewhere = CommonBuffer(
            memory: buffer.memory,
            logicalAddress: buffer.logicalAddress.advanced(by: 4096),
            byteCount: 5000
        )
        for wrong in [longer, elsewhere] {
            #expect(status { () throws(StatusError) in try mine.freeCommonBuffer(wrong) } == .invalidParameter)
        }
        let other = try adapter()
        #expect(status { () throws(StatusError) in try other.freeCommonBuffer(buffer) } == .invalidParameter)
        #expect(function.memories.count == 1)
        try mine.freeCommonBuffer(buffer)
        #expect(function.memories.isEmpty && function.mappings.isEmpty)
        #expect(status { () throws(StatusError) in try mine.freeCommonBuffer(buffer) } == .invalidParameter)
    }

    @Test func `memory that is not the adapter's is unmapped and kept`() throws {
        let adapter = try adapter()
        let memory = try function.allocateMemory(byteCount: 8192)
        _ = try adapter.mapCommonBuffer(memory, byteCount: 8192)
        _ = try adapter.allocateCommonBuffer(byteCount: 1)
        #expect(adapter.commonBufferCount == 2 && function.mappings.count == 2)
        adapter.releaseAll()
        #expect(function.mappings.isEmpty && function.memories == [memory.base] && adapter.commonBufferCount == 0)
        function.freeMemory(memory)
    }

    @Test func `an address the bus does not take back is not used again`() throws {
        let adapter = try adapter()
        let buffer = try adapter.allocateCommonBuffer(byteCount: 1)
        function.failing = ["unmapDMA"]
        try adapter.freeCommonBuffer(buffer)
        function.failing = []
        #expect(try adapter.allocateCommonBuffer(byteCount: 1).logicalAddress != buffer.logicalAddress)
        adapter.releaseAll()
    }

    // MARK: Scatter/gather lists in common buffers

    @Test(arguments: [
        (0, 1, 4096, [1]), (0, 4096, 4096, [4096]), (100, 5000, 4096, [4096, 904]), (0, 8192, 8192, [8192]),
        (4095, 4097, 1 << 20, [4097]), (3, 10, 4, [4, 4, 2]),
    ])
    func `a list covers a buffer in runs of at most what a descriptor takes`(
        offset: Int,
        byteCount: Int,
        maximum: Int,
        runs: [Int]
    ) throws {
        let adapter = try adapter()
        let buffer = try adapter.allocateCommonBuffer(byteCount: 8192)
        let mdl = MemoryDescriptorList(virtualAddress: VirtualAddress(buffer.base + offset), byteCount: byteCount)
        var list = try #require(buffer.scatterGatherList(of: mdl))
        var elements: [ScatterGatherElement] = []
        while let element = list.element(maximum: maximum) { elements.append(element) }
        #expect(elements.map(\.byteCount) == runs)
        var next = buffer.logicalAddress.advanced(by: UInt64(offset))
        for element in elements {
            #expect(element.address == next)
            next = next.advanced(by: UInt64(element.byteCount))
        }
        #expect(list.remaining == 0)
        adapter.releaseAll()
    }

    @Test(arguments: [(-1, 2), (0, 8193), (8191, 2), (8192, 1), (0, 0), (0, -1), (5, Int.max)])
    func `what does not lie in a common buffer has no list there`(offset: Int, byteCount: Int) throws {
        let adapter = try adapter()
        let buffer = try adapter.allocateCommonBuffer(byteCount: 8192)
        let mdl = MemoryDescriptorList(virtualAddress: VirtualAddress(buffer.base + offset), byteCount: byteCount)
        #expect(buffer.scatterGatherList(of: mdl) == nil)
        adapter.releaseAll()
    }
}
