import ArgumentParser
import CardFS
import Glibc

/// The command line of cardfs.
@main
struct CardFSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cardfs",
        abstract: "Mounts a PCIe card as files.",
        discussion: """
            Examples:
              cardfs mount sim /mnt/card       mounts a simulated card
              cat /mnt/card/bar0               reads a register
              cardfs unmount /mnt/card         takes it away again
              cardfs list                      shows the cards of this machine
              cardfs doctor 0000:03:00.0       says what one of them still needs

            `cardfs CARD MOUNTPOINT -o …` is `cardfs mount`, so that
            `mount -t fuse.cardfs sim /mnt/card` and fstab work.
            """,
        version: "0.1.0",
        subcommands: [Mount.self, Unmount.self, List.self, Doctor.self, Bind.self, Unbind.self, Bench.self]
    )

    static func main() {
        Glibc.exit(run(Array(CommandLine.arguments.dropFirst())))
    }

    /// Runs a command line and returns the exit status. What goes wrong is told on standard error.
    static func run(_ arguments: [String]) -> CInt {
        do {
            try checkHelp(arguments)
            var command = try parseAsRoot(spelledOut(arguments))
            try command.run()
            return 0
        } catch let refusal as Refusal {
            StandardError.write(refusal.lines)
            return refusal.kind.rawValue
        } catch let exitCode as ExitCode {
            return exitCode.rawValue
        } catch {
            // Help and version come as errors of the parser too, whose exit status is that of success.
            if exitCode(for: error).isSuccess {
                print(fullMessage(for: error))
                return 0
            }
            let text = message(for: error)
            StandardError.write(Refusal(oneSentence(text), hint: "cardfs \(helpWord(arguments))--help").lines)
            return Refusal.Kind.usage.rawValue
        }
    }

    /// The arguments with the word `mount` where mount(8) leaves it out (`cardfs sim /mnt -o rw`), and with `-o` and its
    /// value apart: the parser takes the `=` in `-orw,mode=600` for its own.
    static func spelledOut(_ arguments: [String]) -> [String] {
        guard let first = arguments.first else { return ["--help"] }
        // Before the card mount(8) puts -o at most; every other option is one of the root, or of the parser itself.
        let isOption = first.hasPrefix("-") && !first.hasPrefix("-o") && first != "-f" && first != "--foreground"
        let isNamed = isOption || first == "help" || names.contains(first)
        guard !isNamed || first == Mount.configuration.commandName else { return arguments }
        var result = isNamed ? [] : ["mount"]
        let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
        for argument in arguments[..<end] {
            let isJoined = argument.hasPrefix("-o") && argument != "-o"
            result += isJoined ? ["-o", String(argument.dropFirst(2))] : [argument]
        }
        return result + arguments[end...]
    }

    /// What the sub-commands may be called.
    private static var names: [String] {
        configuration.subcommands.flatMap { [$0.configuration.commandName ?? ""] + $0.configuration.aliases }
    }

    /// Refuses help on a command that there is not, for which the parser shows the help of all of them.
    private static func checkHelp(_ arguments: [String]) throws(Refusal) {
        guard arguments.first == "help", let name = arguments.dropFirst().first(where: { !$0.hasPrefix("-") }),
            name != "help", !names.contains(name)
        else { return }
        throw Refusal("there is no command \"\(name)\"", hint: "cardfs --help lists them", kind: .usage)
    }

    /// The parser's message without its own label and full stop.
    private static func oneSentence(_ text: String) -> String {
        var lines = text.split(separator: "\n").map(String.init)
        if lines.isEmpty { lines = ["the command line makes no sense"] }
        var sentence = lines.joined(separator: " ")
        if sentence.hasPrefix("Error: ") { sentence.removeFirst("Error: ".count) }
        if sentence.hasSuffix(".") { sentence.removeLast() }
        return sentence.prefix(1).lowercased() + sentence.dropFirst()
    }

    private static func helpWord(_ arguments: [String]) -> String {
        spelledOut(arguments).first.map { $0.hasPrefix("-") ? "" : $0 + " " } ?? ""
    }
}

/// Standard error, unbuffered: one write for each text, so that the lines of two processes do not mix.
enum StandardError {
    static func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = bytes.withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
