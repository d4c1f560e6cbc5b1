import GatewayCore
import NIOCore

/// Writes a generation in an upstream's dialect. The reply is always asked for as a stream, so that timers see tokens
/// and a client that leaves stops the generation; only the Python backend cannot.
package enum UpstreamRequestWriter {
    package static func body(_ chat: ChatRequest, kind: UpstreamKind, model: String?) -> ByteBuffer {
        var writer = JSONWriter(ByteBufferAllocator().buffer(capacity: 512))
        writer.beginObject()
        switch kind {
        case .ollama:
            if let model { writer.field("model", model) }
            writeMessages(chat, &writer)
            writer.field("stream", true)
            writer.key("options")
            writer.beginObject()
            writeSampling(chat.sampling, &writer)
            if let maxTokens = chat.sampling.maxTokens { writer.field("num_predict", maxTokens) }
            writer.endObject()
        case .openai:
            if let model { writer.field("model", model) }
            writeMessages(chat, &writer)
            writer.field("stream", true)
            writer.key("stream_options")
            writer.beginObject()
            writer.field("include_usage", true)
            writer.endObject()
            writeSampling(chat.sampling, &writer)
            if let maxTokens = chat.sampling.maxTokens { writer.field("max_tokens", maxTokens) }
        case .query:
            writer.field("query", chat.messages.last { $0.role == .user }?.content ?? "")
            writer.key("message_history")
            writer.beginArray()
            writer.endArray()
            writer.field("query_type", "general")
        }
        writer.endObject()
        return writer.buffer
    }

    /// Asks an Ollama to load a model and nothing else: it answers once the model is there.
    package static func load(model: String, keepAlive: String?) -> ByteBuffer {
        var writer = JSONWriter()
        writer.beginObject()
        writer.field("model", model)
        writer.key("messages")
        writer.beginArray()
        writer.endArray()
        writer.field("stream", false)
        if let keepAlive {
            // Ollama takes a number of seconds as a number, and a duration as a string.
            if let seconds = Int(keepAlive) {
                writer.field("keep_alive", seconds)
            } else {
                writer.field("keep_alive", keepAlive)
            }
        }
        writer.endObject()
        return writer.buffer
    }

    private static func writeMessages(_ chat: ChatRequest, _ writer: inout JSONWriter) {
        writer.key("messages")
        writer.beginArray()
        for message in chat.messages {
            writer.beginObject()
            writer.field("role", message.role.rawValue)
            writer.field("content", message.content)
            writer.endObject()
        }
        writer.endArray()
    }

    private static func writeSampling(_ sampling: SamplingParameters, _ writer: inout JSONWriter) {
        if let temperature = sampling.temperature { writer.field("temperature", temperature) }
        if let topP = sampling.topP { writer.field("top_p", topP) }
        if let topK = sampling.topK { writer.field("top_k", topK) }
    }
}
