import GatewayCore

/// What the access log says of one request. Prompts, answers and secrets are not in it.
struct AccessRecord: Sendable {
    var requestID: String
    /// The address; `unix` for all that come over a Unix socket.
    var client: String
    var route: String
    var method: String
    var status: Int
    var outcome: RequestOutcome
    var duration: Duration
    /// As the client calls it; nil where none was to be asked.
    var model: String?
    var trace = GenerationTrace()
    var tokens = 0

    func write(_ line: inout LogLine) {
        line.field("request_id", requestID)
        line.field("client", client)
        line.field("route", route)
        line.field("method", method)
        line.field("status", status)
        line.field("outcome", outcome.rawValue)
        line.field("duration_ms", duration)
        if let model { line.field("model", model) }
        if trace.queueTime > .zero { line.field("queue_ms", trace.queueTime) }
        if !trace.skipped.isEmpty { line.field("skipped", trace.skippedText) }
        guard let upstream = trace.upstream else { return }
        line.field("upstream", upstream)
        line.field("attempts", trace.attemptsText)
        if trace.loadTime > .zero { line.field("load_ms", trace.loadTime) }
        line.field("connect_ms", trace.connectTime)
        if let time = trace.firstTokenTime { line.field("first_token_ms", time) }
        if let time = trace.generationTime { line.field("generate_ms", time) }
        line.field("tokens", tokens)
    }
}
