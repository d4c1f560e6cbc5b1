import GatewayCore
import NIOCore

/// The seven fields of an infer reply.
package struct InferReply: Sendable {
    package var requestID: String
    package var text: String
    package var tokensGenerated: Int
    /// The successful upstream call alone; zero for the fallback reply.
    package var inferenceTime: Duration
    package var mode: String
    package var modelID: String
    package var timestamp: Timestamp

    package init(
        requestID: String, text: String, tokensGenerated: Int, inferenceTime: Duration, mode: String, modelID: String,
        timestamp: Timestamp
    ) {
        self.requestID = requestID
        self.text = text
        self.tokensGenerated = tokensGenerated
        self.inferenceTime = inferenceTime
        self.mode = mode
        self.modelID = modelID
        self.timestamp = timestamp
    }
}

/// One finished item of a batch.
package enum BatchResult: Sendable {
    case done(requestID: String, text: String, tokensGenerated: Int, inferenceTime: Duration)
    case refused(error: String, promptJSON: ByteBuffer)
}

extension JSONWriter {
    /// Fields of an infer reply without the braces.
    package mutating func inferFields(_ reply: InferReply) {
        field("request_id", reply.requestID)
        field("text", reply.text)
        field("tokens_generated", reply.tokensGenerated)
        field("inference_time_ms", reply.inferenceTime)
        field("mode", reply.mode)
        field("model_id", reply.modelID)
        field("timestamp", reply.timestamp)
    }

    package mutating func batch(_ results: [BatchResult]) {
        var successful = 0
        var tokens = 0
        // Items are written in whole microseconds, and their sum is that of what is written.
        var microseconds: Int64 = 0
        beginObject()
        key("results")
        beginArray()
        for result in results {
            beginObject()
            switch result {
            case .done(let requestID, let text, let tokensGenerated, let inferenceTime):
                successful += 1
                tokens += tokensGenerated
                microseconds += inferenceTime.nanoseconds / 1000
                field("request_id", requestID)
                field("text", text)
                field("tokens_generated", tokensGenerated)
                field("inference_time_ms", inferenceTime)
            case .refused(let error, let promptJSON):
                field("error", error)
                key("prompt")
                raw(promptJSON)
            }
            endObject()
        }
        endArray()
        field("total_prompts", results.count)
        field("successful", successful)
        field("total_time_ms", Duration.microseconds(microseconds))
        field("total_tokens", tokens)
        endObject()
    }

    package mutating func model(_ model: ModelConfiguration) {
        beginObject()
        field("model_id", model.id)
        key("size_gb")
        compactValue(model.sizeGB)
        key("vram_required_gb")
        compactValue(model.vramRequiredGB)
        field("recommended", model.recommended)
        endObject()
    }

    /// The stored settings of a model, with the Python endpoint's defaults for what was not set.
    package mutating func settings(_ settings: ModelSettings, defaultModel: String) {
        beginObject()
        field("max_tokens", settings.sampling.maxTokens ?? 512)
        field("model_id", settings.modelType)
        field("model_type", defaultModel)
        field("repeat_penalty", 1.0 as JSONNumber)
        field("temperature", settings.sampling.temperature ?? 0.7)
        field("top_k", settings.sampling.topK ?? 50)
        field("top_p", settings.sampling.topP ?? 0.9)
        endObject()
    }
}

/// A streamed reply: pieces, then exactly one of done or error.
package struct TokenStreamWriter: Sendable {
    package enum Format: Sendable { case sse, ndjson }
    private let format: Format

    package init(_ format: Format) { self.format = format }

    package var contentType: String {
        switch format {
        case .sse: "text/event-stream"
        case .ndjson: "application/x-ndjson"
        }
    }

    package func token(_ text: String, into buffer: inout ByteBuffer) {
        text.withBytes { bytes in
            let escapes = bytes.escapeCount
            buffer.write(atMost: bytes.count + 5 * escapes + 40) { cursor in
                cursor.put(format == .sse ? "event: token\ndata: {\"text\":" : "{\"type\":\"token\",\"text\":")
                cursor.putJSONString(bytes, escapes: escapes)
                cursor.put(format == .sse ? "}\n\n" : "}\n")
            }
        }
    }

    /// Means nothing to a client and shows proxies that the stream lives.
    package func heartbeat(into buffer: inout ByteBuffer) {
        switch format {
        case .sse: buffer.writeStaticString(": waiting\n\n")
        case .ndjson: buffer.writeStaticString("{\"type\":\"token\",\"text\":\"\"}\n")
        }
    }

    package func done(_ reply: InferReply, into buffer: inout ByteBuffer) {
        event("done", into: &buffer) { $0.inferFields(reply) }
    }

    package func error(_ message: String, requestID: String, into buffer: inout ByteBuffer) {
        event("error", into: &buffer) { writer in
            writer.field("error", message)
            writer.field("request_id", requestID)
        }
    }

    private func event(_ name: String, into buffer: inout ByteBuffer, _ fields: (inout JSONWriter) -> Void) {
        if format == .sse { buffer.writeString("event: \(name)\ndata: ") }
        var writer = JSONWriter(buffer)
        buffer = ByteBuffer()
        writer.beginObject()
        if format == .ndjson { writer.field("type", name) }
        fields(&writer)
        writer.endObject()
        buffer = writer.buffer
        buffer.writeStaticString(format == .sse ? "\n\n" : "\n")
    }
}
