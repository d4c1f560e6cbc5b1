import GatewayCore

/// Turns the body of a 200 reply into events, fed in any pieces.
///
/// Success needs the dialect's own end: a clean end of the transfer alone is `truncated`, and one that is cut is never
/// told to ``end(parser:into:)``.
package struct UpstreamReplyDecoder {
    private enum Dialect {
        case ollama(OllamaReplyDecoder)
        case query(QueryReplyDecoder)
        case openAI(OpenAIReplyDecoder)
    }

    private var dialect: Dialect
    /// After the dialect's end, or a fault, whatever follows is ignored.
    private var isOver = false

    /// - Parameter maxLine: longest line or object, in bytes; images and tool calls reach 8 MiB.
    package init(kind: UpstreamKind, maxLine: Int = 8 << 20) {
        dialect =
            switch kind {
            case .ollama: .ollama(OllamaReplyDecoder(maxLine: maxLine))
            case .query: .query(QueryReplyDecoder(maxBody: maxLine))
            case .openai: .openAI(OpenAIReplyDecoder(maxLine: maxLine))
            }
    }

    package mutating func feed(_ bytes: [UInt8], parser: JSONParser, into events: inout [UpstreamEvent]) {
        guard !isOver else { return }
        let before = events.count
        bytes.withUnsafeBytes { buffer in
            switch dialect {
            case .ollama(var decoder):
                dialect = .query(QueryReplyDecoder(maxBody: 0))  // so that the payload below is not shared
                decoder.feed(buffer, parser: parser, into: &events)
                dialect = .ollama(decoder)
            case .openAI(var decoder):
                dialect = .query(QueryReplyDecoder(maxBody: 0))
                decoder.feed(buffer, parser: parser, into: &events)
                dialect = .openAI(decoder)
            case .query(var decoder):
                dialect = .query(QueryReplyDecoder(maxBody: 0))
                decoder.feed(buffer, into: &events)
                dialect = .query(decoder)
            }
        }
        cutAfterEnd(&events, from: before)
    }

    /// The transfer ended without an error.
    package mutating func end(parser: JSONParser, into events: inout [UpstreamEvent]) {
        guard !isOver else { return }
        let before = events.count
        switch dialect {
        case .ollama(var decoder): decoder.end(parser: parser, into: &events)
        case .openAI(var decoder): decoder.end(parser: parser, into: &events)
        case .query(var decoder): decoder.end(parser: parser, into: &events)
        }
        cutAfterEnd(&events, from: before)
        if !isOver {
            events.append(.failed(.truncated))
            isOver = true
        }
    }

    private mutating func cutAfterEnd(_ events: inout [UpstreamEvent], from start: Int) {
        let end = events[start...].firstIndex { event in
            switch event {
            case .finished, .failed: true
            default: false
            }
        }
        guard let end else { return }
        isOver = true
        events.removeSubrange((end + 1)...)
    }
}

extension JSONParser {
    /// Parses one object of a reply. A reply with invalid UTF-8 or a lone surrogate in a string is repaired with U+FFFD
    /// and read again: one bad character must not kill a stream.
    func parseReply(_ bytes: UnsafeRawBufferPointer) -> JSONValue? {
        if let value = try? parse(bytes) { return value }
        let repaired = UTF8Repair.repair(bytes)
        return try? parse(repaired)
    }
}
