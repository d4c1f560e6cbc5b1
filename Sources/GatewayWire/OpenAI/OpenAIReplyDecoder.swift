import GatewayCore

/// `/v1/chat/completions`: server-sent events that end with `[DONE]`; or, from a server that does not stream, one
/// JSON object.
///
/// Some servers send no `[DONE]`: a `finish_reason` and then a clean end of the transfer are an end too.
struct OpenAIReplyDecoder {
    private var events: SSEReader
    private var state = State()
    /// A body that starts with `{` is one object and not a stream.
    private var whole: [UInt8]?
    private var isFirst = true
    private let maxBody: Int

    private struct State {
        var hasContent = false
        var hasFinishReason = false
        var usage = TokenUsage()

        /// What the reply comes to where its end is seen.
        var end: UpstreamEvent { hasContent ? .finished(usage) : .failed(.empty) }
    }

    init(maxLine: Int) {
        events = SSEReader(maxEvent: maxLine)
        maxBody = maxLine
    }

    mutating func feed(_ bytes: UnsafeRawBufferPointer, parser: JSONParser, into output: inout [UpstreamEvent]) {
        if isFirst, let first = bytes.first(where: { !Self.isSpace($0) }) {
            isFirst = false
            if first == UInt8(ascii: "{") { whole = [] }
        }
        if whole != nil {
            whole!.append(contentsOf: bytes)
            if whole!.count > maxBody { output.append(.failed(.lineTooLong)) }
            return
        }
        var state = state
        let fits = events.feed(bytes) { data in
            if let data { return Self.read(data, parser, &state, &output) }
            output.append(.failed(.errorObject))
            return false
        }
        self.state = state
        if !fits { output.append(.failed(.lineTooLong)) }
    }

    /// The transfer ended without an error.
    mutating func end(parser: JSONParser, into output: inout [UpstreamEvent]) {
        if let whole {
            let goesOn = whole.withUnsafeBytes { Self.read($0, parser, &state, &output) }
            if goesOn { output.append(state.end) }
            return
        }
        // Some servers end with `[DONE]` and no line end, which makes it no event.
        switch events.finish() {
        case .error: output.append(.failed(.errorObject))
        case .data(let rest) where rest.withUnsafeBytes({ Self.trimmed($0).map(Self.isDone) }) == true:
            output.append(state.end)
        case .data, .nothing: if state.hasFinishReason { output.append(state.end) }
        }
    }

    /// - Returns: whether more may follow.
    private static func read(
        _ data: UnsafeRawBufferPointer, _ parser: JSONParser, _ state: inout State, _ output: inout [UpstreamEvent]
    ) -> Bool {
        // An event with no data keeps a connection alive and says nothing.
        guard let data = trimmed(data) else { return true }
        if isDone(data) {
            output.append(state.end)
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
        var choices: JSONValue?
        var usage: JSONValue?
        var hasError = false
        object.forEachEntry { key, value in
            if key.isEqual("choices") {
                choices = value
            } else if key.isEqual("usage") {
                usage = value
            } else if isError(key, value) {
                hasError = true
            }
        }
        if hasError {
            output.append(.failed(.errorObject))
            return false
        }
        // Some servers send counts with every chunk, and zeros where they do not count.
        if let count = usage?["completion_tokens"]?.tokenCount { state.usage.completionTokens = count }
        if let count = usage?["prompt_tokens"]?.tokenCount { state.usage.promptTokens = count }
        let choice = choices?.firstElement
        // "" is no reason: some servers have it in every chunk.
        if choice?["finish_reason"]?.utf8?.isEmpty == false { state.hasFinishReason = true }
        guard let delta = choice?["delta"] ?? choice?["message"] else {
            output.append(.progress)
            return true
        }
        let content = parts(of: delta["content"])
        if !content.text.isEmpty {
            state.hasContent = true
            output.append(.content(content.text))
        } else if content.hasThinking || isThinking(delta) {
            state.hasContent = true
            output.append(.thinking)
        } else {
            output.append(.progress)
        }
        return true
    }

    /// Whether an entry of a reply's object makes it an error: `error`; `"object":"error"` in older versions of vLLM;
    /// and FastChat's `error_code`, which is 0 where all is well.
    private static func isError(_ key: UnsafeBufferPointer<UInt8>, _ value: JSONValue) -> Bool {
        if key.isEqual("error") { return !value.isNull }
        if key.isEqual("object") { return value.utf8?.isEqual("error") == true }
        if key.isEqual("error_code"), let code = value.number { return code.doubleValue != 0 }
        return false
    }

    /// The text of a message's content, and whether there is thinking in it: Mistral's models that think send a list of
    /// parts in place of a text.
    private static func parts(of content: JSONValue?) -> (text: String, hasThinking: Bool) {
        guard let content else { return ("", false) }
        guard content.kind == .array else { return (content.string ?? "", false) }
        var text = ""
        var hasThinking = false
        content.forEachElement { (part) throws(Never) in
            guard let type = part["type"]?.utf8 else { return }
            if type.isEqual("text") {
                text += part["text"]?.string ?? ""
            } else if type.isEqual("thinking"), let thinking = part["thinking"] {
                if thinking.hasElements || thinking.utf8?.isEmpty == false { hasThinking = true }
            }
        }
        return (text, hasThinking)
    }

    /// Servers have two names for the thinking (vLLM changed from the one to the other), and may write null for what is not
    /// there.
    private static func isThinking(_ delta: JSONValue) -> Bool {
        delta["reasoning_content"]?.utf8?.isEmpty == false || delta["reasoning"]?.utf8?.isEmpty == false
            || delta["tool_calls"]?.hasElements == true
    }

    private static func isDone(_ data: UnsafeRawBufferPointer) -> Bool { data.elementsEqual("[DONE]".utf8) }

    /// Without white space at both ends; nil where nothing else is there.
    private static func trimmed(_ data: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard let start = data.firstIndex(where: { !isSpace($0) }), let end = data.lastIndex(where: { !isSpace($0) })
        else { return nil }
        return UnsafeRawBufferPointer(rebasing: data[start...end])
    }

    /// JSON's white space (RFC 8259 section 2).
    private static func isSpace(_ byte: UInt8) -> Bool {
        byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
    }
}
