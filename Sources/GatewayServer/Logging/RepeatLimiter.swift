import GatewayCore
import Logging

/// Lets the first few of equal log lines through; further ones of the same period are only counted, so that an upstream
/// that fails each request does not fill a disk.
package struct RepeatLimiter: Sendable {
    /// What makes lines equal; the rest of their fields may differ.
    struct Line: Hashable, Sendable {
        var level: Logger.Level
        var message: String
        var upstream: String?
    }

    enum Verdict: Equatable {
        case write
        case hold
        /// The first one that is held in its period, which ends after the rest: ``end(_:)`` is due then.
        case holdFirst(rest: Duration)
    }

    private struct Period {
        var began: MonotonicTime
        var written = 1
        var held = 0
    }

    private let limit: Int
    private let length: Duration
    private var periods: [Line: Period] = [:]

    /// - Parameters:
    ///   - limit: equal lines that are written in one period.
    ///   - length: of a period, which starts with its first line.
    package init(limit: Int = 10, length: Duration = .seconds(10)) {
        self.limit = limit
        self.length = length
    }

    mutating func admit(_ line: Line, now: MonotonicTime) -> Verdict {
        // A period that held lines lasts until they are told.
        guard var period = periods[line], period.held > 0 || now - period.began < length else {
            periods[line] = Period(began: now)
            return .write
        }
        defer { periods[line] = period }
        guard period.written >= limit else {
            period.written += 1
            return .write
        }
        period.held += 1
        return period.held > 1 ? .hold : .holdFirst(rest: length - (now - period.began))
    }

    /// Ends the period of lines that were held.
    /// - Returns: how many.
    mutating func end(_ line: Line) -> Int { periods.removeValue(forKey: line)?.held ?? 0 }
}
