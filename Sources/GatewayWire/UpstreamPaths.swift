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
        case .openai: openAI(upstream.url) + "/health"
        }
    }

    /// For a server that answers ``liveness(_:)`` with 4xx: llama.cpp and vLLM have `/health`, and others have not.
    package static func livenessFallback(_ upstream: UpstreamConfiguration) -> String? {
        upstream.kind == .openai ? installedModels(upstream) : nil
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
