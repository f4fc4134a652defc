import CHardware
import PCIBus
import Testing

@testable import DriverCore

/// What callbacks were handed, in order.
final class Collected<Value>: @unchecked Sendable {  // guarded by `lock`
    private let lock = Lock()
    private var values: [Value] = []

    deinit { lock.destroy() }

    func add(_ value: Value) { lock.locked { values.append(value) } }
    var all: [Value] { lock.locked { values } }
}

/// An adapter over a fake function, with memory of the test's own and a card that reads and writes what it is given.
final class PacketFixture {
    let function = FakeFunction()
    let adapter: DMAAdapter
    private var memories: [UnsafeMutableRawPointer] = []

    init(
        registers: Int = 0,
        width: Int = 32,
        scatterGather: Bool = true,
        maximumLength: Int = 1 << 20,
        alignment: Int = 1,
        translation: DMAAdapter.Translation = .remapped
    ) throws {
        adapter = try DMAAdapter(
            function: function,
            description: DeviceDescription(
                addressWidth: width,
                scatterGather: scatterGather,
                maximumLength: maximumLength,
                alignment: alignment
            ),
            translation: translation
        )
        if registers > 0 { try adapter.reserveMapRegisters(registers) }
    }

    deinit {
        adapter.releaseAll()
        for memory in memories { memory.deallocate() }
    }

    /// Numbered bytes the card cannot reach, on a page.
    func memory(_ byteCount: Int) -> UnsafeMutableRawPointer {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 1), alignment: Page.size)
        for index in 0..<byteCount {
            memory.storeBytes(of: UInt8(truncatingIfNeeded: index &* 31 >> 3), toByteOffset: index, as: UInt8.self)
        }
        memories.append(memory)
        return memory
    }

    /// A list of resident memory.
    func mdl(_ memory: UnsafeMutableRawPointer, _ byteCount: Int) throws -> MDL {
        let mdl = try MDL(virtualAddress: VirtualAddress(memory), byteCount: byteCount)
        try mdl.buildForNonPagedPool()
        return mdl
    }

    /// A list whose pages lie on given frames.
    func mdl(_ memory: UnsafeMutableRawPointer, _ byteCount: Int, frames: [UInt64], offset: Int = 0) throws -> MDL {
        let mdl = try MDL(virtualAddress: VirtualAddress(memory + offset), byteCount: byteCount)
        try frames.withUnsafeBufferPointer { frames in
            try mdl.buildForNonPagedPool(
                in: DMAMemory(base: memory, byteCount: frames.count * Page.size, frames: frames.baseAddress)
            )
        }
        return mdl
    }

    /// The memory behind a logical address that is mapped for the card.
    func card(_ address: LogicalAddress) -> UnsafeMutableRawPointer {
        for entry in adapter.buffers {
            let start = entry.buffer.logicalAddress.value
            if start <= address.value, address.value - start < UInt64(entry.buffer.memory.byteCount) {
                return entry.buffer.base + Int(address.value - start)
            }
        }
        preconditionFailure("\(address) is not mapped")
    }

    /// The bytes the card sees behind a list.
    func read(_ list: MappedScatterGatherList) -> [UInt8] {
        list.elements.flatMap { element in
            [UInt8](UnsafeRawBufferPointer(start: card(element.address), count: element.byteCount))
        }
    }

    /// The card writes `bytes` through a list.
    func write(_ bytes: [UInt8], _ list: MappedScatterGatherList) {
        var rest = bytes[...]
        for element in list.elements {
            let part = Array(rest.prefix(element.byteCount))
            part.withUnsafeBytes { if let base = $0.baseAddress { memcpy(card(element.address), base, $0.count) } }
            rest = rest.dropFirst(part.count)
        }
    }
}

/// Runs a closure at dispatch level.
func atDispatch<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
    try ExecutionLevel.dispatch.run(body)
}

/// The bytes at a pointer.
func contents(_ memory: UnsafeMutableRawPointer, _ byteCount: Int) -> [UInt8] {
    [UInt8](UnsafeRawBufferPointer(start: memory, count: byteCount))
}
