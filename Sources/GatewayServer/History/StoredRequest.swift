import GatewayCore
import GatewayWire
import NIOCore

/// A request of the past, or one item of a batch, as it lies in the database and is told to operators.
struct StoredRequest: Sendable {
    /// Its key: microseconds since 1970 when it ended, made unique by the store. So the order of keys is that of time.
    var id: Int64
    var requestID: String
    var route: String
    /// The client's address; `unix` for all that come over a Unix socket.
    var client: String
    var model: String
    var upstream: String?
    var status: Int
    var outcome: RequestOutcome
    var error: String?
    var mode: String
    var isStream: Bool
    var policy: RoutingPolicy
    var tokensIn: Int?
    var tokensOut: Int
    var duration: Duration
    var queue: Duration
    var load: Duration
    var connect: Duration
    var firstToken: Duration?
    var generate: Duration?
    var inference: Duration
    /// `a:connect,b:ok`; nil where the only attempt was answered.
    var attempts: String?
    /// JSON of what was decided and why; nil where the first by the configured order answered at once, with nothing
    /// against it.
    var plan: String?
    /// The same in words, for a person.
    var why: String?
    /// Nil where texts are not kept.
    var text: String?

    /// As the WebLLM API has it: the fallback reply counts as one.
    var isSuccess: Bool { outcome == .ok || outcome == .fallback }
}

extension StoredRequest {
    init(_ report: InferReport, _ access: AccessRecord, isStream: Bool, policy: RoutingPolicy) {
        let trace = access.trace
        id = report.reply.timestamp.microseconds
        requestID = report.reply.requestID
        route = access.route
        client = access.client
        model = report.reply.modelID
        upstream = trace.upstream
        status = access.status
        outcome = access.outcome
        error = report.error
        mode = report.reply.mode
        self.isStream = isStream
        self.policy = policy
        tokensIn = report.promptTokens
        tokensOut = report.reply.tokensGenerated
        duration = access.duration
        queue = trace.queueTime
        load = trace.loadTime
        connect = trace.connectTime
        firstToken = trace.firstTokenTime
        generate = trace.generationTime
        inference = report.reply.inferenceTime
        text = report.reply.text
        let isAnsweredAtOnce = outcome == .ok && trace.attempts.count == 1
        if !isAnsweredAtOnce { attempts = trace.attemptsText }
        if isAnsweredAtOnce, trace.attempts[0].reason == .best, trace.attempts[0].candidates.isEmpty { return }
        plan = PlanText.json(trace, policy)
        why = PlanText.why(trace, policy, outcome)
    }

    /// The attempts as upstream and result.
    private var attemptList: [(upstream: Substring, result: Substring)] {
        guard let attempts else { return upstream.map { [(upstream: Substring($0), result: Substring("ok"))] } ?? [] }
        return attempts.split(separator: ",").map { item in
            let parts = item.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            return (parts[0], parts.count > 1 ? parts[1] : "")
        }
    }

    /// - Parameter isWhole: with the plan and the whole text, which is cut at 64 KiB; else the text's first 200 characters.
    func write(_ writer: inout JSONWriter, isWhole: Bool) {
        writer.beginObject()
        writer.field("id", Int(id))
        writer.field("request_id", requestID)
        writer.field("time", Timestamp(microseconds: id))
        writer.field("route", route)
        writer.field("client", client)
        writer.field("model", model)
        writer.field("upstream", upstream)
        writer.field("status", status)
        writer.field("outcome", outcome.rawValue)
        writer.field("success", isSuccess)
        writer.field("error", error)
        writer.field("mode", mode)
        writer.field("stream", isStream)
        writeFigures(&writer)
        writer.key("attempts")
        writer.beginArray()
        for (upstream, result) in attemptList {
            writer.beginObject()
            writer.field("upstream", String(upstream))
            writer.field("result", String(result))
            writer.endObject()
        }
        writer.endArray()
        let shown = (text ?? "").cut(toBytes: isWhole ? 64 << 10 : 800, characters: isWhole ? .max : 200)
        writer.field("text", shown)
        writer.field("text_truncated", shown.utf8.count < (text ?? "").utf8.count)
        if isWhole {
            let obvious = PlanText.obvious(self)
            writer.field("why", why ?? obvious.why)
            writer.key("plan")
            writer.raw(ByteBuffer(string: plan ?? obvious.json))
        }
        writer.endObject()
    }

    private func writeFigures(_ writer: inout JSONWriter) {
        writer.field("tokens_in", tokensIn)
        writer.field("tokens_out", tokensOut)
        writer.key("tokens_per_second")
        if let rate = generate.flatMap({ GenerationTrace.rate(tokensOut, in: $0) }) {
            writer.value(.double((rate * 10).rounded() / 10))
        } else {
            writer.null()
        }
        writer.field("duration_ms", duration)
        writer.field("queue_ms", queue)
        writer.field("load_ms", load)
        writer.field("connect_ms", upstream == nil ? nil : connect)
        writer.field("first_token_ms", firstToken)
        writer.field("generate_ms", generate)
        writer.field("inference_ms", inference)
    }
}

extension String {
    /// The longest start that is within both bounds and ends at a whole character.
    func cut(toBytes bytes: Int, characters: Int) -> String {
        if utf8.count <= bytes, characters >= utf8.count { return self }
        var end = startIndex
        var count = 0
        while end < endIndex, count < characters {
            let next = index(after: end)
            guard utf8.distance(from: startIndex, to: next) <= bytes else { break }
            end = next
            count += 1
        }
        return String(self[..<end])
    }
}
