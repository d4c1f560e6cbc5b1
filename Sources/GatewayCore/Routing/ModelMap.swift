/// Which model of an upstream a client's model id means.
package struct ModelMap: Sendable {
    /// By model id, then by upstream index.
    private let mapped: [[UInt8]: [String?]]
    private let defaults: [String?]

    package init(models: [ModelConfiguration], upstreams: [UpstreamConfiguration]) {
        defaults = upstreams.map(\.model)
        var mapped: [[UInt8]: [String?]] = [:]
        for model in models where !model.upstreamModels.isEmpty {
            mapped[Array(model.id.utf8)] = upstreams.map { model.upstreamModels[$0.name] }
        }
        self.mapped = mapped
    }

    /// The upstream's default model where the id is unknown or not mapped there; nil where it has none either.
    /// Ids are compared as bytes: Swift's `==` takes composed and decomposed letters for equal.
    package func model(for id: String, on upstream: UpstreamID) -> String? {
        guard !mapped.isEmpty, let models = mapped[Array(id.utf8)] else { return defaults[upstream.index] }
        return models[upstream.index] ?? defaults[upstream.index]
    }
}

extension SamplingParameters {
    /// What the Python endpoint sent where the client said nothing.
    package static let productDefaults = SamplingParameters(temperature: 0.7, topP: 0.9, topK: nil, maxTokens: 512)

    /// The values of `self`, and `other`'s where `self` has none.
    package func filled(from other: SamplingParameters) -> SamplingParameters {
        SamplingParameters(
            temperature: temperature ?? other.temperature, topP: topP ?? other.topP, topK: topK ?? other.topK,
            maxTokens: maxTokens ?? other.maxTokens)
    }
}
