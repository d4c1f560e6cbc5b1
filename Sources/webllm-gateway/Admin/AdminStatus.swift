import Foundation

/// What `/admin/status` and `/admin/alerts` say.
struct AdminStatus: Decodable {
    struct History: Decodable {
        var state: String
        var reason: String?
        var rows: Int
        var dropped: Int
    }

    struct Upstream: Decodable {
        var name: String
        var kind: String
        var mode: String
        var available: Bool
        var reason: String
        var breakerOpenS: Int?
        var inFlight: Int
        var slots: Int
        var queued: Int
        var firstTokenMs: Double?
        var tokensPerSecond: Double?
        var modelsLoaded: [String]?
        var lastFailure: String?
    }

    struct Alert: Decodable {
        var severity: String
        var text: String
    }

    var timestamp: String
    var uptimeS: Int
    var draining: Bool
    var version: String
    var health: String
    var policy: String
    var connections: Int
    var running: Int
    var retriesLeft: Int
    var history: History
    var upstreams: [Upstream]
    var alerts: [Alert]

    /// As an operator reads it.
    var lines: [String] {
        var lines = [summary, figures]
        for alert in alerts { lines.append(Style.bad.paint("\(alert.severity): \(alert.text)".printable())) }
        return lines + [""] + table.lines
    }

    private var summary: String {
        let style: Style = health == "healthy" ? .good : .bad
        return "webllm-gateway \(version): " + style.paint(draining ? "draining" : health)
            + ", up \(Words.seconds(uptimeS)), policy \(policy), \(Words.time(timestamp)) UTC"
    }

    private var figures: String {
        var history = "history \(self.history.state)"
        if self.history.state != "off" { history += " with \(Words.count(self.history.rows, "request"))" }
        if self.history.dropped > 0 { history += " (\(self.history.dropped) lost)" }
        return "\(running) running, \(Words.count(connections, "connection")), "
            + "\(retriesLeft) retries left, \(history)"
    }

    private var table: TextTable {
        var table = TextTable([
            "UPSTREAM", "KIND", "STATE", "SLOTS", "QUEUE", "FIRST TOKEN", "TOKENS/S", "LOADED", "LAST FAILURE",
        ])
        for upstream in upstreams {
            table.add(
                [
                    upstream.name, upstream.kind, upstream.state, "\(upstream.inFlight)/\(upstream.slots)",
                    "\(upstream.queued)", upstream.firstTokenMs.map(Words.milliseconds) ?? "-",
                    upstream.tokensPerSecond.map { Words.number($0, decimals: 1) } ?? "-",
                    upstream.modelsLoaded.map { $0.isEmpty ? "none" : $0.joined(separator: ",") } ?? "-",
                    upstream.lastFailure.map(Words.plain) ?? "-",
                ], upstream.available ? .plain : .bad)
        }
        return table
    }
}

extension AdminStatus.Upstream {
    /// `ok`, or why it is not available.
    fileprivate var state: String {
        Words.plain(reason) + (breakerOpenS.map { ", \($0) s" } ?? "")
    }
}
