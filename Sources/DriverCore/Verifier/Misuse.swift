/// What a driver can do wrong: the rules of Driver Verifier's DMA checking (bug check 0xE6, DRIVER_VERIFIER_DMA_VIOLATION) and
/// of the framework's own (bug check 0x10D, WDF_VIOLATION), by their codes.
///
/// Where Windows stops the machine, the call is refused with the documented status and nothing changes; the ``Verifier`` tells
/// of it. Some cannot be written down here: ``ruledOut`` says what keeps them from compiling.
public enum Misuse: String, CaseIterable, Sendable {
    case flushPastRegisters, outOfRegisters, commonBufferFreedTwice, channelFreedTwice, registersFreedTwice,
        listFreedTwice
    case adapterPutWithCommonBuffers, adapterPutWithChannel, adapterPutWithRegisters, adapterPutWithLists
    case secondChannel, tooManyRegisters, notFlushed, notLocked, overrun, registersFreedWhileMapped, adapterPutTwice
    case levelTooHigh, levelNotDispatch, tooManyRegistersForList, flushOfUnmappedBuffer, adapterGone, noAdapter
    case addressNotInMDL, alreadyMapped, rangePastMDL, notAligned, flushOfUnmappedRegisters, zeroLength
    case noSystemAddress, flushOfUnfinishedChannel, bufferTooSmall, unknownVersion, iommuFault
    case completedWhileQueued, noParameter, wrongHandle, informationTooLarge, transactionState, requestDropped
    case levelNotRestored

    /// The bug check and its first parameter; for 0x00 and 0x1F of 0xE6 and 0x06 of 0x10D also which of the cases it is.
    public var code: (bugCheck: UInt32, parameter: UInt32, detail: UInt32) {
        switch self {
        case .flushPastRegisters: (0xe6, 0x00, 1)
        case .outOfRegisters: (0xe6, 0x00, 2)
        case .commonBufferFreedTwice: (0xe6, 0x03, 0)
        case .channelFreedTwice: (0xe6, 0x04, 0)
        case .registersFreedTwice: (0xe6, 0x05, 0)
        case .listFreedTwice: (0xe6, 0x06, 0)
        case .adapterPutWithCommonBuffers: (0xe6, 0x07, 0)
        case .adapterPutWithChannel: (0xe6, 0x08, 0)
        case .adapterPutWithRegisters: (0xe6, 0x09, 0)
        case .adapterPutWithLists: (0xe6, 0x0a, 0)
        case .secondChannel: (0xe6, 0x0b, 0)
        case .tooManyRegisters: (0xe6, 0x0c, 0)
        case .notFlushed: (0xe6, 0x0d, 0)
        case .notLocked: (0xe6, 0x0e, 0)
        case .overrun: (0xe6, 0x0f, 0)
        case .registersFreedWhileMapped: (0xe6, 0x10, 0)
        case .adapterPutTwice: (0xe6, 0x11, 0)
        case .levelTooHigh: (0xe6, 0x13, 0)
        case .levelNotDispatch: (0xe6, 0x14, 0)
        case .tooManyRegistersForList: (0xe6, 0x15, 0)
        case .flushOfUnmappedBuffer: (0xe6, 0x16, 0)
        case .adapterGone: (0xe6, 0x18, 0)
        case .noAdapter: (0xe6, 0x19, 0)
        case .addressNotInMDL: (0xe6, 0x1b, 0)
        case .alreadyMapped: (0xe6, 0x1d, 0)
        case .rangePastMDL: (0xe6, 0x1f, 3)
        case .notAligned: (0xe6, 0x1f, 4)
        case .flushOfUnmappedRegisters: (0xe6, 0x20, 0)
        case .zeroLength: (0xe6, 0x21, 0)
        case .noSystemAddress: (0xe6, 0x22, 0)
        case .flushOfUnfinishedChannel: (0xe6, 0x23, 0)
        case .bufferTooSmall: (0xe6, 0x24, 0)
        case .unknownVersion: (0xe6, 0x25, 0)
        case .iommuFault: (0xe6, 0x26, 0)
        case .completedWhileQueued: (0x10d, 0x3, 0)
        case .noParameter: (0x10d, 0x4, 0)
        case .wrongHandle: (0x10d, 0x5, 0)
        case .informationTooLarge: (0x10d, 0x6, 4)
        case .transactionState: (0x10d, 0x8, 0)
        case .requestDropped: (0x10d, 0xa, 0)
        case .levelNotRestored: (0x10d, 0xe, 0)
        }
    }

    /// What keeps it from being written, where something does.
    public var ruledOut: String? {
        switch self {
        case .noAdapter: "an adapter is no optional: there is none that could be nil"
        case .noParameter: "parameters that must be there are no optionals"
        case .unknownVersion: "DeviceDescription has one version, which the compiler knows"
        case .noSystemAddress: "an MDL cannot be made of an address without memory behind it"
        case .flushOfUnfinishedChannel: "a channel cannot be cancelled while the card has it: there is no such call"
        default: nil
        }
    }

    /// `0xE6/0x1F/3`: as Windows would show it.
    public var codeText: String {
        let code = self.code
        func hex(_ value: UInt32, _ digits: Int) -> String {
            let text = String(value, radix: 16, uppercase: true)
            return "0x" + String(repeating: "0", count: max(0, digits - text.count)) + text
        }
        return hex(code.bugCheck, 2) + "/" + hex(code.parameter, 2) + (code.detail == 0 ? "" : "/\(code.detail)")
    }
}
