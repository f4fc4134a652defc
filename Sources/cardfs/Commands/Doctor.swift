import ArgumentParser
import CardFS

/// `cardfs doctor`.
struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Says what is missing to use a card, each thing with the line that mends it.",
        discussion: """
            Looks and changes nothing. The exit status is 0 when all is well.

            Examples:
              cardfs doctor                what every PCI card of this machine needs
              cardfs doctor 0000:03:00.0   and what this one needs
              cardfs doctor sim            what the simulated card needs
            """
    )

    @Argument(help: "sim, or a PCI address such as 0000:02:00.0.")
    var card: String?

    func run() throws {
        let name = try card.map { text throws(Refusal) in try CardName(text) }
        let findings = try Diagnosis(Machine()).findings(name)
        print(Self.text(findings))
        if findings.contains(where: { $0.verdict == .missing }) { throw ExitCode.failure }
    }

    /// A line for each finding, and one below for what mends it; the last line without its newline.
    static func text(_ findings: [Diagnosis.Finding]) -> String {
        let verdictWidth = findings.map(\.verdict.rawValue.count).max() ?? 0
        let subjectWidth = findings.map(\.subject.count).max() ?? 0
        var lines: [String] = []
        for finding in findings {
            let verdict = padded(finding.verdict.rawValue, verdictWidth)
            let subject = padded(finding.subject, subjectWidth)
            lines.append("\(verdict)  \(subject)  \(finding.sentence)")
            if let remedy = finding.remedy {
                lines.append(padded("", verdictWidth + subjectWidth + 4) + "mend: " + remedy)
            }
        }
        return lines.joined(separator: "\n")
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
