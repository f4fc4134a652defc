/// Why the bus refused: a class for programs and a sentence for a person.
public struct BusError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The errno that names the class of the failure.
    public var code: CInt
    /// What failed, where, and what to do; one sentence without a final full stop.
    public var sentence: String

    /// Makes an error.
    public init(_ code: CInt, _ sentence: String) {
        self.code = code
        self.sentence = sentence
    }

    /// The sentence.
    public var description: String { sentence }
}
