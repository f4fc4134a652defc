import CFuse
import CardFS
import DriverCore
import Fuzz
import Glibc
import Testing

/// Random and mutated input through the files: a refusal has the errno of the rules and has changed nothing, what is accepted
/// is what another reading of the text says, and nothing ends the session.
@Suite(.timeLimit(.minutes(30))) struct InputFuzzTests {
    let kernel: FakeKernel

    init() throws {
        kernel = try FakeKernel()
        _ = try kernel.initialize()
    }

    /// Writes once through an open file of its own. The bytes taken, or the errno as a negative number.
    private func writeOnce(_ node: UInt64, _ bytes: [UInt8]) throws -> Int {
        let out = try kernel.openReply(node, O_WRONLY).load(fuse_open_out.self)
        let file = FakeKernel.File(node: node, handle: out.fh, openFlags: out.open_flags)
        let written = try kernel.write(file, bytes)
        try kernel.close(file)
        return written
    }

    private func readOnce(_ node: UInt64) throws -> String {
        let out = try kernel.openReply(node, O_RDONLY).load(fuse_open_out.self)
        let file = FakeKernel.File(node: node, handle: out.fh, openFlags: out.open_flags)
        let text = try kernel.read(file, 4096).text
        try kernel.close(file)
        return text
    }

    /// Something that is a number, a masked store or nearly one.
    private func text(_ fuzz: inout Fuzz) -> [UInt8] {
        var text = fuzz.numberText(fuzz.number())
        if fuzz.once(in: 3) { text += ":" + fuzz.numberText(fuzz.number()) }
        if fuzz.once(in: 4) { text = fuzz.pick([" ", "\t", "  "]) + text }
        if fuzz.once(in: 4) { text += fuzz.pick([" ", "\t"]) }
        if !fuzz.once(in: 3) { text += "\n" }
        if fuzz.once(in: 100) { text = String(repeating: fuzz.pick(["0", "7", "x", " "]), count: fuzz.below(5000)) }
        var bytes = Array(text.utf8)
        if fuzz.once(in: 2) { bytes = fuzz.mutated(bytes) }
        // Whether a carriage return belongs to the end of the line is not the question here.
        return bytes.contains(0x0d) ? [] : bytes
    }

    @Test(arguments: [("scratch", 4), ("0x20010.b", 1), ("0x20020.w", 2), ("0x20030", 4), ("0x20040.q", 8)])
    func `a register takes what is a number or a masked one by the rules, and nothing else`(name: String, size: Int)
        throws
    {
        var fuzz = Fuzz()
        let node = try kernel.walk("regs/\(name)").nodeid
        let limit = size == 8 ? UInt64.max : 1 << UInt64(8 * size) - 1
        var value: UInt64 = 0
        #expect(try writeOnce(node, [UInt8(ascii: "0")]) == 1)
        for _ in 0..<Fuzz.rounds(400) {
            let bytes = text(&fuzz)
            let what = "seed \(fuzz.seed), \(name): '\(Fuzz.quoted(bytes))'"
            let result = try writeOnce(node, bytes)
            switch NumberRules.line(bytes, limit: limit, isStore: true) {
            case .value(let new):
                value = new
                #expect(result == bytes.count, "\(what)")
            case .masked(let data, let mask):
                value = value & ~mask | data & mask
                #expect(result == bytes.count, "\(what)")
            case .nothing: #expect(result == 0, "\(what)")
            case .refused(let codes): #expect(codes.contains(CInt(-result)), "\(what): \(result)")
            }
            let digits = String(value, radix: 16)
            let expected = "0x" + String(repeating: "0", count: 2 * size - digits.utf8.count) + digits + "\n"
            try #require(try readOnce(node) == expected, "\(what)")
        }
    }

    @Test func `the offset takes a multiple of 4 in the window, and nothing else`() throws {
        var fuzz = Fuzz()
        let node = try kernel.walk("offset").nodeid
        var offset: UInt64 = 0
        for _ in 0..<Fuzz.rounds(400) {
            var bytes = text(&fuzz)
            if fuzz.once(in: 2) { bytes = Array(fuzz.numberText(UInt64(fuzz.below(0x2100))).utf8) }
            let what = "seed \(fuzz.seed): '\(Fuzz.quoted(bytes))'"
            let result = try writeOnce(node, bytes)
            switch NumberRules.line(bytes, limit: .max, isStore: false) {
            case .value(let new):
                let isInside = new < 0x2000
                if new % 4 == 0, isInside {
                    offset = new
                    #expect(result == bytes.count, "\(what): \(result)")
                } else {
                    #expect(
                        result == -Int(isInside ? EINVAL : ERANGE) || new % 4 != 0 && result < 0,
                        "\(what): \(result)"
                    )
                }
            case .nothing: #expect(result == 0, "\(what)")
            case .refused(let codes): #expect(codes.contains(CInt(-result)), "\(what): \(result)")
            case .masked: Issue.record("\(what)")
            }
            let digits = String(offset, radix: 16)
            let expected = "0x" + String(repeating: "0", count: 8 - digits.utf8.count) + digits + "\n"
            try #require(try readOnce(node) == expected, "\(what)")
        }
    }

    // MARK: Names

    @Test func `a name in regs is an offset by the rules, a register, or no file`() throws {
        var fuzz = Fuzz()
        let folder = try kernel.walk("regs").nodeid
        let size = try kernel.walk("resource0").attr.size
        let known = kernel.fileSystem.device.registerMap.registers.map(\.name)
        for _ in 0..<Fuzz.rounds(1500) {
            let near = fuzz.once(in: 2) ? UInt64(fuzz.below(Int(size) + 64)) : fuzz.number()
            var name = Array((fuzz.once(in: 8) ? fuzz.pick(known) : fuzz.numberText(near)).utf8)
            if !fuzz.once(in: 3) { name += Array(fuzz.pick([".b", ".w", ".l", ".q"]).utf8) }
            if fuzz.once(in: 2) { name = fuzz.mutated(name) }
            name.removeAll { $0 == 0 || $0 == UInt8(ascii: "/") }
            let what = "seed \(fuzz.seed): '\(Fuzz.quoted(name))'"
            let reply = try kernel.call(FUSE_LOOKUP, folder, name + [0])
            let isKnown = known.contains { Array($0.utf8) == name }
            if isKnown || name.isEmpty || name == [0x2e] || name == [0x2e, 0x2e] {
                if isKnown { #expect(reply.error == 0, "\(what)") }
                continue
            }
            let widths: [UInt8: UInt64] = [0x62: 1, 0x77: 2, 0x6c: 4, 0x71: 8]
            let hasWidth = name.count > 1 && name[name.count - 2] == 0x2e
            let width = hasWidth ? widths[name[name.count - 1]] : 4
            let digits = String(String.UnicodeScalarView(name.dropLast(hasWidth ? 2 : 0).map { Unicode.Scalar($0) }))
            let allowed: Set<CInt>
            switch NumberRules.number(digits[...], limit: .max) {
            case _ where width == nil: allowed = [ENOENT]
            case .value(let offset) where offset % (width ?? 1) != 0: allowed = [EINVAL]
            case .value(let offset): allowed = offset < size ? [0] : [ERANGE]
            // A leading zero is a number that can be read in two ways.
            case .refused(let codes) where codes == [EINVAL]:
                let isDecimal = !digits.isEmpty && digits.utf8.allSatisfy { (0x30...0x39).contains($0) }
                allowed = [isDecimal ? EINVAL : ENOENT]
            case .refused(let codes): allowed = codes
            default: allowed = []
            }
            // A name that is too long for any file may be refused as that.
            #expect(
                allowed.contains(reply.error) || name.count > 255 && reply.error == ENAMETOOLONG,
                "\(what): \(reply.error)"
            )
            guard reply.error == 0, let width else { continue }
            let text = try readOnce(reply.load(fuse_entry_out.self).nodeid)
            #expect(text.utf8.count == Int(3 + 2 * width) && text.hasPrefix("0x") && text.hasSuffix("\n"), "\(what)")
        }
    }

    // MARK: Words

    @Test(arguments: [
        ("dma/framing", ["stream", "packet"]), ("dma/engine", ["sg", "common", "system"]),
        ("sim/wire", ["loopback", "sink", "source"]),
        ("sim/rate", ["unlimited", "40000000", "40M", "40MB/s", "1 k", "1000G", "1001G", "0"]),
        ("sim/link", ["up", "down"]), ("sim/firmware", ["1.1", "65535.0", "65536.1", "1.", "1.1.1"]),
        ("trace", ["on", "off"]),
    ])
    func `a file of words takes its words, and a refusal leaves it as it was`(path: String, words: [String]) throws {
        var fuzz = Fuzz()
        let node = try kernel.walk(path).nodeid
        // A trace is read line by line for as long as it lasts, and the state of a link is the card's.
        let isReadBack = path != "trace" && path != "sim/link"
        var before = isReadBack ? try readOnce(node) : ""
        for _ in 0..<Fuzz.rounds(150) {
            var bytes = Array(fuzz.pick(words).utf8) + (fuzz.once(in: 2) ? [0x0a] : [])
            if !fuzz.once(in: 3) { bytes = fuzz.mutated(bytes) }
            let what = "seed \(fuzz.seed), \(path): '\(Fuzz.quoted(bytes))'"
            let result = try writeOnce(node, bytes)
            if result < 0 {
                #expect([EINVAL, ERANGE, EBUSY, EOPNOTSUPP].contains(CInt(-result)), "\(what): \(result)")
                if isReadBack { try #require(try readOnce(node) == before, "\(what)") }
                continue
            }
            #expect(result == bytes.count, "\(what)")
            guard isReadBack, !bytes.isEmpty else { continue }
            // What it says now is a way to say the same.
            before = try readOnce(node)
            #expect(try writeOnce(node, Array(before.utf8)) == before.utf8.count, "\(what): \(before)")
            try #require(try readOnce(node) == before, "\(what)")
        }
    }

    @Test func `what is no command is refused, and the card works on`() throws {
        var fuzz = Fuzz()
        let node = try kernel.walk("ctl").nodeid
        let commands = ["flush", "reset", "stop", "start", "suspend", "resume", "reload", "remove"]
        for _ in 0..<Fuzz.rounds(600) {
            let bytes = fuzz.mutated(Array(fuzz.pick(commands).utf8) + (fuzz.once(in: 2) ? [0x0a] : []))
            // What is forgiven around a number is forgiven here.
            let word = String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
            if bytes.isEmpty || commands.contains(word) { continue }
            let what = "seed \(fuzz.seed): '\(Fuzz.quoted(bytes))'"
            #expect(try writeOnce(node, bytes) == -Int(EINVAL), "\(what)")
        }
        #expect(try kernel.text("state") == "pnp Started\npower D0\n")
        #expect(try kernel.write(kernel.open("dma/tx", O_WRONLY), pattern(100)) == 100)
        #expect(try kernel.read(kernel.open("dma/rx", O_RDONLY), 100).bytes == pattern(100))
    }
}
