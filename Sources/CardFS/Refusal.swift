import Glibc

/// What a person is told when something cannot be done: one sentence and, where there is one, what to do about it.
public struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kinds of failure that a script tells apart; the value is the exit status of the command. From 64 on they are those of
    /// sysexits.h, so that none is taken for a signal or for a status of the shell.
    public enum Kind: CInt, Hashable, Sendable {
        /// None of the others.
        case other = 1
        /// The command line: a command, an option or a value that there is not.
        case usage = 64
        /// No such card, directory, register or mount.
        case absent = 66
        /// The card or the machine cannot do it, or does not answer.
        case unavailable = 69
        /// A limit of the user, the machine or its memory is reached.
        case exhausted = 71
        /// A file cannot be written.
        case unwritable = 73
        /// In use; it may work later.
        case busy = 75
        /// Not permitted to this user.
        case denied = 77
        /// Ended by a signal of the user.
        case interrupted = 130

        /// The kind an errno belongs to, and `fallback` for those that say nothing of it.
        public init(errno code: CInt, otherwise fallback: Kind = .other) {
            switch code {
            case ENOENT, ENOTDIR, ENODEV, ENXIO: self = .absent
            case EACCES, EPERM, EROFS: self = .denied
            case EBUSY: self = .busy
            case ENOMEM, EAGAIN, EMFILE, ENFILE, ENOSPC, EFBIG, EDQUOT: self = .exhausted
            case EINTR: self = .interrupted
            default: self = fallback
            }
        }
    }

    /// What failed and why; one sentence without a final full stop.
    public var sentence: String
    /// What to do; nil when nothing helps.
    public var hint: String?
    /// The kind of failure.
    public var kind: Kind

    /// Makes a refusal.
    public init(_ sentence: String, hint: String? = nil, kind: Kind = .other) {
        self.sentence = sentence
        self.hint = hint
        self.kind = kind
    }

    /// The lines for standard error: `cardfs: …` and `hint: …`, each ended by a newline.
    public var lines: String {
        "cardfs: \(sentence)\n" + (hint.map { "hint: \($0)\n" } ?? "")
    }

    /// The sentence, and the hint behind a semicolon.
    public var description: String { sentence + (hint.map { "; \($0)" } ?? "") }
}
