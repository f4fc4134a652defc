import DriverCore
import PCIBus
import Testing

/// An address space whose changes can be part of an expectation.
private final class Space {
    private var space: LogicalAddressSpace

    init(_ ranges: ClosedRange<UInt64>..., limit: UInt64 = .max) {
        space = LogicalAddressSpace(
            ranges: ranges.map { LogicalAddress($0.lowerBound)...LogicalAddress($0.upperBound) },
            limit: limit
        )
    }

    func take(byteCount: Int, alignment: UInt64, boundary: UInt64 = 0) -> LogicalAddress? {
        space.take(byteCount: byteCount, alignment: alignment, boundary: boundary)
    }

    func give(_ address: LogicalAddress) -> Bool { space.give(address) }
    var takenBytes: UInt64 { space.takenBytes }
}

@Suite struct AddressTests {
    @Test(arguments: [
        (0, 5000, 2), (0xf00, 5000, 3), (0xfff, 1, 1), (0xfff, 2, 2), (1, 4096, 2), (0, 4096, 1), (0, 4097, 2),
        (0x123, 0, 0), (0, 1, 1), (0x7fff_f000, 1 << 20, 256), (0x7fff_f001, 1 << 20, 257),
    ])
    func `a range spans the pages it touches`(address: UInt, byteCount: Int, pages: Int) {
        #expect(Page.span(of: address, byteCount: byteCount) == pages)
        let mdl = MemoryDescriptorList(virtualAddress: VirtualAddress(address), byteCount: byteCount)
        #expect(byteCount == 0 || mdl.pageCount == pages)
        #expect(mdl.byteOffset == Int(address & 0xfff))
    }

    @Test(arguments: [(0, 0), (1, 4096), (4095, 4096), (4096, 4096), (4097, 8192), (5 << 10, 8192)])
    func `lengths are rounded up to pages`(byteCount: Int, rounded: Int) {
        #expect(Page.roundedUp(byteCount) == rounded)
    }

    // MARK: Logical addresses

    @Test func `addresses are handed out first fit`() throws {
        let space = Space(0x10000...0x1ffff)
        let taken = (0..<3).map { _ in space.take(byteCount: 4096, alignment: 4096)!.value }
        #expect(taken == [0x10000, 0x11000, 0x12000])
        #expect(space.give(LogicalAddress(0x11000)))
        #expect(space.take(byteCount: 8192, alignment: 4096)?.value == 0x13000)
        #expect(space.take(byteCount: 1, alignment: 4096)?.value == 0x11000)
        #expect(space.takenBytes == 5 * 4096)
    }

    @Test func `address 0 is never handed out`() {
        let space = Space(0...0x1fff)
        #expect(space.take(byteCount: 1, alignment: 4096)?.value == 0x1000)
        #expect(space.take(byteCount: 1, alignment: 4096) == nil)
    }

    @Test(arguments: [(0x1_3fff, 4), (0x1_3ffe, 3), (0x1_0fff, 1), (0x1_0ffe, 0), (0xffff, 0), (UInt64.max, 16)])
    func `the limit is the last byte that may be used`(limit: UInt64, pages: Int) {
        let space = Space(0x1_0000...0x1_ffff, limit: limit)
        var count = 0
        while space.take(byteCount: 4096, alignment: 4096) != nil { count += 1 }
        #expect(count == pages)
    }

    @Test func `a start is a multiple of the alignment, and what lies before it stays free`() {
        let space = Space(0x1000...0x3ffff)
        #expect(space.take(byteCount: 8192, alignment: 0x2000)?.value == 0x2000)
        #expect(space.take(byteCount: 4096, alignment: 0x10000)?.value == 0x10000)
        #expect(space.take(byteCount: 4096, alignment: 4096)?.value == 0x1000)
        #expect(space.take(byteCount: 4096, alignment: 4096)?.value == 0x4000)
    }

    @Test func `nothing crosses a multiple of the boundary`() {
        let space = Space(0xf000...0x3ffff)
        #expect(space.take(byteCount: 8192, alignment: 4096, boundary: 0x10000)?.value == 0x10000)
        #expect(space.take(byteCount: 4096, alignment: 4096, boundary: 0x10000)?.value == 0xf000)
        #expect(space.take(byteCount: 0x10000, alignment: 4096, boundary: 0x10000)?.value == 0x20000)
        #expect(space.take(byteCount: 0x11000, alignment: 4096, boundary: 0x10000) == nil)
    }

    @Test func `what is given back is merged with its neighbours`() {
        let space = Space(0x10000...0x13fff)
        let all = (0..<4).map { _ in space.take(byteCount: 4096, alignment: 4096)! }
        #expect(space.take(byteCount: 1, alignment: 4096) == nil)
        for index in [0, 2, 1, 3] { #expect(space.give(all[index])) }
        #expect(space.takenBytes == 0)
        #expect(space.take(byteCount: 0x4000, alignment: 4096)?.value == 0x10000)
    }

    @Test func `only what was handed out is taken back, once`() {
        let space = Space(0x10000...0x1ffff)
        let address = space.take(byteCount: 8192, alignment: 4096)!
        #expect(!space.give(LogicalAddress(address.value + 4096)))
        #expect(space.give(address))
        #expect(!space.give(address))
    }

    @Test(arguments: [0, 0x1000_0000] as [UInt64])
    func `the top of a 64-bit space can be used`(boundary: UInt64) {
        let space = Space(UInt64.max - 0x1fff...UInt64.max)
        #expect(space.take(byteCount: 4096, alignment: 4096, boundary: boundary)?.value == UInt64.max - 0x1fff)
        #expect(space.take(byteCount: 4096, alignment: 4096, boundary: boundary)?.value == UInt64.max - 0xfff)
        #expect(space.take(byteCount: 4096, alignment: 4096, boundary: boundary) == nil)
        #expect(space.give(LogicalAddress(UInt64.max - 0xfff)))
        #expect(space.take(byteCount: 4096, alignment: 0x10_0000, boundary: boundary) == nil)
    }

    @Test func `several ranges are used in their order`() {
        let space = Space(0x1000...0x1fff, 0x8000...0x9fff, limit: 0xffff)
        #expect(space.take(byteCount: 8192, alignment: 4096)?.value == 0x8000)
        #expect(space.take(byteCount: 4096, alignment: 4096)?.value == 0x1000)
        #expect(space.take(byteCount: 4096, alignment: 4096) == nil)
    }
}
