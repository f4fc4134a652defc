import Glibc
import Logging

/// Log messages of a mount in the background: syslog(3), facility daemon, as `cardfs[pid]`.
struct SystemLogHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info

    /// Opens the connection at once, while `/dev/log` can be reached.
    static func open() { openlog(identity, LOG_PID | LOG_NDELAY, LOG_DAEMON) }

    // openlog(3) keeps the pointer.
    private static nonisolated(unsafe) let identity = strdup("cardfs")

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        LogLine.text(event, metadata: metadata).withCString { text in
            withVaList([text]) { vsyslog(Self.priority(event.level), "%s", $0) }
        }
    }

    /// The severity of syslog(3) for a level.
    static func priority(_ level: Logger.Level) -> CInt {
        switch level {
        case .trace, .debug: LOG_DEBUG
        case .info: LOG_INFO
        case .notice: LOG_NOTICE
        case .warning: LOG_WARNING
        case .error: LOG_ERR
        case .critical: LOG_CRIT
        }
    }
}
