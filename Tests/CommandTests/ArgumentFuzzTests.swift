import ArgumentParser
import CardFS
import Fuzz
import PCIBus
import Testing

@testable import cardfs

/// Command lines made of words it knows, values and chance: each is understood or refused, and none ends the process. Nothing is
/// carried out.
@Suite struct ArgumentFuzzTests {
    private static let words = [
        "mount", "unmount", "list", "doctor", "bind", "unbind", "bench", "help", "sim", "/mnt", "0000:02:00.0",
        "02:00.0",
        "-o", "-f", "--force", "--json", "--help", "--version", "--", "-", "", "-oro", "ro,expert", "mode=600", "--svg",
        "--register", "--ready-fd", "3", "-1", "0x10", "--foreground", "/m with blanks", "--=", "=",
    ]

    private func line(_ fuzz: inout Fuzz) -> [String] {
        (0..<fuzz.below(7)).map { _ in
            let word = fuzz.pick(Self.words)
            guard fuzz.once(in: 3) else { return word }
            return String(decoding: fuzz.mutated(Array(word.utf8)).filter { $0 != 0 }, as: UTF8.self)
        }
    }

    @Test func `every command line is understood or refused with a sentence`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(600) {
            let arguments = line(&fuzz)
            let what = "seed \(fuzz.seed): \(arguments.map { Fuzz.quoted($0.utf8) })"
            do {
                let parsed = try CardFSCommand.parseAsRoot(CardFSCommand.spelledOut(arguments))
                guard let mount = parsed as? Mount else { continue }
                // What stands behind the bare `--` is a card or a place, whatever it looks like; before it, it is where it was.
                #expect(arguments.contains(mount.card) && arguments.contains(mount.mountpoint), "\(what)")
                for options in mount.options { #expect(arguments.contains { $0.hasSuffix(options) }, "\(what)") }
            } catch {
                #expect(!CardFSCommand.fullMessage(for: error).isEmpty, "\(what)")
            }
        }
    }

    @Test func `a card is sim or an address, however it is misspelled`() {
        var fuzz = Fuzz()
        for _ in 0..<Fuzz.rounds(1000) {
            let bytes = fuzz.mutated(Array(fuzz.pick(["sim", "0000:02:00.0", "02:00.0"]).utf8))
            let text = String(decoding: bytes, as: UTF8.self)
            let what = "seed \(fuzz.seed): '\(Fuzz.quoted(text.utf8))'"
            let expected: CardName? = text == "sim" ? .simulated : PCIAddress(text).map { .pci($0) }
            #expect((try? CardName(text)) == expected, "\(what)")
        }
    }
}
