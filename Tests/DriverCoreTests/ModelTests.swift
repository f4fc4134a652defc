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

    /// What is asked of each routine.
    static let rules = [
        Rule(
            "DriverEntry",
            "a driver that cannot be made leaves nothing",
            "a driver that cannot be made gives the function back"
        ),
        Rule("PAGED_CODE", "callbacks run at passive level", "the driver's callbacks run at passive level"),
        Rule("EvtDriverDeviceAdd", "the driver that matches", "the first driver that matches the IDs takes the card"),
        Rule(
            "WdfDeviceConfigureRequestDispatching",
            "each kind has its queue",
            "a manual queue delivers when it is asked"
        ),
        Rule("WdfIoQueueDispatchSequential", "one at a time", "a sequential queue delivers one at a time, in order"),
        Rule("resource lists", "raw and translated name the same", "resources name each BAR, whatever lies between"),
        Rule("CM_RESOURCE_PORT_IO", "ports are no memory", "a BAR of ports is no memory"),
        Rule(
            "resource assignment",
            "a rebalance gives other resources",
            "a rebalance starts the card at its new place"
        ),
        Rule(
            "EvtDevicePrepareHardware",
            "what is missing is a configuration error",
            "a BAR that is missing is a configuration error"
        ),
        Rule(
            "EvtDeviceReleaseHardware",
            "everything is given back",
            "a stop is the reverse, and bus mastering goes first"
        ),
        Rule(
            "EvtDeviceD0Entry",
            "a card that is found",
            "a start is in order, and bus mastering comes last but the queues"
        ),
        Rule("EvtDeviceD0Entry", "one that wakes", "sleep keeps the resources, and waking begins at d0Entry"),
        Rule(
            "EvtDeviceD0Exit",
            "not after a D0Entry that failed",
            "d0Entry that fails is followed by releaseHardware and not by d0Exit"
        ),
        Rule(
            "WRITE_OFFSETADDRESS",
            "the offset is checked",
            "the offset is the mount's, and selects what bar0 reaches"
        ),
        Rule(
            "IN_BUFFERED",
            "one aligned 32-bit store",
            "a word is written with the width of the name, one bus access each"
        ),
        Rule("OUT_BUFFERED", "one aligned 32-bit load", "an access is refused before it is made, or made once"),
        Rule("READ_PADDRESS", "the whole address", "a BAR above 4 GiB keeps its whole address"),
        Rule(
            "METHOD_BUFFERED",
            "below 16 KiB a copy, above none",
            "a payload is page-aligned, and copied only if it is small"
        ),
        Rule(
            "WdfRequestComplete",
            "a request that is dropped is answered",
            "a request that is dropped answers STATUS_UNSUCCESSFUL and is counted"
        ),
        Rule("read path", "six steps", "a read and a write are followed through six steps and to their end"),
        Rule("mapped memory", "no access out of bounds", "a run must lie in the BAR whole"),
        Rule("BAR2", "a write there is refused", "BAR2 is refused at the write, unless the mount allows it"),
        // Plug and Play and power.
        Rule("power-up", "the documented order", "a start is in order, and bus mastering comes last but the queues"),
        Rule(
            "orderly removal",
            "the documented order",
            "an orderly removal goes down from D0, releases, and flushes last"
        ),
        Rule(
            "surprise removal in D0",
            "the documented order",
            "a surprise removal in D0 says so first, then goes the whole way down"
        ),
        Rule(
            "surprise removal in Dx",
            "ReleaseHardware directly",
            "a surprise removal outside D0 releases the hardware directly"
        ),
        Rule(
            "IRP_MN_QUERY_STOP_DEVICE",
            "a card that cannot stop works on",
            "a card that cannot stop works on: query-stop is followed by cancel-stop and nothing else"
        ),
        Rule(
            "PrepareHardware fails",
            "ReleaseHardware follows",
            "prepareHardware that fails is followed by releaseHardware, once, and nothing else"
        ),
        Rule(
            "power-managed queues",
            "hold outside D0",
            "requests to a card that is stopped wait, and go on when it is started"
        ),
        Rule(
            "removal",
            "requests in flight end",
            "every request in flight ends with ENODEV when the card goes, and none hangs"
        ),
    ]

    /// What the original driver did wrong.
    static let defects = [
        Rule(
            "WdfRequestComplete",
            "completed twice",
            "cancel and completion race for one claim: there is exactly one winner"
        ),
        Rule("WdfRequestComplete", "a failure that tells bytes", "a failure tells no bytes"),
        Rule("offset", "no bound", "a run must lie in the BAR whole"),
        Rule("BAR0", "taken for the first of the list", "resources name each BAR, whatever lies between"),
        Rule(
            "MmMapIoSpace",
            "mapped twice, unmapped once",
            "a start is in order, and bus mastering comes last but the queues"
        ),
        Rule("MmMapIoSpace", "failure unseen", "a BAR that cannot be mapped leaves nothing mapped"),
        Rule(
            "resource list",
            "an interrupt first is a failure",
            "a list that begins with an interrupt or a port is as good as another"
        ),
        Rule("Start.LowPart", "half an address", "a BAR above 4 GiB keeps its whole address"),
        Rule("pointer stores", "split or merged", "a value has exactly the bits of its width"),
        Rule("PCIE_READ_MEMORY_OFFSET", "unused", "registers have names, sizes and modes"),
        Rule("MMIO", "outside D0", "a card that is stopped answers not-in-D0, and answers again when it is started"),
        Rule("PAGED_CODE", "at the wrong level", "the driver's callbacks run at passive level"),
        Rule("READ_PADDRESS", "told to anybody", "registers have names, sizes and modes"),
        Rule("DPC", "clears the other channel", "each vector has its reason"),
    ]

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
