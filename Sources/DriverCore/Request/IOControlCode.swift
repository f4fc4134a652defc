/// How the buffers of an I/O control request reach the driver (the low two bits of a control code).
public enum TransferMethod: UInt32, CaseIterable, Sendable {
    /// METHOD_BUFFERED: one system buffer for both directions, copied in before and out after.
    case buffered = 0
    /// METHOD_IN_DIRECT: the input is copied, the output buffer is locked and its data is for the device.
    case inDirect = 1
    /// METHOD_OUT_DIRECT: the input is copied, the output buffer is locked for the device to fill.
    case outDirect = 2
    /// METHOD_NEITHER: the caller's addresses as they are.
    case neither = 3
}

/// The number of an I/O control request (CTL_CODE): device type, access, function and method.
public struct IOControlCode: Hashable, Sendable {
    /// What the caller must have opened the file for.
    public enum Access: UInt32, Sendable {
        /// Anything will do (FILE_ANY_ACCESS).
        case any = 0
        /// Reading (FILE_READ_DATA).
        case read = 1
        /// Writing (FILE_WRITE_DATA).
        case write = 2
        /// Both.
        case readWrite = 3
    }

    /// The 32 bits.
    public let rawValue: UInt32

    /// Takes a number apart; every number is some code.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Makes a code of a vendor's own: types from 0x8000, functions from 0x800. nil outside those and their 16 and 12 bits.
    public init?(deviceType: UInt32, function: UInt32, method: TransferMethod, access: Access) {
        guard (0x8000...0xffff).contains(deviceType) || deviceType == Self.unknownDevice,
            (0x800...0xfff).contains(function)
        else { return nil }
        rawValue = deviceType << 16 | access.rawValue << 14 | function << 2 | method.rawValue
    }

    /// FILE_DEVICE_UNKNOWN, which drivers of no class use.
    public static let unknownDevice: UInt32 = 0x22

    /// Bits 31…16.
    public var deviceType: UInt32 { rawValue >> 16 }
    /// Bits 13…2.
    public var function: UInt32 { rawValue >> 2 & 0xfff }
    /// Bits 1…0.
    public var method: TransferMethod { TransferMethod(rawValue: rawValue & 3) ?? .buffered }
    /// Bits 15…14.
    public var access: Access { Access(rawValue: rawValue >> 14 & 3) ?? .any }
}
