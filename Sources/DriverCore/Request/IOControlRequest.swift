import CHardware
import PCIBus

/// One I/O control request (IRP_MJ_DEVICE_CONTROL) in a driver's hands: its buffers, by the method of its code.
///
/// Move-only: completing consumes it, so that a second completion does not compile. One that is dropped ends with
/// ``Status/unsuccessful`` and information 0.
public struct IOControlRequest: ~Copyable {
    /// What is asked.
    public let code: IOControlCode
    private let input: UnsafeRawBufferPointer
    private let output: UnsafeMutableRawBufferPointer
    private let memory: SystemMemory
    private let buffer: SystemAllocation?
    private let mdl: MDL?
    private let outcome: Outcome

    /// How a request ended.
    public final class Outcome {
        /// The status; nil until the end.
        public fileprivate(set) var status: Status?
        /// Bytes of the output that are valid; 0 on failure.
        public fileprivate(set) var information = 0
        /// A request can be asked how it ended.
        public init() {}
    }

    /// Makes a request of a caller's buffers (what the I/O manager does before it calls the driver): copies the input where
    /// the method says so, and locks the output of a direct one.
    ///
    /// ``Status/insufficientResources`` without memory for a system buffer, ``Status/accessViolation`` for a direct buffer that
    /// is not the caller's to use so. Passive level. The buffers outlive the request.
    public init(
        _ code: IOControlCode,
        input: UnsafeRawBufferPointer,
        output: UnsafeMutableRawBufferPointer,
        memory: SystemMemory,
        outcome: Outcome
    ) throws(StatusError) {
        let method = code.method
        var buffer: SystemAllocation?
        var mdl: MDL?
        // One buffer for both directions, as long as the longer of the two; direct requests copy the input alone.
        let systemByteCount =
            switch method {
            case .buffered: max(input.count, output.count)
            case .inDirect, .outDirect: input.count
            case .neither: 0
            }
        if systemByteCount > 0, let tag = PoolTag("Ioct") {
            let made = try memory.allocatePool(systemByteCount, .nonPaged, tag: tag)
            if let from = input.baseAddress { chw_copy(made.base, from, input.count) }
            if systemByteCount > input.count { memset(made.base + input.count, 0, systemByteCount - input.count) }
            buffer = made
        }
        // No list describes an empty buffer.
        if method == .inDirect || method == .outDirect, let base = output.baseAddress, output.count > 0 {
            do throws(StatusError) {
                let list = try MDL(virtualAddress: VirtualAddress(base), byteCount: output.count)
                // The device reads what goes in, and writes what comes out.
                try list.probeAndLockPages(method == .outDirect ? .write : .read)
                mdl = list
            } catch {
                if let buffer { try? memory.free(buffer) }
                throw error
            }
        }
        self.code = code
        self.input = input
        self.output = output
        self.memory = memory
        self.buffer = buffer
        self.mdl = mdl
        self.outcome = outcome
    }

    /// The input (WdfRequestRetrieveInputBuffer). ``Status/bufferTooSmall`` for less than `minimum` bytes or none at all,
    /// ``Status/invalidDeviceRequest`` for the method neither, whose addresses mean nothing here.
    public func inputBuffer(minimum: Int) throws(StatusError) -> UnsafeRawBufferPointer {
        guard code.method != .neither else { throw wrongMethod("an input buffer") }
        guard input.count > 0, input.count >= minimum, let buffer else { throw tooSmall("input", input.count, minimum) }
        return UnsafeRawBufferPointer(start: buffer.base, count: input.count)
    }

    /// The output (WdfRequestRetrieveOutputBuffer): for a buffered request the same memory as the input, which is to be read
    /// first. Errors as ``inputBuffer(minimum:)``.
    public func outputBuffer(minimum: Int) throws(StatusError) -> UnsafeMutableRawBufferPointer {
        guard code.method != .neither else { throw wrongMethod("an output buffer") }
        guard output.count > 0, output.count >= minimum else { throw tooSmall("output", output.count, minimum) }
        if code.method == .buffered {
            return UnsafeMutableRawBufferPointer(start: buffer?.base, count: output.count)
        }
        guard let mdl, let address = try mdl.systemAddress() else {
            throw StatusError(.insufficientResources, "the output buffer has no system address")
        }
        return UnsafeMutableRawBufferPointer(start: address, count: output.count)
    }

    /// The locked output of a direct request (WdfRequestRetrieveOutputWdmMdl), for DMA. ``Status/invalidDeviceRequest`` for
    /// another method, ``Status/bufferTooSmall`` for an empty buffer.
    public func outputMDL() throws(StatusError) -> MDL {
        guard code.method == .inDirect || code.method == .outDirect else { throw wrongMethod("an MDL") }
        guard let mdl else { throw tooSmall("output", 0, 1) }
        return mdl
    }

    /// Which way the bytes of a direct request go. ``Status/invalidParameter`` for another method.
    public func direction() throws(StatusError) -> TransferPlan.Direction {
        switch code.method {
        case .inDirect: return .toDevice
        case .outDirect: return .fromDevice
        default: throw StatusError(.invalidParameter, "method \(code.method) has no direction")
        }
    }

    /// The caller's own addresses, for the method neither only: good in the caller's context, checked by nobody
    /// (WdfRequestRetrieveUnsafeUserInputBuffer). ``Status/invalidDeviceRequest`` for another method.
    public func unsafeUserBuffers() throws(StatusError) -> (
        input: UnsafeRawBufferPointer, output: UnsafeMutableRawBufferPointer
    ) {
        guard code.method == .neither else { throw wrongMethod("addresses of the caller") }
        return (input, output)
    }

    /// Ends the request (WdfRequestCompleteWithInformation): `information` bytes of a buffered output are copied to the
    /// caller now. More than the output holds is a defect of the driver; a failure tells 0, whatever is said.
    public consuming func complete(_ status: Status, information: Int = 0) {
        precondition(!status.isSuccess || output.isEmpty || information <= output.count)
        if status.isSuccess, code.method == .buffered, let buffer, let to = output.baseAddress {
            chw_copy(to, buffer.base, min(information, output.count))
        }
        end(status, status.isSuccess ? information : 0)
    }

    private func end(_ status: Status, _ information: Int) {
        if let mdl, mdl.state == .locked { try? mdl.unlockPages() }
        if let buffer { try? memory.free(buffer) }
        outcome.status = status
        outcome.information = information
    }

    deinit {
        // What was completed has a status.
        if outcome.status == nil { end(.unsuccessful, 0) }
    }

    private func tooSmall(_ what: String, _ count: Int, _ minimum: Int) -> StatusError {
        StatusError(.bufferTooSmall, "the \(what) has \(count) bytes, and takes \(max(1, minimum))")
    }

    private func wrongMethod(_ what: String) -> StatusError {
        StatusError(.invalidDeviceRequest, "method \(code.method) has not \(what)")
    }
}
