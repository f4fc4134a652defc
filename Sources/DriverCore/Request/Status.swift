import CHardware

/// How a request ended: an NTSTATUS value, its name and the errno a file operation returns for it.
///
/// The values are those of ntstatus.h and wdfstatus.h, so that a trace reads like one of a Windows driver.
public struct Status: Hashable, Sendable {
    /// The NTSTATUS value.
    public let rawValue: UInt32

    /// Wraps a value.
    @inlinable @_noLocks public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// NT_SUCCESS: the severity bits say success or information.
    @inlinable public var isSuccess: Bool { @_noLocks get { rawValue < 0x8000_0000 } }

    /// The request was carried out.
    @inlinable public static var success: Status { @_noLocks get { Status(rawValue: 0) } }
    /// The request is in the driver's hands.
    @inlinable public static var pending: Status { @_noLocks get { Status(rawValue: 0x0000_0103) } }
    /// Failed for a reason that has no name of its own; also what a dropped request answers.
    @inlinable public static var unsuccessful: Status { @_noLocks get { Status(rawValue: 0xc000_0001) } }
    /// Memory that is not there, or may not be used in this way.
    @inlinable public static var accessViolation: Status { @_noLocks get { Status(rawValue: 0xc000_0005) } }
    /// More is to be done before the operation is complete: the framework has begun it already.
    @inlinable public static var moreProcessingRequired: Status { @_noLocks get { Status(rawValue: 0xc000_0016) } }
    /// A buffer lies on more pieces than one transfer can have.
    @inlinable public static var tooFragmented: Status { @_noLocks get { Status(rawValue: 0xc020_020a) } }
    /// One transfer was asked for, and more would be needed.
    @inlinable public static var tooManyTransfers: Status { @_noLocks get { Status(rawValue: 0xc020_0213) } }
    /// More map registers were reserved or needed than the transaction has.
    @inlinable public static var notEnoughMapRegisters: Status { @_noLocks get { Status(rawValue: 0xc020_0214) } }
    /// An argument has no meaning here.
    @inlinable public static var invalidParameter: Status { @_noLocks get { Status(rawValue: 0xc000_000d) } }
    /// The kind of request does not fit the device.
    @inlinable public static var invalidDeviceRequest: Status { @_noLocks get { Status(rawValue: 0xc000_0010) } }
    /// The operation is not allowed on this object.
    @inlinable public static var accessDenied: Status { @_noLocks get { Status(rawValue: 0xc000_0022) } }
    /// A buffer is shorter than what has to fit.
    @inlinable public static var bufferTooSmall: Status { @_noLocks get { Status(rawValue: 0xc000_0023) } }
    /// A nonblocking request would have to wait.
    @inlinable public static var deviceBusy: Status { @_noLocks get { Status(rawValue: 0x8000_0011) } }
    /// Memory, map registers, ring entries: there are not enough.
    @inlinable public static var insufficientResources: Status { @_noLocks get { Status(rawValue: 0xc000_009a) } }
    /// The card reported bad data.
    @inlinable public static var deviceDataError: Status { @_noLocks get { Status(rawValue: 0xc000_009c) } }
    /// The card is gone.
    @inlinable public static var deviceNotConnected: Status { @_noLocks get { Status(rawValue: 0xc000_009d) } }
    /// The card is there but not in a state to answer.
    @inlinable public static var deviceNotReady: Status { @_noLocks get { Status(rawValue: 0xc000_00a3) } }
    /// Time ran out.
    @inlinable public static var ioTimeout: Status { @_noLocks get { Status(rawValue: 0xc000_00b5) } }
    /// Not offered by this device.
    @inlinable public static var notSupported: Status { @_noLocks get { Status(rawValue: 0xc000_00bb) } }
    /// The framework met a state it holds impossible.
    @inlinable public static var internalError: Status { @_noLocks get { Status(rawValue: 0xc000_00e5) } }
    /// The request was cancelled.
    @inlinable public static var cancelled: Status { @_noLocks get { Status(rawValue: 0xc000_0120) } }
    /// The resources of the card are not what the driver needs.
    @inlinable public static var deviceConfigurationError: Status { @_noLocks get { Status(rawValue: 0xc000_0182) } }
    /// The device is in a state in which this is not possible.
    @inlinable public static var invalidDeviceState: Status { @_noLocks get { Status(rawValue: 0xc000_0184) } }
    /// The card failed the transfer.
    @inlinable public static var ioDeviceError: Status { @_noLocks get { Status(rawValue: 0xc000_0185) } }
    /// Taken back by a command before it was carried out.
    @inlinable public static var requestAborted: Status { @_noLocks get { Status(rawValue: 0xc000_0240) } }
    /// The length does not suit the device.
    @inlinable public static var invalidBufferSize: Status { @_noLocks get { Status(rawValue: 0xc000_0206) } }

    private static let table: [Status: (name: String, code: CInt)] = [
        .success: ("STATUS_SUCCESS", 0),
        .pending: ("STATUS_PENDING", 0),
        .unsuccessful: ("STATUS_UNSUCCESSFUL", EIO),
        .accessViolation: ("STATUS_ACCESS_VIOLATION", EFAULT),
        .moreProcessingRequired: ("STATUS_MORE_PROCESSING_REQUIRED", EIO),
        .tooFragmented: ("STATUS_WDF_TOO_FRAGMENTED", EMSGSIZE),
        .tooManyTransfers: ("STATUS_WDF_TOO_MANY_TRANSFERS", EMSGSIZE),
        .notEnoughMapRegisters: ("STATUS_WDF_NOT_ENOUGH_MAP_REGISTERS", ENOBUFS),
        .invalidParameter: ("STATUS_INVALID_PARAMETER", EINVAL),
        .invalidDeviceRequest: ("STATUS_INVALID_DEVICE_REQUEST", EOPNOTSUPP),
        .accessDenied: ("STATUS_ACCESS_DENIED", EACCES),
        .bufferTooSmall: ("STATUS_BUFFER_TOO_SMALL", EINVAL),
        .deviceBusy: ("STATUS_DEVICE_BUSY", EAGAIN),
        .insufficientResources: ("STATUS_INSUFFICIENT_RESOURCES", ENOMEM),
        .deviceDataError: ("STATUS_DEVICE_DATA_ERROR", EIO),
        .deviceNotConnected: ("STATUS_DEVICE_NOT_CONNECTED", ENODEV),
        .deviceNotReady: ("STATUS_DEVICE_NOT_READY", EAGAIN),
        .ioTimeout: ("STATUS_IO_TIMEOUT", ETIMEDOUT),
        .notSupported: ("STATUS_NOT_SUPPORTED", EOPNOTSUPP),
        .internalError: ("STATUS_INTERNAL_ERROR", EIO),
        .cancelled: ("STATUS_CANCELLED", EINTR),
        .deviceConfigurationError: ("STATUS_DEVICE_CONFIGURATION_ERROR", ENXIO),
        .invalidDeviceState: ("STATUS_INVALID_DEVICE_STATE", EBUSY),
        .ioDeviceError: ("STATUS_IO_DEVICE_ERROR", EIO),
        .requestAborted: ("STATUS_REQUEST_ABORTED", ECANCELED),
        .invalidBufferSize: ("STATUS_INVALID_BUFFER_SIZE", EMSGSIZE),
    ]

    /// The name in ntstatus.h, or the value in hexadecimal. Not for the data path.
    public var name: String { Self.table[self]?.name ?? "0x" + String(rawValue, radix: 16) }

    /// The errno that names the class of the failure; 0 for success. Not for the data path.
    public var code: CInt { Self.table[self]?.code ?? (isSuccess ? 0 : EIO) }
}

/// A status thrown on the control path, with a sentence for a person.
public struct StatusError: Error, Sendable, CustomStringConvertible {
    /// The class of the failure.
    public var status: Status
    /// What failed, on which card and offset, and what to do.
    public var sentence: String

    /// Makes an error.
    public init(_ status: Status, _ sentence: String) {
        self.status = status
        self.sentence = sentence
    }

    /// `sentence (STATUS_…)`.
    public var description: String { "\(sentence) (\(status.name))" }
}
