import Glibc
import Logging

/// systemd's journal as the reader of a descriptor. It takes a line's priority from a prefix `<N>`, which it removes
/// (sd-daemon(3)).
enum JournalStream {
    /// Whether the descriptor is the one that systemd connected to the journal.
    /// - Parameter variable: JOURNAL_STREAM, device and inode as `8:1234` (systemd.exec(5)).
    static func isConnected(_ descriptor: Int32, _ variable: String?) -> Bool {
        var status = stat()
        guard let variable, fstat(descriptor, &status) == 0 else { return false }
        return variable == "\(status.st_dev):\(status.st_ino)"
    }

    /// `<6>` and its like, of syslog(3).
    static func prefix(_ level: Logger.Level) -> StaticString {
        switch level {
        case .trace, .debug: "<7>"
        case .info: "<6>"
        case .notice: "<5>"
        case .warning: "<4>"
        case .error: "<3>"
        case .critical: "<2>"
        }
    }
}
