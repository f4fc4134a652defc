import CHardware
import DriverCore
import Testing

@Suite struct StatusTests {
    static let table: [(Status, UInt32, String, CInt)] = [
        (.success, 0x0000_0000, "STATUS_SUCCESS", 0),
        (.pending, 0x0000_0103, "STATUS_PENDING", 0),
        (.deviceBusy, 0x8000_0011, "STATUS_DEVICE_BUSY", EAGAIN),
        (.unsuccessful, 0xc000_0001, "STATUS_UNSUCCESSFUL", EIO),
        (.invalidParameter, 0xc000_000d, "STATUS_INVALID_PARAMETER", EINVAL),
        (.invalidDeviceRequest, 0xc000_0010, "STATUS_INVALID_DEVICE_REQUEST", EOPNOTSUPP),
        (.accessDenied, 0xc000_0022, "STATUS_ACCESS_DENIED", EACCES),
        (.bufferTooSmall, 0xc000_0023, "STATUS_BUFFER_TOO_SMALL", EINVAL),
        (.insufficientResources, 0xc000_009a, "STATUS_INSUFFICIENT_RESOURCES", ENOMEM),
        (.deviceDataError, 0xc000_009c, "STATUS_DEVICE_DATA_ERROR", EIO),
        (.deviceNotConnected, 0xc000_009d, "STATUS_DEVICE_NOT_CONNECTED", ENODEV),
        (.deviceNotReady, 0xc000_00a3, "STATUS_DEVICE_NOT_READY", EAGAIN),
        (.ioTimeout, 0xc000_00b5, "STATUS_IO_TIMEOUT", ETIMEDOUT),
        (.notSupported, 0xc000_00bb, "STATUS_NOT_SUPPORTED", EOPNOTSUPP),
        (.internalError, 0xc000_00e5, "STATUS_INTERNAL_ERROR", EIO),
        (.cancelled, 0xc000_0120, "STATUS_CANCELLED", EINTR),
        (.deviceConfigurationError, 0xc000_0182, "STATUS_DEVICE_CONFIGURATION_ERROR", ENXIO),
        (.invalidDeviceState, 0xc000_0184, "STATUS_INVALID_DEVICE_STATE", EBUSY),
        (.ioDeviceError, 0xc000_0185, "STATUS_IO_DEVICE_ERROR", EIO),
        (.invalidBufferSize, 0xc000_0206, "STATUS_INVALID_BUFFER_SIZE", EMSGSIZE),
        (.requestAborted, 0xc000_0240, "STATUS_REQUEST_ABORTED", ECANCELED),
        (.accessViolation, 0xc000_0005, "STATUS_ACCESS_VIOLATION", EFAULT),
        (.moreProcessingRequired, 0xc000_0016, "STATUS_MORE_PROCESSING_REQUIRED", EIO),
        (.tooFragmented, 0xc020_020a, "STATUS_WDF_TOO_FRAGMENTED", EMSGSIZE),
        (.tooManyTransfers, 0xc020_0213, "STATUS_WDF_TOO_MANY_TRANSFERS", EMSGSIZE),
        (.notEnoughMapRegisters, 0xc020_0214, "STATUS_WDF_NOT_ENOUGH_MAP_REGISTERS", ENOBUFS),
    ]

    @Test(arguments: table)
    func `a status has the value and the name of ntstatus.h or wdfstatus.h, and an errno`(
        status: Status,
        value: UInt32,
        name: String,
        code: CInt
    ) {
        #expect(status.rawValue == value && status.name == name && status.code == code)
        #expect(status.isSuccess == (value < 0x8000_0000))
        #expect(status.isSuccess == (code == 0))
    }

    @Test func `a value without a name is shown as a number, and is EIO if it is an error`() {
        #expect(Status(rawValue: 0xc0de_0001).name == "0xc0de0001" && Status(rawValue: 0xc0de_0001).code == EIO)
        #expect(Status(rawValue: 0x4000_0000).code == 0)
        #expect("\(StatusError(.ioTimeout, "it took too long"))" == "it took too long (STATUS_IO_TIMEOUT)")
    }
}
