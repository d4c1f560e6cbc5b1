import GatewayCore
import GatewayWire
import NIOCore

/// A generation's end in the words of the WebLLM API.
struct InferReport: Sendable {
    /// What the client is told instead of an answer.
    struct Fault: Sendable {
        var status: Int
        var message: String
        var retryAfter: Int?
    }

    var reply: InferReply
    /// As the upstream counts them.
    var promptTokens: Int?
    var outcome: RequestOutcome
    var fault: Fault?

    /// For the log; 499 is never sent.
    var status: Int { outcome == .clientLeft ? 499 : fault?.status ?? 200 }

    init(requestID: String, result: GenerationResult, mode: String, modelID: String, webllm: WebLLMConfiguration) {
        let text = WebLLMText.trimmed(result.text)
        reply = InferReply(
            requestID: requestID, text: text, tokensGenerated: 0, inferenceTime: result.trace.inferenceTime, mode: mode,
            modelID: modelID, timestamp: .now)
        switch result.end {
        case .answered(let usage):
            outcome = .ok
            reply.tokensGenerated = usage.completionTokens ?? WebLLMText.estimatedTokens(text)
            promptTokens = usage.promptTokens
        case .failed:
            (outcome, fault) = Self.unanswered(&reply, webllm, Self.fault(result.trace.failures))
        case .abandoned(.totalDeadline) where !result.isCommitted:
            (outcome, fault) = Self.unanswered(&reply, webllm, Self.timeout)
        case .abandoned(.totalDeadline):
            outcome = .cutOff
            fault = Fault(status: 504, message: "The answer took too long and was cut off")
        case .cutOff:
            outcome = .cutOff
            fault = Fault(status: 502, message: "The model stopped before its answer was complete")
        case .overloaded(let retryAfter):
            outcome = .overloaded
            fault = Fault(status: 503, message: "The gateway is busy; try again later", retryAfter: retryAfter)
        case .abandoned(.clientLeft):
            outcome = .clientLeft
        case .abandoned(.cancelled):
            outcome = .cancelled
            fault = Fault(status: 503, message: "An operator ended this request")
        case .abandoned(.drain):
            outcome = .drained
            fault = Fault(status: 503, message: "The gateway is stopping", retryAfter: 1)
        }
        if outcome == .cutOff || outcome == .cancelled || outcome == .clientLeft || outcome == .drained {
            reply.tokensGenerated = WebLLMText.estimatedTokens(text)
        }
    }

    private static let timeout = Fault(status: 504, message: "No model answered in time")

    /// What the failures of all attempts add up to.
    private static func fault(_ failures: [AttemptFailure]) -> Fault {
        let rests = failures.compactMap { failure -> Int? in
            if case .tooManyRequests(let retryAfter) = failure { FallbackPolicy.rest(retryAfter) } else { nil }
        }
        if let shortest = rests.min(), rests.count == failures.count {
            return Fault(status: 429, message: "Every model server asks to wait", retryAfter: shortest)
        }
        if failures.allSatisfy({ $0 == .busy || $0 == .disabled }) {
            return Fault(status: 503, message: "No model is available now; try again later", retryAfter: 5)
        }
        return failures.last?.isTimeout == true ? timeout : Fault(status: 502, message: "No model could answer")
    }

    private static func unanswered(
        _ reply: inout InferReply, _ webllm: WebLLMConfiguration, _ fault: Fault
    ) -> (RequestOutcome, Fault?) {
        reply.inferenceTime = .zero
        guard !webllm.fallbackMessage.isEmpty else { return (.upstreamsFailed, fault) }
        reply.text = webllm.fallbackMessage
        return (.fallback, nil)
    }

    /// What the history tells of a failure.
    var error: String? { fault?.message ?? (outcome == .clientLeft ? "The client left" : nil) }

    func batchResult(prompt: BatchRequest.Item) -> BatchResult {
        if let fault { return .refused(error: fault.message, promptJSON: prompt.json) }
        return .done(
            requestID: reply.requestID, text: reply.text, tokensGenerated: reply.tokensGenerated,
            inferenceTime: reply.inferenceTime)
    }
}

extension BatchRequest.Item {
    /// The prompt as JSON, to be echoed beside its error.
    var json: ByteBuffer {
        switch self {
        case .invalid(_, let json): return json
        case .prompt(let text):
            var buffer = ByteBuffer()
            buffer.writeJSONString(text)
            return buffer
        }
    }
}
