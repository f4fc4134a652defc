import CardFS
import Logging

/// What the handlers have in common: an event as one line.
enum LogLine {
    /// The message, the error and the metadata, fit for a terminal.
    static func text(_ event: LogEvent, metadata: Logger.Metadata) -> String {
        var text = event.message.description
        if let error = event.error { text += ": \(error)" }
        let all = metadata.merging(event.metadata ?? [:]) { _, newer in newer }
        for (key, value) in all.sorted(by: { $0.key < $1.key }) { text += " \(key)=\(value)" }
        return QuotedText.line(text)
    }
}
