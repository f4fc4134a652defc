import CHardware
public import PCIBus

/// What a file name in `regs/` came to.
public enum ParsedRegisterName: Hashable, Sendable {
    /// The register: its offset in the window and how many bytes one access moves.
    case register(offset: UInt64, width: AccessWidth)
    /// The errno of the look-up.
    case failure(CInt)
}

/// The names that reach any offset of a window: `0x20010`, 32 bits, or with a width, `0x20010.b`, `.w`, `.l`, `.q`.
public enum RegisterName {
    /// Reads a file name for a window of `byteCount` bytes. Neither allocates nor locks.
    ///
    /// Fails with ENOENT for what is no number, so that a mistyped register name is a file that does not exist; EINVAL for
    /// an ambiguous number and for an offset that is not a multiple of the width; ERANGE for what lies outside.
    @_noLocks public static func parse(_ name: UnsafeRawBufferPointer, byteCount: UInt64) -> ParsedRegisterName {
        var range = Number.ByteRange(lower: 0, upper: name.count)
        var width = AccessWidth.long
        if name.count >= 2, name[name.count &- 2] == UInt8(ascii: ".") {
            switch name[name.count &- 1] {
            case UInt8(ascii: "b"): width = .byte
            case UInt8(ascii: "w"): width = .word
            case UInt8(ascii: "l"): width = .long
            case UInt8(ascii: "q"): width = .quad
            default: return .failure(ENOENT)
            }
            range.upper &-= 2
        }
        switch Number.digits(name, range, limit: .max) {
        case .failure(.tooLarge): return .failure(ERANGE)
        case .failure(.ambiguousOctal): return .failure(EINVAL)
        case .failure: return .failure(ENOENT)
        case .value(let offset):
            let bytes = byteCountOfAccess(width)
            guard offset & (bytes &- 1) == 0 else { return .failure(EINVAL) }
            guard byteCount >= bytes, offset <= byteCount &- bytes else { return .failure(ERANGE) }
            return .register(offset: offset, width: width)
        }
    }

    @_noLocks private static func byteCountOfAccess(_ width: AccessWidth) -> UInt64 {
        switch width {
        case .byte: 1
        case .word: 2
        case .long: 4
        case .quad: 8
        }
    }
}
