import GatewayCore
import GatewayWire

/// Which requests of the past are wanted.
struct HistoryFilter: Sendable {
    var limit = 50
    /// Keys below this one: the page after a page.
    var before: Int64?
    var id: Int64?
    /// Microseconds since 1970.
    var since: Int64?
    var requestID: String?
    var upstream: String?
    var model: String?
    var route: String?
    var outcome: RequestOutcome?
    var onlyErrors = false

    static let maxLimit = 500

    init() {}

    /// Reads the query of `/admin/requests`.
    /// - Throws: ``RequestRefusal`` that says what is accepted.
    init(query: Substring?, now: Timestamp) throws(RequestRefusal) {
        func value(_ name: String) throws(RequestRefusal) -> String? {
            try query?.queryValue(name).flatMap { $0.isEmpty ? nil : $0 }
        }
        for pair in query?.split(separator: "&") ?? [] {
            let name = pair.prefix { $0 != "=" }
            guard Self.names.contains(String(name)) else {
                throw Self.refusal("\(name) is not known; accepted: \(Self.names.joined(separator: ", "))")
            }
        }
        if let text = try value("limit") {
            guard let limit = Int(text), (1...Self.maxLimit).contains(limit) else {
                throw Self.refusal("limit must be 1 to \(Self.maxLimit)")
            }
            self.limit = limit
        }
        if let text = try value("before") {
            guard let key = Int64(text), key > 0 else { throw Self.refusal("before must be the id of a request") }
            before = key
        }
        if let text = try value("since") { since = try Self.since(text, now: now) }
        requestID = try value("request_id")
        upstream = try value("upstream")
        model = try value("model")
        if let text = try value("route") {
            guard ["infer", "batch"].contains(text) else { throw Self.refusal("route must be infer or batch") }
            route = text
        }
        if let text = try value("outcome") {
            guard let outcome = RequestOutcome(rawValue: text) else {
                let words = RequestOutcome.allCases.map(\.rawValue).joined(separator: ", ")
                throw Self.refusal("outcome must be one of \(words)")
            }
            self.outcome = outcome
        }
        switch try value("errors") {
        case nil, "false": break
        case "true": onlyErrors = true
        default: throw Self.refusal("errors must be true or false")
        }
    }

    private static let names = [
        "limit", "before", "since", "request_id", "upstream", "model", "route", "outcome", "errors",
    ]

    private static func refusal(_ message: String) -> RequestRefusal { RequestRefusal(400, message) }

    /// A duration back from now, or a moment.
    private static func since(_ text: String, now: Timestamp) throws(RequestRefusal) -> Int64 {
        if let duration = try? DurationText.parse(text) { return now.microseconds - duration.nanoseconds / 1000 }
        if let moment = Timestamp(text) { return moment.microseconds }
        throw refusal("since must be a duration such as 30m, 12h or 7d, or a UTC time such as 2026-01-31T10:30:00")
    }
}
