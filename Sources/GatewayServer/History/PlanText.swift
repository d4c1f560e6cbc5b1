import GatewayCore
import GatewayWire
import NIOCore

/// What was decided for a request and why, as JSON and in words.
enum PlanText {
    static func json(_ trace: GenerationTrace, _ policy: RoutingPolicy) -> String {
        var writer = JSONWriter()
        writer.beginObject()
        writer.field("policy", policy.rawValue)
        if let exhaustion = trace.exhaustion { writer.field("exhaustion", exhaustion.rawValue) }
        if let position = trace.queuePosition { writer.field("queue_position", position) }
        writer.key("attempts")
        writer.beginArray()
        for attempt in trace.attempts { write(attempt, &writer) }
        writer.endArray()
        writer.endObject()
        return String(buffer: writer.buffer)
    }

    private static func write(_ attempt: GenerationTrace.Attempt, _ writer: inout JSONWriter) {
        writer.beginObject()
        writer.field("upstream", attempt.upstream)
        writer.field("reason", attempt.reason.rawValue)
        writer.field("start_ms", attempt.start)
        writer.field("duration_ms", attempt.duration)
        writer.field("load_ms", attempt.loadTime)
        writer.field("connect_ms", attempt.connectTime)
        writer.field("first_token_ms", attempt.firstTokenTime)
        writer.field("result", attempt.label)
        if let timer = attempt.timer { writer.field("timer", timer) }
        writer.key("candidates")
        writer.beginArray()
        for candidate in attempt.candidates { writer.candidate(candidate) }
        writer.endArray()
        writer.endObject()
    }

    /// The plan of a request whose only attempt was the obvious one: it is not stored, as it says nothing more.
    static func obvious(_ request: StoredRequest) -> (json: String, why: String) {
        var trace = GenerationTrace()
        if let upstream = request.upstream {
            var attempt = GenerationTrace.Attempt(
                upstream: upstream, reason: .best, candidates: [], start: request.duration - request.inference)
            attempt.label = "ok"
            attempt.duration = request.inference
            attempt.loadTime = request.load
            attempt.connectTime = request.connect
            attempt.firstTokenTime = request.firstToken
            trace.attempts = [attempt]
        }
        return (json(trace, request.policy), why(trace, request.policy, request.outcome))
    }

    // MARK: In words

    /// What the plan says, for a person.
    static func why(_ trace: GenerationTrace, _ policy: RoutingPolicy, _ outcome: RequestOutcome) -> String {
        guard !trace.attempts.isEmpty else { return "No upstream was asked: \(outcomeWords(outcome))." }
        return trace.attempts.enumerated().map { sentence($1, isFirst: $0 == 0, policy) }.joined(separator: " ")
    }

    private static func sentence(
        _ attempt: GenerationTrace.Attempt, isFirst: Bool, _ policy: RoutingPolicy
    ) -> String {
        var text =
            switch attempt.reason {
            case .failOpen: "Nothing was available, so \(attempt.upstream) was tried all the same"
            case .queued: "\(attempt.upstream) had a slot free first"
            case .best where !isFirst: "\(attempt.upstream) was next by the policy \(policy.rawValue)"
            case .best where attempt.candidates.isEmpty:
                "\(attempt.upstream) was first in the configured order, and nothing spoke against it"
            case .best: "\(attempt.upstream) was first by the policy \(policy.rawValue)"
            }
        let passed = attempt.candidates.prefix { $0.name != attempt.upstream }.compactMap { candidate in
            candidate.skip.flatMap { $0 == .tried ? nil : "\(candidate.name) (\(words(of: $0)))" }
        }
        if !passed.isEmpty { text += "; passed over: \(passed.joined(separator: ", "))" }
        if attempt.label != "ok" { text += "; \(words(ofResult: attempt.label))" }
        return text + "."
    }

    /// What became of an attempt, by its label.
    static func words(ofResult label: String) -> String {
        switch label {
        case "resolve": "its name has no address"
        case "connect": "it refuses connections"
        case "connect_timer": "the connect timer ended it"
        case "tls": "no secure connection to it was possible"
        case "no_reply", "stale_connection": "it closed the connection without an answer"
        case "first_token_timer": "the first-token timer ended it"
        case "idle_timer": "the idle timer ended it"
        case "busy": "it was busy"
        case "model_not_found": "it does not have the model"
        case "protocol_error": "its answer was cut or damaged"
        case "truncated": "its answer ended before its end"
        case "error_object": "it answered with an error"
        case "empty": "its answer was empty"
        case "malformed", "unexpected_shape": "its answer is not what such a server sends"
        case "line_too_long": "its answer was too long"
        case "disabled": "an operator disabled it"
        case "client_left": "the client left"
        case "drain": "the gateway stopped"
        case "total_deadline": "the total time was over"
        case "cancelled": "an operator ended the request"
        case "running": "it still runs"
        default:
            label.hasPrefix("status_")
                ? "it answered with status \(label.dropFirst(7))" : label.replacing("_", with: " ")
        }
    }

    private static func words(of reason: SkipReason) -> String {
        switch reason {
        case .tried: "tried before"
        case .notPinned: "the client asked for another"
        case .disabled: "disabled by an operator"
        case .draining: "drained by an operator"
        case .probedDown: "its health probes fail"
        case .breakerOpen: "its breaker is open"
        case .breakerProbing: "another request tries whether it has recovered"
        case .resting: "it asked for a rest"
        case .full: "no slot was free"
        case .slowStart: "it has just recovered"
        }
    }

    private static func outcomeWords(_ outcome: RequestOutcome) -> String {
        switch outcome {
        case .overloaded: "no slot came free in time"
        case .clientLeft: "the client left first"
        case .cancelled: "an operator ended it first"
        case .drained: "the gateway was stopping"
        case .fallback, .upstreamsFailed: "none could be"
        case .ok, .refused, .cutOff: outcome.rawValue
        }
    }
}
