import GatewayCore

/// What an upstream is asked, by its kind (docs/configuration.md): paths from the server's root.
package enum UpstreamPaths {
    /// `POST`: a generation, or the load of a model.
    package static func generate(_ upstream: UpstreamConfiguration) -> String {
        switch upstream.kind {
        case .ollama: upstream.url.basePath + "/api/chat"
        case .query: queryPath(upstream.url)
        case .openai: openAI(upstream.url) + "/v1/chat/completions"
        }
    }

    /// `GET`: whether it lives. A `query` upstream lives by any status below 500, the others by 200.
    package static func liveness(_ upstream: UpstreamConfiguration) -> String {
        switch upstream.kind {
        case .ollama: upstream.url.basePath + "/api/version"
        case .query: "/"
        case .openai: openAI(upstream.url) + "/v1/models"
        }
    }

    /// `GET`: what a server says of its own health; nil where a kind has none. Only for a server that
    /// ``hasFreeHealth(_:parser:)``, or that has no list of models: LiteLLM asks all models behind it for a completion here,
    /// and SGLang generates a token.
    package static func health(_ upstream: UpstreamConfiguration) -> String? {
        upstream.kind == .openai ? openAI(upstream.url) + "/health" : nil
    }

    /// Whether a list of models is of llama.cpp or vLLM, whose ``health(_:)`` costs nothing and tells more than the list:
    /// 503 while the model loads (some llama.cpp list it meanwhile), or when the engine is dead.
    package static func hasFreeHealth(_ list: [UInt8], parser: JSONParser) -> Bool {
        guard let models = (try? parser.parse(list))?["data"], models.kind == .array else { return false }
        var owners: Set<String> = []
        models.forEachElement { (model) throws(Never) in owners.insert(model["owned_by"]?.string ?? "") }
        return !owners.isEmpty && owners.isSubset(of: ["llamacpp", "vllm"])
    }

    /// `GET`: the models it has; nil where a kind does not tell.
    package static func installedModels(_ upstream: UpstreamConfiguration) -> String? {
        switch upstream.kind {
        case .ollama: upstream.url.basePath + "/api/tags"
        case .query: nil
        case .openai: openAI(upstream.url) + "/v1/models"
        }
    }

    /// `GET`: the models it has in memory.
    package static func loadedModels(_ upstream: UpstreamConfiguration) -> String? {
        upstream.kind == .ollama ? upstream.url.basePath + "/api/ps" : nil
    }

    /// The address may be given with or without the `/v1` that it ends in; `/health` lies beside that.
    private static func openAI(_ url: UpstreamURL) -> String {
        url.basePath.hasSuffix("/v1") ? String(url.basePath.dropLast(3)) : url.basePath
    }

    /// The address in gateway.conf is the endpoint itself, as in LLM_SERVICE_URL. The backend's own is `/query/`, which it
    /// does not answer without the last slash.
    private static func queryPath(_ url: UpstreamURL) -> String {
        if url.basePath.isEmpty || url.basePath.hasSuffix("/query") {
            return (url.basePath.isEmpty ? "/query" : url.basePath) + "/"
        }
        return url.basePath + (url.endsInSlash ? "/" : "")
    }
}
