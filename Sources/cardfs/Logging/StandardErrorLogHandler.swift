import Logging

/// Log messages of a mount in the foreground: `cardfs: warning: …`, one line and one write each.
struct StandardErrorLogHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        StandardError.write("cardfs: \(event.level): \(LogLine.text(event, metadata: metadata))\n")
    }
}
