/// A request of the past, as `/admin/requests` has it.
struct AdminRequest: Decodable {
    struct Attempt: Decodable {
        var upstream: String
        var result: String
    }

    var id: Int
    var requestId: String
    var time: String
    var route: String
    var client: String
    var model: String
    var upstream: String?
    var status: Int
    var outcome: String
    var success: Bool
    var error: String?
    var stream: Bool
    var tokensIn: Int?
    var tokensOut: Int
    var tokensPerSecond: Double?
    var durationMs: Double
    var queueMs: Double
    var firstTokenMs: Double?
    var attempts: [Attempt]
    var text: String
    var textTruncated: Bool
    /// Only where one request is asked for, as the plan.
    var why: String?
    var plan: Plan?

    struct Plan: Decodable {
        var policy: String
        var exhaustion: String?
        var queuePosition: Int?
        var attempts: [PlannedAttempt]
    }

    /// Times are in milliseconds; its start is since the request came.
    struct PlannedAttempt: Decodable {
        var upstream: String
        var startMs: Double
        var durationMs: Double
        var loadMs: Double
        var connectMs: Double
        var firstTokenMs: Double?
        var result: String
        var timer: String?
        var candidates: [AdminCandidate]
    }
}

extension AdminRequest {
    static func table(_ requests: [Self]) -> TextTable {
        var table = TextTable([
            "ID", "TIME (UTC)", "OUTCOME", "UPSTREAM", "MODEL", "DURATION", "FIRST TOKEN", "TOKENS", "TOKENS/S",
            "ANSWER",
        ])
        for request in requests {
            table.add(
                [
                    "\(request.id)", Words.time(request.time), Words.plain(request.outcome), request.path,
                    request.model, Words.milliseconds(request.durationMs),
                    request.firstTokenMs.map(Words.milliseconds) ?? "-", "\(request.tokensOut)",
                    request.tokensPerSecond.map { Words.number($0, decimals: 1) } ?? "-",
                    String((request.error ?? request.text).prefix(50)).replacing("\n", with: " "),
                ], request.success ? .plain : .bad)
        }
        return table
    }

    /// The upstreams in the order in which they were asked: `a>b`.
    private var path: String {
        attempts.isEmpty ? "-" : attempts.map(\.upstream).joined(separator: ">")
    }
}
