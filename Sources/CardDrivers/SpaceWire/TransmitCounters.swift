/// What went through the transmitter since the device was added.
struct TransmitCounters {
    var requests: UInt64 = 0
    var acceptedBytes: UInt64 = 0
    var sentBytes: UInt64 = 0
    var sentRequests: UInt64 = 0
    var lostBytes: UInt64 = 0
    var bufferedRequests: UInt64 = 0
    var directRequests: UInt64 = 0
    var timeouts: UInt64 = 0
    var recoveries: UInt64 = 0
    var cardErrors: UInt64 = 0
}
