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
            let isTimeout = result.trace.lastFailure?.isTimeout == true
            (outcome, fault) = Self.unanswered(&reply, webllm, isTimeout: isTimeout)
        case .abandoned(.totalDeadline) where result.text.isEmpty:
            (outcome, fault) = Self.unanswered(&reply, webllm, isTimeout: true)
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
        if outcome == .cutOff || outcome == .cancelled || outcome == .clientLeft {
            reply.tokensGenerated = WebLLMText.estimatedTokens(text)
        }
    }

    private static func unanswered(
        _ reply: inout InferReply, _ webllm: WebLLMConfiguration, isTimeout: Bool
    ) -> (RequestOutcome, Fault?) {
        reply.inferenceTime = .zero
        if !webllm.fallbackMessage.isEmpty {
            reply.text = webllm.fallbackMessage
            return (.fallback, nil)
        }
        let message = isTimeout ? "No model answered in time" : "No model could answer"
        return (.upstreamsFailed, Fault(status: isTimeout ? 504 : 502, message: message))
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
