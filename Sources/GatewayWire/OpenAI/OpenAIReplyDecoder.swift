import GatewayCore

/// `/v1/chat/completions`: server-sent events that end with `[DONE]`; or, from a server that does not stream, one
/// JSON object.
struct OpenAIReplyDecoder {
    private var events: SSEReader
    private var state = State()
    /// A body that starts with `{` is one object and not a stream.
    private var whole: [UInt8]?
    private var isFirst = true
    private let maxBody: Int

    private struct State {
        var hasContent = false
        var usage = TokenUsage()
    }

    init(maxLine: Int) {
        events = SSEReader(maxEvent: maxLine)
        maxBody = maxLine
    }

    mutating func feed(_ bytes: UnsafeRawBufferPointer, parser: JSONParser, into output: inout [UpstreamEvent]) {
        if isFirst, let first = bytes.first(where: { $0 != 0x20 && $0 != 0x0A && $0 != 0x0D && $0 != 0x09 }) {
            isFirst = false
            if first == UInt8(ascii: "{") { whole = [] }
        }
        if whole != nil {
            whole!.append(contentsOf: bytes)
            if whole!.count > maxBody { output.append(.failed(.lineTooLong)) }
            return
        }
        var state = state
        let fits = events.feed(bytes) { data in Self.read(data, parser, &state, &output) }
        self.state = state
        if !fits { output.append(.failed(.lineTooLong)) }
    }

    mutating func end(parser: JSONParser, into output: inout [UpstreamEvent]) {
        guard let whole else { return }
        let goesOn = whole.withUnsafeBytes { Self.read($0, parser, &state, &output) }
        if goesOn { output.append(state.hasContent ? .finished(state.usage) : .failed(.empty)) }
    }

    /// - Returns: whether more may follow.
    private static func read(
        _ data: UnsafeRawBufferPointer, _ parser: JSONParser, _ state: inout State, _ output: inout [UpstreamEvent]
    ) -> Bool {
        if data.elementsEqual("[DONE]".utf8) {
            output.append(state.hasContent ? .finished(state.usage) : .failed(.empty))
            return false
        }
        guard let object = parser.parseReply(data) else {
            output.append(.failed(.malformed))
            return false
        }
        guard object.kind == .object else {
            output.append(.failed(.unexpectedShape))
            return false
        }
        if let error = object["error"], !error.isNull {
            output.append(.failed(.errorObject))
            return false
        }
        if let usage = object["usage"], usage.kind == .object {
            state.usage.completionTokens = usage["completion_tokens"]?.tokenCount
            state.usage.promptTokens = usage["prompt_tokens"]?.tokenCount
        }
        guard let choice = object["choices"]?.firstElement, let delta = choice["delta"] ?? choice["message"] else {
            output.append(.progress)
            return true
        }
        if let content = delta["content"]?.string, !content.isEmpty {
            state.hasContent = true
            output.append(.content(content))
        } else if Self.isThinking(delta) {
            state.hasContent = true
            output.append(.thinking)
        } else {
            output.append(.progress)
        }
        return true
    }

    /// Servers have two names for the thinking (vLLM changed from the one to the other), and may write null for what is not
    /// there.
    private static func isThinking(_ delta: JSONValue) -> Bool {
        delta["reasoning_content"]?.utf8?.isEmpty == false || delta["reasoning"]?.utf8?.isEmpty == false
            || delta["tool_calls"]?.hasElements == true
    }
}
