import CHardware
import PCIBus
import SimulatedCard
import Testing

@Suite struct MemoryTests {
    @Test func `frames are distinct and never follow each other`() throws {
        let rig = try Rig()
        let memory = try rig.function.allocateMemory(byteCount: 8 << 20)
        let all = Array(UnsafeBufferPointer(start: memory.frames, count: 2048))
        let arena = Array(UnsafeBufferPointer(start: rig.arena.frames, count: Rig.arenaBytes / 4096))
        #expect(Set(all + arena).count == all.count + arena.count)
        #expect(zip(all, all.dropFirst()).allSatisfy { $0 + 1 != $1 })
        #expect(all.allSatisfy { $0 >= 0x10_0000 && $0 < 0x20_0000 })
        rig.function.freeMemory(memory)
    }

    @Test func `frames are the same in every run`() throws {
        let one = try Rig()
        let other = try Rig()
        #expect(one.arena.frames![17] == other.arena.frames![17])
    }

    @Test func `memory is zeroed and rounded up to pages`() throws {
        let rig = try Rig()
        let memory = try rig.function.allocateMemory(byteCount: 4097)
        #expect(memory.byteCount == 8192)
        #expect(UnsafeRawBufferPointer(start: memory.base, count: 8192).allSatisfy { $0 == 0 })
        #expect(refusal { () throws(BusError) in _ = try rig.function.allocateMemory(byteCount: 0) } == EINVAL)
        #expect(refusal { () throws(BusError) in _ = try rig.function.allocateMemory(byteCount: 5 << 30) } != 0)
    }

    @Test(
        arguments: [
            (0x1000, 4096, 3, 0), (0x0, 4096, 3, EINVAL), (0x800, 4096, 3, EINVAL), (0x1000, 0, 3, EINVAL),
            (0x1000, 100, 3, EINVAL), (0x1000, -4096, 3, EINVAL), (0x1000, 4096, 0, EINVAL), (0xffff_f000, 4096, 1, 0),
            (0xffff_f000, 8192, 1, EINVAL), (0x1_0000_0000, 4096, 1, EINVAL), (0xfee0_0000, 4096, 3, EINVAL),
            (0xfedf_f000, 8192, 3, EINVAL), (0xfedf_f000, 4096, 3, 0), (0xfef0_0000, 4096, 3, 0),
            (.max - 4095, 4096, 3, EINVAL),
            (UInt64(Rig.logicalBase), 4096, 3, EEXIST), (UInt64(Rig.logicalBase) - 4096, 8192, 3, EEXIST),
            (UInt64(Rig.logicalBase) + UInt64(Rig.arenaBytes), 4096, 3, 0),
        ] as [(UInt64, Int, Int, CInt)]
    )
    func `mapping follows the rules of VFIO`(logical: UInt64, byteCount: Int, access: Int, code: CInt) throws {
        let rig = try Rig()
        let result = refusal { () throws(BusError) in
            try rig.function.mapDMA(
                rig.arena.base,
                byteCount: byteCount,
                at: LogicalAddress(logical),
                access: DMAAccess(rawValue: access)
            )
        }
        #expect(result == code)
    }

    @Test func `memory of others is not mapped`() throws {
        let rig = try Rig()
        let foreign = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { foreign.deallocate() }
        for (base, count) in [
            (foreign, 4096), (rig.arena.base, Rig.arenaBytes + 4096), (rig.arena.base + 4096, Rig.arenaBytes),
        ] {
            let code = refusal { () throws(BusError) in
                try rig.function.mapDMA(base, byteCount: count, at: LogicalAddress(0x4000_0000), access: .read)
            }
            #expect(code == EFAULT)
        }
        let code = refusal { () throws(BusError) in
            try rig.function.mapDMA(rig.arena.base + 1, byteCount: 4096, at: LogicalAddress(0x4000_0000), access: .read)
        }
        #expect(code == EINVAL)
    }

    @Test func `unmapping takes whole mappings, several at once, and nothing is fine`() throws {
        let rig = try Rig()
        func map(_ logical: UInt64, _ count: Int) throws(BusError) {
            try rig.function.mapDMA(rig.arena.base, byteCount: count, at: LogicalAddress(logical), access: .read)
        }
        func unmap(_ logical: UInt64, _ count: Int) -> CInt {
            refusal { () throws(BusError) in
                try rig.function.unmapDMA(at: LogicalAddress(logical), byteCount: count)
            }
        }
        try map(0x4000_0000, 8192)
        try map(0x4000_2000, 4096)
        try map(0x4000_4000, 4096)
        #expect(rig.get("iommu").contains("mapped_bytes \(Rig.arenaBytes + 16384)\n"))
        #expect(unmap(0x4000_0000, 4096) == EINVAL)
        #expect(unmap(0x4000_1000, 4096) == EINVAL)
        #expect(unmap(0x4000_1000, 8192) == EINVAL)
        #expect(unmap(0x4000_0000, 100) == EINVAL)
        #expect(unmap(0x4000_0000, 0x5000) == 0)
        #expect(unmap(0x4000_0000, 0x5000) == 0)
        #expect(rig.get("iommu") == "mapped_bytes \(Rig.arenaBytes)\nfaults 0\nlast_fault none\n")
        try map(0x4000_1000, 4096)
    }
}
