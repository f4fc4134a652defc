import CardFS
import Glibc
import PCIBus
import Testing

@Suite struct RegisterNameTests {
    @Test(arguments: [
        ("0x20010", 0x20010, AccessWidth.long), ("0x20010.b", 0x20010, .byte), ("0x20011.b", 0x20011, .byte),
        ("0x20012.w", 0x20012, .word), ("0x20014.l", 0x20014, .long), ("0x20018.q", 0x20018, .quad), ("0", 0, .long),
        ("131088", 131088, .long), ("0b100", 4, .long), ("0o10.q", 8, .quad), ("0x3fffc", 0x3fffc, .long),
        ("0x3ffff.b", 0x3ffff, .byte), ("0x3fff8.q", 0x3fff8, .quad),
    ])
    func `an offset is reached by any way to write it, with a width`(name: String, offset: UInt64, width: AccessWidth) {
        let parsed = withBytes(name) { RegisterName.parse($0, byteCount: 0x40000) }
        #expect(parsed == .register(offset: offset, width: width))
    }

    @Test(arguments: [
        ("", ENOENT), ("control", ENOENT), (" 0x10", ENOENT), ("0x10 ", ENOENT), ("0x10\n", ENOENT), ("-4", ENOENT),
        ("0x10.x", ENOENT), ("0x10.", ENOENT), (".b", ENOENT), ("0x10.bb", ENOENT), ("0x", ENOENT), ("0x10.B", ENOENT),
        ("010", EINVAL), ("0x11", EINVAL), ("0x12.l", EINVAL), ("0x11.w", EINVAL), ("0x14.q", EINVAL),
        ("0x40001", EINVAL),
        ("0x40000", ERANGE), ("0x40000.b", ERANGE), ("0x40000.q", ERANGE), ("0xfffffffffffffffc", ERANGE),
        ("0x10000000000000000", ERANGE), ("18446744073709551616", ERANGE),
    ])
    func `a name that is no legal offset has the errno of its fault`(name: String, code: CInt) {
        #expect(withBytes(name) { RegisterName.parse($0, byteCount: 0x40000) } == .failure(code))
    }

    @Test func `a window smaller than the access has no such register`() {
        #expect(withBytes("0.q") { RegisterName.parse($0, byteCount: 4) } == .failure(ERANGE))
        #expect(withBytes("0.b") { RegisterName.parse($0, byteCount: 0) } == .failure(ERANGE))
    }
}
