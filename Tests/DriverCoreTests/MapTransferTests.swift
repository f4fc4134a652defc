import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct MapTransferTests {
    /// Registers kept for a test.
    private func base(_ fixture: PacketFixture, _ count: Int) throws -> MapRegisterBase {
        let bases = Collected<MapRegisterBase>()
        _ = atDispatch {
            fixture.adapter.allocateAdapterChannel(mapRegisters: count, for: DMARequester(fixture)) { base in
                if let base { bases.add(base) }
                return .deallocateObjectKeepRegisters
            }
        }
        return try #require(bases.all.first)
    }

    @Test(arguments: [
        (0, 12 * 4096, [20480, 20480, 8192]), (0x10, 12 * 4096 - 0x10, [20464, 20480, 8192]), (0, 5000, [5000]),
        (0xfff, 2, [2]), (0, 20480, [20480]), (1, 20480, [20479, 1]),
    ])
    func `12 registers are needed and 5 are there: three transfers`(offset: Int, byteCount: Int, lengths: [Int]) throws
    {
        let fixture = try PacketFixture(registers: 5, scatterGather: false)
        let memory = fixture.memory(16 * 4096)
        let mdl = try fixture.mdl(memory + offset, byteCount)
        let base = try base(fixture, 5)
        var seen: [UInt8] = []
        var transfers: [Int] = []
        var current = mdl.virtualAddress
        var remaining = byteCount
        while remaining > 0 {
            // What the documentation tells the driver to ask for.
            let page = Int(current.value % 4096)
            var length = min(remaining, 5 * 4096 - page)
            let address = try fixture.adapter.mapTransfer(
                mdl,
                base: base,
                at: current,
                length: &length,
                direction: .toDevice
            )
            #expect(address.value % 4096 == UInt64(page))
            seen += contents(fixture.card(address), length)
            transfers.append(length)
            try fixture.adapter.flushAdapterBuffers(mdl, base: base, at: current, length: length)
            current = current.advanced(by: length)
            remaining -= length
        }
        #expect(transfers == lengths && seen == contents(memory + offset, byteCount))
        try atDispatch { () throws(StatusError) in try fixture.adapter.freeMapRegisters(base) }
    }

    @Test func `bytes for the card are copied before the transfer, bytes from it when they are flushed`() throws {
        let fixture = try PacketFixture(registers: 3, scatterGather: false)
        let adapter = fixture.adapter
        let memory = fixture.memory(3 * 4096)
        let mdl = try fixture.mdl(memory + 100, 8000)
        let base = try base(fixture, 3)
        let before = contents(memory, 3 * 4096)
        var length = 8000
        let out = try adapter.mapTransfer(
            mdl,
            base: base,
            at: mdl.virtualAddress,
            length: &length,
            direction: .toDevice
        )
        #expect(contents(fixture.card(out), 8000) == Array(before[100..<8100]))
        memset(fixture.card(out), 0, 8000)
        try adapter.flushAdapterBuffers(mdl, base: base, at: mdl.virtualAddress, length: 8000)
        #expect(contents(memory, 3 * 4096) == before)

        let into = try adapter.mapTransfer(
            mdl,
            base: base,
            at: mdl.virtualAddress,
            length: &length,
            direction: .fromDevice
        )
        memset(fixture.card(into), 0xee, 8000)
        #expect(contents(memory, 3 * 4096) == before)
        // A short transfer: 8000 less a remaining count of 3000.
        try adapter.flushAdapterBuffers(mdl, base: base, at: mdl.virtualAddress, length: 8000, transferred: 5000)
        var expected = before
        expected.replaceSubrange(100..<5100, with: repeatElement(0xee, count: 5000))
        #expect(contents(memory, 3 * 4096) == expected)
    }

    @Test func `a buffer is bounced if and only if its last byte lies above the limit`() throws {
        for (width, last) in [(24, UInt64(0xfff)), (32, 0xf_ffff)] {
            let fixture = try PacketFixture(registers: 2, width: width, translation: .identity)
            let base = try base(fixture, 2)
            let memory = fixture.memory(2 * 4096)
            // The page that ends exactly at the limit is direct.
            let edge = try fixture.mdl(memory, 4096, frames: [last])
            var length = 4096
            let address = try fixture.adapter.mapTransfer(
                edge,
                base: base,
                at: edge.virtualAddress,
                length: &length,
                direction: .toDevice
            )
            #expect(address.value == last << 12 && length == 4096)
            try fixture.adapter.flushAdapterBuffers(edge, base: base, at: edge.virtualAddress, length: 4096)
            // One byte into the next page, and that page is not.
            let beyond = try fixture.mdl(memory, 4096, frames: [last, last + 1], offset: 1)
            length = 4096
            let first = try fixture.adapter.mapTransfer(
                beyond,
                base: base,
                at: beyond.virtualAddress,
                length: &length,
                direction: .toDevice
            )
            #expect(first.value == last << 12 + 1 && length == 4095)
            let second = beyond.virtualAddress.advanced(by: 4095)
            length = 1
            let bounced = try fixture.adapter.mapTransfer(
                beyond,
                base: base,
                at: second,
                length: &length,
                direction: .toDevice
            )
            #expect(bounced.value < 1 << UInt64(width) && length == 1)
            #expect(contents(fixture.card(bounced), 1) == contents(memory + 4096, 1))
        }
    }

    @Test func `a card with scatter/gather gets one run at a time, cut where frames do not follow and at 4 GiB`() throws
    {
        let fixture = try PacketFixture(width: 64, translation: .identity)
        let memory = fixture.memory(6 * 4096)
        let mdl = try fixture.mdl(memory, 6 * 4096 - 8, frames: [7, 8, 3, 0xf_ffff, 0x10_0000, 0x10_0001], offset: 8)
        var runs: [(UInt64, Int)] = []
        var current = mdl.virtualAddress
        var left = mdl.byteCount
        while left > 0 {
            var length = left
            let address = try fixture.adapter.mapTransfer(
                mdl,
                base: nil,
                at: current,
                length: &length,
                direction: .fromDevice
            )
            runs.append((address.value, length))
            current = current.advanced(by: length)
            left -= length
        }
        #expect(runs.map(\.0) == [0x7008, 0x3000, 0xffff_f000, 0x1_0000_0000])
        #expect(runs.map(\.1) == [8184, 4096, 4096, 8192])
    }

    @Test func `a card without scatter/gather gets three scattered pages as one run, their offset kept`() throws {
        let fixture = try PacketFixture(registers: 4, width: 24, scatterGather: false, translation: .identity)
        let memory = fixture.memory(3 * 4096)
        let mdl = try fixture.mdl(memory, 9000, frames: [100, 7, 50], offset: 0x123)
        let base = try base(fixture, 4)
        var length = 9000
        let address = try fixture.adapter.mapTransfer(
            mdl,
            base: base,
            at: mdl.virtualAddress,
            length: &length,
            direction: .toDevice
        )
        #expect(length == 9000 && address.value % 4096 == 0x123 && address.value + 9000 <= 1 << 24)
        #expect(contents(fixture.card(address), 9000) == contents(memory + 0x123, 9000))
        // Pages that do follow each other need no register.
        let whole = try fixture.mdl(memory, 12288, frames: [5, 6, 7])
        length = 12288
        let direct = try fixture.adapter.mapTransfer(
            whole,
            base: nil,
            at: whole.virtualAddress,
            length: &length,
            direction: .toDevice
        )
        #expect(direct.value == 0x5000 && length == 12288)
    }

    @Test func `what cannot be mapped or flushed is refused, and nothing changes`() throws {
        let fixture = try PacketFixture(registers: 2, scatterGather: false, alignment: 4)
        let adapter = fixture.adapter
        let memory = fixture.memory(4 * 4096)
        let mdl = try fixture.mdl(memory, 3 * 4096)
        let base = try base(fixture, 2)
        func map(_ mdl: MDL, _ offset: Int, _ length: Int, _ base: MapRegisterBase?) -> Status {
            status { () throws(StatusError) in
                var length = length
                _ = try adapter.mapTransfer(
                    mdl,
                    base: base,
                    at: VirtualAddress(memory + offset),
                    length: &length,
                    direction: .toDevice
                )
            }
        }
        #expect(map(mdl, 0, 0, base) == .invalidParameter)
        #expect(map(mdl, 0, -1, base) == .invalidParameter)
        #expect(map(mdl, 3 * 4096 - 4, 8, base) == .invalidParameter)
        #expect(map(mdl, -4, 8, base) == .invalidParameter)
        #expect(map(mdl, 2, 8, base) == .invalidParameter)
        #expect(map(mdl, 0, 2 * 4096 + 1, base) == .insufficientResources)
        #expect(map(mdl, 0, 100, nil) == .insufficientResources)
        let unlocked = try MDL(virtualAddress: VirtualAddress(memory), byteCount: 100)
        #expect(map(unlocked, 0, 100, base) == .invalidDeviceState)
        #expect(ExecutionLevel.device.run { map(mdl, 0, 100, base) } == .invalidDeviceState)
        func flush(_ offset: Int, _ length: Int) -> Status {
            status { () throws(StatusError) in
                try adapter.flushAdapterBuffers(mdl, base: base, at: VirtualAddress(memory + offset), length: length)
            }
        }
        #expect(flush(0, 100) == .invalidParameter && flush(0, 0) == .invalidParameter)
        #expect(map(mdl, 0, 4096, base) == .success)
        #expect(map(mdl, 4092, 100, base) == .invalidDeviceState)
        #expect(
            atDispatch { status { () throws(StatusError) in try adapter.freeMapRegisters(base) } }
                == .invalidDeviceState
        )
        #expect(flush(0, 4096) == .success && flush(0, 4096) == .invalidParameter)
        #expect(atDispatch { status { () throws(StatusError) in try adapter.freeMapRegisters(base) } } == .success)
        #expect(map(mdl, 0, 100, base) == .invalidParameter)
    }
}
