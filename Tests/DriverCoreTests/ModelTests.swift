import CHardware
import Glibc
import PCIBus
import Testing

@testable import DriverCore

/// The rules a KMDF driver for this card lives by and the mistakes one was seen to make, each with the test that shows that it
/// is kept here. A test that is renamed or removed is missed by name.
@Suite struct ModelTests {
    struct Rule: Sendable, CustomTestStringConvertible {
        var routine: String
        var rule: String
        var test: String
        var testDescription: String { routine + ": " + rule }

        init(_ routine: String, _ rule: String, _ test: String) {
            (self.routine, self.rule, self.test) = (routine, rule, test)
        }
    }

    /// The names of all tests of the package.
    private static let names: Set<String> = {
        var names: Set<String> = []
        let tests = #filePath.split(separator: "/").dropLast(2).reduce("") { $0 + "/" + $1 }
        func visit(_ directory: String) {
            guard let stream = opendir(directory) else { return }
            defer { closedir(stream) }
            while let entry = readdir(stream) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(cString: $0.bindMemory(to: CChar.self).baseAddress!)
                }
                if name.hasPrefix(".") { continue }
                let path = directory + "/" + name
                if !name.hasSuffix(".swift") {
                    visit(path)
                } else if let file = fopen(path, "r") {
                    defer { fclose(file) }
                    var line = [CChar](repeating: 0, count: 4096)
                    while fgets(&line, CInt(line.count), file) != nil {
                        let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
                        let parts = text.split(separator: "`", omittingEmptySubsequences: false)
                        if parts.count >= 3, parts[0].hasSuffix("func ") { names.insert(String(parts[1])) }
                    }
                }
            }
        }
        visit(tests)
        return names
    }()

    @Test(arguments: rules) func `each rule has its test`(rule: Rule) {
        #expect(Self.names.contains(rule.test))
    }

    @Test(arguments: memoryAndDMA) func `each rule of memory and DMA has its test`(rule: Rule) {
        #expect(Self.names.contains(rule.test))
    }

    @Test(arguments: defects) func `each defect has its test`(defect: Rule) {
        #expect(Self.names.contains(defect.test))
    }

    // MARK: What no other suite asks

    /// Keeps what prepareHardware was given, and at which level the callbacks came.
    private final class Keeping: FakeDriver {
        nonisolated(unsafe) static var lists: ResourceLists?
        nonisolated(unsafe) static var levels: [ExecutionLevel] = []
        private func note() { Self.levels.append(ExecutionLevel.current) }
        override func prepareHardware(_ resources: ResourceLists) throws(StatusError) {
            note()
            Self.lists = resources
        }
        override func releaseHardware() { note() }
        override func d0Entry() throws(StatusError) { note() }
        override func d0Exit() { note() }
        override func startIO() { note() }
        override func suspendIO() { note() }
    }

    @Test func `the driver's callbacks run at passive level`() throws {
        Keeping.levels = []
        let device = try makeDevice(FakeFunction(), drivers: [Keeping.self])
        try device.start()
        try device.suspend()
        try device.resume()
        try device.remove()
        #expect(Keeping.levels.count == 10 && Keeping.levels.allSatisfy { $0 == .passive })
    }

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
