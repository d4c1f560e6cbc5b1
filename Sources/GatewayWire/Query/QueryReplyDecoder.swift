import GatewayCore

/// The Python backend: one JSON object with `response`. It does not stream, so its text is one piece.
struct QueryReplyDecoder {
    private var body: [UInt8] = []
    private let maxBody: Int

    init(maxBody: Int) { self.maxBody = maxBody }

    mutating func feed(_ bytes: UnsafeRawBufferPointer, into events: inout [UpstreamEvent]) {
        guard body.count + bytes.count <= maxBody else {
            events.append(.failed(.lineTooLong))
            return
        }
        body.append(contentsOf: bytes)
    }

    mutating func end(parser: JSONParser, into events: inout [UpstreamEvent]) {
        guard let object = body.withUnsafeBytes(parser.parseReply) else {
            events.append(.failed(body.isEmpty ? .empty : .malformed))
            return
        }
        guard let response = object["response"], let text = response.string else {
            let isError = object["error"].map { !$0.isNull } ?? false
            events.append(.failed(isError ? .errorObject : .unexpectedShape))
            return
        }
        guard text.contains(where: { !$0.isWhitespace }) else {
            events.append(.failed(.empty))
            return
        }
        events.append(.content(text))
        events.append(.finished(TokenUsage()))
    }
}
