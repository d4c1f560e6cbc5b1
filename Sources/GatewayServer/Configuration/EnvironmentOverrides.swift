import GatewayCore

/// The variables that deployments of the Python endpoint set, and the gateway's own.
enum EnvironmentOverrides {
    /// - Parameter hasFile: without a file the two upstreams of the Python endpoint are there by default.
    static func apply(
        _ environment: [String: String], to configuration: inout GatewayConfiguration, hasFile: Bool,
        log: TableReader.Log
    ) {
        if !hasFile && configuration.upstreams.isEmpty {
            configuration.upstreams = [
                defaultUpstream("ollama", in: configuration), defaultUpstream("backend", in: configuration),
            ]
        }
        if let text = value("OLLAMA_BASE_URL", environment) {
            setURL(text, "OLLAMA_BASE_URL", of: "ollama", in: &configuration, log)
        }
        if let model = value("OLLAMA_MODEL", environment) {
            if GatewayReader.isModelName(model) {
                let index = indexOfUpstream("ollama", in: &configuration)
                configuration.upstreams[index].model = model
                note("upstream ollama.model", "\"\(model)\"", "OLLAMA_MODEL", log)
            } else {
                let detail = GatewayReader.modelNameRule(model)
                log.faults.append(.init(kind: .badValue, key: "OLLAMA_MODEL", detail: detail))
            }
        }
        if let text = value("LLM_SERVICE_URL", environment) {
            setURL(text, "LLM_SERVICE_URL", of: "backend", in: &configuration, log)
        }
        if let text = value("WEBLLM_GATEWAY_LISTEN", environment) {
            configuration.server.listen = ConfigurationLoader.addresses(
                text.split(separator: ",").map { String($0) }, key: "WEBLLM_GATEWAY_LISTEN",
                source: .environment("WEBLLM_GATEWAY_LISTEN"), log: log)
        }
    }

    /// An empty variable counts as absent, as in a shell.
    private static func value(_ name: String, _ environment: [String: String]) -> String? {
        environment[name].flatMap { $0.isEmpty ? nil : $0 }
    }

    private static func setURL(
        _ text: String, _ variable: String, of name: String, in configuration: inout GatewayConfiguration,
        _ log: TableReader.Log
    ) {
        do throws(TextFault) {
            let url = try UpstreamURL.parse(text)
            let index = indexOfUpstream(name, in: &configuration)
            configuration.upstreams[index].url = url
            note("upstream \(name).url", "\"\(url.text)\"", variable, log)
        } catch {
            log.faults.append(
                .init(kind: .badValue, key: variable, detail: "the value is not accepted; expected \(error)"))
        }
    }

    /// Adds the upstream where the file does not have it.
    private static func indexOfUpstream(_ name: String, in configuration: inout GatewayConfiguration) -> Int {
        if let index = configuration.upstreams.firstIndex(where: { $0.name == name }) { return index }
        configuration.upstreams.append(defaultUpstream(name, in: configuration))
        return configuration.upstreams.count - 1
    }

    private static func defaultUpstream(_ name: String, in configuration: GatewayConfiguration) -> UpstreamConfiguration
    {
        name == "ollama"
            ? UpstreamConfiguration(
                name: "ollama", kind: .ollama, url: UpstreamURL(host: "127.0.0.1", port: 11434), model: "llama3")
            : UpstreamConfiguration(
                name: "backend", kind: .query, url: UpstreamURL(host: "127.0.0.1", port: 5000, basePath: "/query"))
    }

    private static func note(_ key: String, _ value: String, _ variable: String, _ log: TableReader.Log) {
        log.entries.append(.init(key: key, value: value, source: .environment(variable)))
    }
}
