/// What a person is told when something cannot be done: one sentence and, where there is one, what to do about it.
public struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// What failed and why; one sentence without a final full stop.
    public var sentence: String
    /// What to do; nil when nothing helps.
    public var hint: String?

    /// Makes a refusal.
    public init(_ sentence: String, hint: String? = nil) {
        self.sentence = sentence
        self.hint = hint
    }

    /// The lines for standard error: `cardfs: …` and `hint: …`, each ended by a newline.
    public var lines: String {
        "cardfs: \(sentence)\n" + (hint.map { "hint: \($0)\n" } ?? "")
    }

    /// The sentence, and the hint behind a semicolon.
    public var description: String { sentence + (hint.map { "; \($0)" } ?? "") }
}
