import GatewayCore
import GatewayWire

/// A request that runs, as operators see it.
struct RunningRequest: Sendable {
    /// Unique for the life of the process.
    var id: UInt64
    var requestID: String
    var route: String
    var client: String
    var model: String
    /// The one that is asked now.
    var upstream: String?
    var phase: GenerationTrace.Phase
    var accepted: MonotonicTime
    /// Pieces of text so far, about one a token.
    var pieces: Int
    var isStream: Bool

    func write(_ writer: inout JSONWriter, now: MonotonicTime) {
        writer.beginObject()
        writer.field("id", "\(id)")
        writer.field("request_id", requestID)
        writer.field("route", route)
        writer.field("client", client)
        writer.field("model", model)
        writer.field("upstream", upstream)
        writer.field("phase", phase.rawValue)
        writer.field("age_ms", now - accepted)
        writer.field("pieces", pieces)
        writer.field("stream", isStream)
        writer.endObject()
    }
}
