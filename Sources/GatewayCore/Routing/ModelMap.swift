/// Which model of an upstream a client's model id means.
package struct ModelMap: Sendable {
    /// By model id, then by upstream index.
    private let mapped: [[UInt8]: [Int: String]]
    private let defaults: [Int: String]

    package init(models: [ModelConfiguration], upstreams: [(id: UpstreamID, configuration: UpstreamConfiguration)]) {
        var defaults: [Int: String] = [:]
        for (id, upstream) in upstreams { defaults[id.index] = upstream.model }
        self.defaults = defaults
        var mapped: [[UInt8]: [Int: String]] = [:]
        for model in models where !model.upstreamModels.isEmpty {
            var names: [Int: String] = [:]
            for (id, upstream) in upstreams { names[id.index] = model.upstreamModels[upstream.name] }
            mapped[Array(model.id.utf8)] = names
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
