import GatewayCore

/// `/api/chat`: one JSON object a line; the last has `done:true`. A reply that is not streamed is one such object.
struct OllamaReplyDecoder {
    private var lines: LineReader
    private var hasContent = false

    init(maxLine: Int) { lines = LineReader(maxLine: maxLine) }

    mutating func feed(_ bytes: UnsafeRawBufferPointer, parser: JSONParser, into events: inout [UpstreamEvent]) {
        var hasContent = hasContent
        let fits = lines.feed(bytes) { line in Self.read(line, parser, &hasContent, &events) }
        self.hasContent = hasContent
        if !fits { events.append(.failed(.lineTooLong)) }
    }

    mutating func end(parser: JSONParser, into events: inout [UpstreamEvent]) {
        guard let last = lines.finish() else { return }
        _ = last.withUnsafeBytes { Self.read($0, parser, &hasContent, &events) }
    }

    /// - Returns: whether more may follow.
    private static func read(
        _ line: UnsafeRawBufferPointer, _ parser: JSONParser, _ hasContent: inout Bool,
        _ events: inout [UpstreamEvent]
    ) -> Bool {
        guard line.contains(where: { $0 != 0x20 && $0 != 0x09 }) else { return true }
        guard let object = parser.parseReply(line) else {
            events.append(.failed(.malformed))
            return false
        }
        guard object.kind == .object else {
            events.append(.failed(.unexpectedShape))
            return false
        }
        var message: JSONValue?
        var isDone = false
        var isError = false
        var usage = TokenUsage()
        object.forEachEntry { key, value in
            if key.isEqual("message") {
                message = value
            } else if key.isEqual("done") {
                isDone = value.bool ?? false
            } else if key.isEqual("error") {
                isError = !value.isNull
            } else if key.isEqual("eval_count") {
                usage.completionTokens = value.tokenCount
            } else if key.isEqual("prompt_eval_count") {
                usage.promptTokens = value.tokenCount
            }
        }
        if isError {
            events.append(.failed(.errorObject))
            return false
        }
        if let message { append(message, &hasContent, &events) } else if !isDone { events.append(.progress) }
        guard isDone else { return true }
        // A 200 without a message is what a failed runner or a mere load sends: no answer.
        events.append(hasContent ? .finished(usage) : .failed(.empty))
        return false
    }

    private static func append(_ message: JSONValue, _ hasContent: inout Bool, _ events: inout [UpstreamEvent]) {
        if let content = message["content"]?.string, !content.isEmpty {
            hasContent = true
            events.append(.content(content))
        } else if message["thinking"]?.utf8?.isEmpty == false || message["tool_calls"]?.hasElements == true {
            hasContent = true
            events.append(.thinking)
        } else {
            events.append(.progress)
        }
    }
}
