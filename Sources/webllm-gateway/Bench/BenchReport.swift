import Foundation

/// What a bench measured.
struct BenchReport: Encodable, Sendable {
    /// In milliseconds.
    struct Percentiles: Encodable, Sendable {
        var p50: Double
        var p95: Double
        var p99: Double

        /// Nil where nothing was measured.
        init?(_ counts: DurationCounts) {
            guard let p50 = counts.quantile(0.5), let p95 = counts.quantile(0.95), let p99 = counts.quantile(0.99)
            else {
                return nil
            }
            (self.p50, self.p95, self.p99) = (p50 / .milliseconds(1), p95 / .milliseconds(1), p99 / .milliseconds(1))
        }
    }

    var gateway: String
    var model: String?
    var connections: Int
    var stream: Bool
    var maxTokens: Int
    var elapsedS: Double
    /// Ended by Ctrl-C: what was running then is not counted.
    var interrupted: Bool
    var requests: Int
    var answered: Int
    var failed: Int
    /// By kind.
    var errors: [String: Int]
    /// In the gateway's words; nil where it had none.
    var firstError: String?
    var requestsPerSecond: Double
    var tokens: Int
    var tokensPerSecond: Double
    var firstTokenMs: Percentiles?
    var gapMs: Percentiles?
    var requestMs: Percentiles?

    var lines: [String] {
        var lines = [
            "\(Words.count(requests, "request")) over \(Words.count(connections, "connection")) in "
                + "\(Words.number(elapsedS, decimals: 1)) s: \(answered) answered, \(failed) failed"
                + (interrupted ? ", interrupted" : ""),
            "\(Words.number(requestsPerSecond, decimals: 1)) requests/s, \(tokens) tokens, "
                + "\(Words.number(tokensPerSecond, decimals: 1)) tokens/s",
            "",
        ]
        var table = TextTable(["", "P50", "P95", "P99"])
        func add(_ name: String, _ times: Percentiles?) {
            guard let times else { return }
            table.add([name] + [times.p50, times.p95, times.p99].map(Words.milliseconds))
        }
        add("first token", firstTokenMs)
        add("between tokens", gapMs)
        add("whole request", requestMs)
        lines += table.lines
        guard !errors.isEmpty else { return lines }
        var errorTable = TextTable(["ERROR", "REQUESTS"])
        for (kind, count) in errors.sorted(by: { $0.value > $1.value }) { errorTable.add([kind, "\(count)"], .bad) }
        return lines + [""] + errorTable.lines
    }
}
