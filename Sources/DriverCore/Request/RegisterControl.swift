import CHardware
public import PCIBus

/// The control codes of the original driver, by which a program reaches words of BAR0: an offset is set, then the word there
/// is written or read; and where BAR0 lies.
///
/// The offset belongs to an open file: two programs do not disturb each other.
public struct RegisterControl: @unchecked Sendable {  // the register space does its own locking
    /// The codes, in the order of their functions from 0x800 on, all METHOD_BUFFERED.
    public enum Function: UInt32, CaseIterable, Sendable {
        /// 4 bytes in: the offset in the window.
        case setOffset = 0x800
        /// 4 bytes in: the word to write.
        case writeRegister
        /// 4 bytes out: the word read.
        case readRegister
        /// 4 bytes out: the low word of BAR0's address. ``Status/bufferTooSmall`` for an address that needs more.
        case readAddress
        /// 8 bytes out: the address of BAR0.
        case readWholeAddress

        /// The number under which Windows programs would ask for it.
        public var code: IOControlCode {
            let access: IOControlCode.Access =
                switch self {
                case .setOffset: .any
                case .writeRegister: .write
                case .readRegister, .readAddress, .readWholeAddress: .read
                }
            return IOControlCode(rawValue: IOControlCode.unknownDevice << 16 | access.rawValue << 14 | rawValue << 2)
        }
    }

    /// The registers.
    public let registers: UnsafeMutablePointer<RegisterSpace>
    /// The window of BAR0 that offsets count in.
    public let window: Range<UInt64>
    /// Where BAR0 lies.
    public let address: PhysicalAddress

    /// Serves the window of a card's BAR0.
    public init(registers: UnsafeMutablePointer<RegisterSpace>, window: Range<UInt64>, address: PhysicalAddress) {
        self.registers = registers
        self.window = window
        self.address = address
    }

    /// Carries a request out (EvtIoDeviceControl); `offset` is that of the open file. Each path ends the request once:
    /// retrieve, check, use, complete. Answers the fault of a register access that was refused.
    public func perform(_ request: consuming IOControlRequest, offset: inout UInt64) -> RegisterFault {
        guard let function = Function.allCases.first(where: { [code = request.code] in $0.code == code }) else {
            request.complete(.invalidDeviceRequest)
            return .none
        }
        do throws(StatusError) {
            switch function {
            case .setOffset:
                let wanted = UInt64(try request.inputBuffer(minimum: 4).loadUnaligned(as: UInt32.self))
                guard wanted & 3 == 0 else {
                    request.complete(.invalidParameter)
                    return .misaligned
                }
                let byteCount = window.upperBound - window.lowerBound
                guard byteCount >= 4, wanted <= byteCount - 4 else {
                    request.complete(.invalidParameter)
                    return .outOfRange
                }
                offset = wanted
                request.complete(.success, information: 4)
                return .none
            case .writeRegister:
                let value = try request.inputBuffer(minimum: 4).loadUnaligned(as: UInt32.self)
                let fault = registers.pointee.write(
                    bar: 0,
                    offset: window.lowerBound + offset,
                    width: .long,
                    UInt64(value)
                )
                request.complete(fault == .none ? .success : .invalidParameter, information: 4)
                return fault
            case .readRegister:
                let output = try request.outputBuffer(minimum: 4)
                var value: UInt64 = 0
                let fault = registers.pointee.read(
                    bar: 0,
                    offset: window.lowerBound + offset,
                    width: .long,
                    into: &value
                )
                output.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
                request.complete(fault == .none ? .success : .invalidParameter, information: 4)
                return fault
            case .readAddress:
                let output = try request.outputBuffer(minimum: 4)
                guard let low = UInt32(exactly: address.value) else {
                    request.complete(.bufferTooSmall)
                    return .none
                }
                output.storeBytes(of: low, as: UInt32.self)
                request.complete(.success, information: 4)
                return .none
            case .readWholeAddress:
                try request.outputBuffer(minimum: 8).storeBytes(of: address.value, as: UInt64.self)
                request.complete(.success, information: 8)
                return .none
            }
        } catch {
            request.complete(error.status)
            return .none
        }
    }
}
