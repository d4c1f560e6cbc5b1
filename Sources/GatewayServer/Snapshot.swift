import GatewayCore
import GatewayWire

/// A configuration and what is made of it once: a request keeps its snapshot from accept to settle, a reload makes a new
/// one.
final class Snapshot: Sendable {
    let configuration: GatewayConfiguration
    let endpoints: [UpstreamID: UpstreamEndpoint]
    let models: ModelMap
    let webllmLimits: WebLLMLimits

    init(_ configuration: GatewayConfiguration, ids: [UpstreamID]) throws(GatewayError) {
        self.configuration = configuration
        var endpoints: [UpstreamID: UpstreamEndpoint] = [:]
        for (id, upstream) in zip(ids, configuration.upstreams) { endpoints[id] = try UpstreamEndpoint(upstream) }
        self.endpoints = endpoints
        models = ModelMap(
            models: configuration.models, upstreams: zip(ids, configuration.upstreams).map { ($0, $1) })
        webllmLimits = WebLLMLimits(
            maxPromptCharacters: configuration.webllm.maxPromptCharacters, maxBatch: configuration.webllm.maxBatch)
    }
}
