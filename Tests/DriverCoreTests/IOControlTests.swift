import CHardware
import Glibc
import PCIBus
import Testing

@testable import DriverCore

@Suite final class IOControlTests {
    let memory = SystemMemory()
    /// Freed with the suite.
    private var buffers: [UnsafeMutableRawBufferPointer] = []

    deinit { for buffer in buffers { buffer.deallocate() } }

    private func code(_ method: TransferMethod) throws -> IOControlCode {
        try #require(IOControlCode(deviceType: 0x8000, function: 0x900, method: method, access: .any))
    }

    /// Runs a driver's routine on a request with these buffers and answers how it ended.
    private func perform(
        _ code: IOControlCode,
        _ input: [UInt8],
        _ output: UnsafeMutableRawBufferPointer,
        _ body: (consuming IOControlRequest) throws -> Void
    ) throws -> IOControlRequest.Outcome {
        let outcome = IOControlRequest.Outcome()
        try input.withUnsafeBytes { input in
            try body(
                IOControlRequest(
                    code,
                    input: input.isEmpty ? UnsafeRawBufferPointer(start: nil, count: 0) : input,
                    output: output,
                    memory: memory,
                    outcome: outcome
                )
            )
        }
        #expect(memory.statistics(.pool).count == 0)
        return outcome
    }

    private func buffer(_ count: Int) -> UnsafeMutableRawBufferPointer {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 4096)
        buffer.initializeMemory(as: UInt8.self, repeating: 0x11)
        buffers.append(buffer)
        return UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
    }

    @Test func `a code is type, access, function and method`() throws {
        let code = try #require(
            IOControlCode(deviceType: IOControlCode.unknownDevice, function: 0x800, method: .buffered, access: .any)
        )
        #expect(code.rawValue == 0x222000)
        let other = IOControlCode(rawValue: 0x8001_e007)
        #expect(other.deviceType == 0x8001 && other.access == .readWrite)
        #expect(other.function == 0x801 && other.method == .neither)
        for (type, function) in [(0x7fff, 0x800), (0x10000, 0x800), (0x8000, 0x7ff), (0x8000, 0x1000)]
            as [(UInt32, UInt32)]
        {
            #expect(IOControlCode(deviceType: type, function: function, method: .buffered, access: .any) == nil)
        }
        #expect(RegisterControl.Function.allCases.map { $0.code.function } == [0x800, 0x801, 0x802, 0x803, 0x804])
    }

    @Test func `buffered: one buffer for both ways, of which the caller gets what the driver says`() throws {
        let output = buffer(8)
        let outcome = try perform(code(.buffered), [1, 2, 3, 4], output) { request in
            let input = try request.inputBuffer(minimum: 4)
            #expect(Array(input) == [1, 2, 3, 4])
            let answer = try request.outputBuffer(minimum: 8)
            #expect(answer.baseAddress == UnsafeMutableRawPointer(mutating: input.baseAddress))
            for index in 0..<8 { answer[index] = UInt8(0xa0 + index) }
            #expect(input[0] == 0xa0 && output.allSatisfy { $0 == 0x11 })
            request.complete(.success, information: 3)
        }
        #expect(outcome.status == .success && outcome.information == 3)
        #expect(Array(output) == [0xa0, 0xa1, 0xa2, 0x11, 0x11, 0x11, 0x11, 0x11])
    }

    @Test func `in-direct: the output buffer is locked and its bytes are for the device`() throws {
        let output = buffer(5000)
        _ = try perform(code(.inDirect), [7], output) { request in
            #expect(try request.inputBuffer(minimum: 1)[0] == 7)
            let mdl = try request.outputMDL()
            #expect(try request.direction() == .toDevice)
            #expect(mdl.state == .locked && mdl.byteCount == 5000)
            #expect(try request.outputBuffer(minimum: 5000).baseAddress == output.baseAddress)
            request.complete(.success, information: 5000)
        }
    }

    @Test func `out-direct: the device fills the caller's own pages, and read-only ones are refused`() throws {
        let output = buffer(4096)
        let outcome = try perform(code(.outDirect), [], output) { request in
            #expect(try request.direction() == .fromDevice)
            let answer = try request.outputBuffer(minimum: 1)
            answer[0] = 0x77
            #expect(output[0] == 0x77)
            request.complete(.success, information: 1)
        }
        #expect(outcome.information == 1)
        let page = mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        defer { munmap(page, 4096) }
        let constant = UnsafeMutableRawBufferPointer(start: page, count: 100)
        for (method, expected) in [(TransferMethod.outDirect, Status.accessViolation), (.inDirect, .success)] {
            var status = Status.success
            do {
                _ = try perform(code(method), [1], constant) { request in request.complete(.success) }
            } catch let error as StatusError { status = error.status }
            #expect(status == expected && memory.statistics(.pool).count == 0)
        }
    }

    @Test func `neither: the caller's addresses as they are, and no buffers`() throws {
        let output = buffer(4)
        let outcome = try perform(code(.neither), [9, 9], output) { request in
            let user = try request.unsafeUserBuffers()
            #expect(user.input.count == 2 && user.input[0] == 9 && user.output.baseAddress == output.baseAddress)
            var refused: [Status] = []
            do throws(StatusError) { _ = try request.inputBuffer(minimum: 1) } catch { refused.append(error.status) }
            do throws(StatusError) { _ = try request.outputBuffer(minimum: 1) } catch { refused.append(error.status) }
            do throws(StatusError) { _ = try request.outputMDL() } catch { refused.append(error.status) }
            #expect(refused == [.invalidDeviceRequest, .invalidDeviceRequest, .invalidDeviceRequest])
            request.complete(.success)
        }
        #expect(outcome.status == .success)
    }

    @Test func `a buffer that is short or missing is too small, and no list describes it`() throws {
        for method in [TransferMethod.buffered, .inDirect, .outDirect] {
            let outcome = try perform(code(method), [1, 2], UnsafeMutableRawBufferPointer(start: nil, count: 0)) {
                request in
                var refused: [Status] = []
                do throws(StatusError) { _ = try request.inputBuffer(minimum: 4) } catch {
                    refused.append(error.status)
                }
                do throws(StatusError) { _ = try request.outputBuffer(minimum: 0) } catch {
                    refused.append(error.status)
                }
                if method != .buffered {
                    do throws(StatusError) { _ = try request.outputMDL() } catch { refused.append(error.status) }
                }
                #expect(refused.allSatisfy { $0 == .bufferTooSmall } && refused.count == (method == .buffered ? 2 : 3))
                request.complete(.bufferTooSmall, information: 4)
            }
            // A failure tells no bytes, whatever the driver says.
            #expect(outcome.status == .bufferTooSmall && outcome.information == 0)
        }
    }

    @Test func `a request that is dropped ends once, with nothing done`() throws {
        let output = buffer(4)
        let outcome = try perform(code(.buffered), [1, 2, 3, 4], output) { _ in }
        #expect(outcome.status == .unsuccessful && outcome.information == 0 && output[0] == 0x11)
    }

    // MARK: The original driver's codes

    private final class Card {
        let bar = FakeBAR(byteCount: 0x24000)
        let registers = UnsafeMutablePointer<RegisterSpace>.allocate(capacity: 1)
        let context = UnsafeMutablePointer<UInt8>.allocate(capacity: 1)

        init() {
            let map = RegisterMap(registers: [], window: 0x20000..<0x22000, protectedBARs: [2])
            registers.initialize(to: RegisterSpace(map: map, doubtContext: context, doubt: { _, _ in 0 }))
            registers.pointee.setWindow(0, bar.window)
            registers.pointee.open()
        }

        deinit {
            registers.deinitialize(count: 1)
            registers.deallocate()
            context.deallocate()
        }

        func control(at address: UInt64 = 0xd000_0000) -> RegisterControl {
            RegisterControl(
                registers: registers,
                window: 0x20000..<0x22000,
                address: PhysicalAddress(address)
            )
        }
    }

    private func run(
        _ control: RegisterControl,
        _ code: IOControlCode,
        _ input: [UInt8],
        _ outputCount: Int,
        _ offset: inout UInt64
    ) throws -> (status: Status?, information: Int, output: [UInt8], fault: RegisterFault) {
        let output = buffer(outputCount)
        var fault = RegisterFault.none
        var place = offset
        let outcome = try perform(code, input, output) { fault = control.perform($0, offset: &place) }
        offset = place
        return (outcome.status, outcome.information, Array(output), fault)
    }

    @Test func `offset, write and read reach one word of the window`() throws {
        let card = Card()
        var offset: UInt64 = 0
        let set = try run(card.control(), RegisterControl.Function.setOffset.code, [0x10, 0, 0, 0], 0, &offset)
        #expect(set.status == .success && set.information == 4 && offset == 0x10)
        let write = try run(card.control(), RegisterControl.Function.writeRegister.code, [1, 2, 3, 4], 0, &offset)
        #expect(write.status == .success && write.information == 4)
        let read = try run(card.control(), RegisterControl.Function.readRegister.code, [], 4, &offset)
        #expect(read.status == .success && read.information == 4 && read.output == [1, 2, 3, 4])
        #expect(card.bar.accesses == ["w4@131088=4030201", "r4@131088"])
    }

    @Test(arguments: [
        ([0x12, 0, 0, 0], RegisterFault.misaligned), ([0, 0x20, 0, 0], .outOfRange),
        ([0xfc, 0xff, 0xff, 0xff], .outOfRange),
        ([0xfc, 0x1f, 0, 0], RegisterFault.none),
    ])
    func `an offset outside the window, misaligned or wrapping is refused and not kept`(
        bytes: [UInt8],
        expected: RegisterFault
    ) throws {
        let card = Card()
        var offset: UInt64 = 8
        let set = try run(card.control(), RegisterControl.Function.setOffset.code, bytes, 0, &offset)
        #expect(set.fault == expected && set.status == (expected == .none ? .success : .invalidParameter))
        #expect(set.information == (expected == .none ? 4 : 0) && offset == (expected == .none ? 0x1ffc : 8))
    }

    @Test func `each failing path ends its request once, with information 0 and no access`() throws {
        let card = Card()
        var offset: UInt64 = 0
        for function in RegisterControl.Function.allCases {
            for short in [[], [1, 2, 3]] as [[UInt8]] {
                let result = try run(card.control(), function.code, short, short.count, &offset)
                #expect(result.status == .bufferTooSmall && result.information == 0)
            }
        }
        let unknown = try run(card.control(), IOControlCode(rawValue: 0x222_014), [1, 2, 3, 4], 4, &offset)
        #expect(
            unknown.status == .invalidDeviceRequest && unknown.information == 0 && unknown.output == [17, 17, 17, 17]
        )
        #expect(card.bar.accesses.isEmpty && offset == 0)
    }

    @Test func `an address above 4 GiB is told whole or not at all`() throws {
        let card = Card()
        var offset: UInt64 = 0
        let high = card.control(at: 0x38_1234_5000)
        let low = try run(high, RegisterControl.Function.readAddress.code, [], 4, &offset)
        #expect(low.status == .bufferTooSmall && low.information == 0 && low.output == [17, 17, 17, 17])
        let whole = try run(high, RegisterControl.Function.readWholeAddress.code, [], 8, &offset)
        #expect(whole.status == .success && whole.output == [0, 0x50, 0x34, 0x12, 0x38, 0, 0, 0])
        let fits = try run(card.control(), RegisterControl.Function.readAddress.code, [], 4, &offset)
        #expect(fits.information == 4 && fits.output == [0, 0, 0, 0xd0])
    }
}
