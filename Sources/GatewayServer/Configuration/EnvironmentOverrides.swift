import GatewayCore
import TOMLKit

/// The variables that deployments of the Python endpoint set, and the gateway's own.
enum EnvironmentOverrides {
    /// - Parameter hasFile: without a file the two upstreams of the Python endpoint are there by default.
    static func apply(
        _ environment: [String: String], to configuration: inout GatewayConfiguration, hasFile: Bool,
        log: TableReader.Log
    ) {
        if !hasFile && configuration.upstreams.isEmpty {
            for name in ["ollama", "backend"] { _ = indexOfUpstream(name, in: &configuration, environment, log) }
        }
        if let text = value("OLLAMA_BASE_URL", environment) {
            setURL(text, "OLLAMA_BASE_URL", of: "ollama", in: &configuration, environment, log)
        }
        if let model = value("OLLAMA_MODEL", environment) {
            if GatewayReader.isModelName(model) {
                let index = indexOfUpstream("ollama", in: &configuration, environment, log)
                configuration.upstreams[index].model = model
                log.override("upstream[\(index)].model", "\"\(model)\"", .environment("OLLAMA_MODEL"))
            } else {
                let detail = GatewayReader.modelNameRule(model)
                log.faults.append(.init(kind: .badValue, key: "OLLAMA_MODEL", detail: detail))
            }
        }
        if let text = value("LLM_SERVICE_URL", environment) {
            setURL(text, "LLM_SERVICE_URL", of: "backend", in: &configuration, environment, log)
        }
        if let text = value("WEBLLM_GATEWAY_LISTEN", environment) {
            configuration.server.listen = ConfigurationLoader.addresses(
                text.split(separator: ",").compactMap { trimmed($0) }, key: "WEBLLM_GATEWAY_LISTEN",
                source: .environment("WEBLLM_GATEWAY_LISTEN"), log: log)
        }
    }

    /// An empty variable counts as absent, as in a shell.
    private static func value(_ name: String, _ environment: [String: String]) -> String? {
        environment[name].flatMap { $0.isEmpty ? nil : $0 }
    }

    /// Without the spaces around it; nil where there is nothing else.
    private static func trimmed(_ text: Substring) -> String? {
        guard let end = text.lastIndex(where: { !$0.isWhitespace }) else { return nil }
        return String(text[...end].drop(while: \.isWhitespace))
    }

    private static func setURL(
        _ text: String, _ variable: String, of name: String, in configuration: inout GatewayConfiguration,
        _ environment: [String: String], _ log: TableReader.Log
    ) {
        do throws(TextFault) {
            let url = try UpstreamURL.parse(text)
            let index = indexOfUpstream(name, in: &configuration, environment, log)
            configuration.upstreams[index].url = url
            log.override("upstream[\(index)].url", url.text, .environment(variable))
        } catch {
            log.faults.append(
                .init(kind: .badValue, key: variable, detail: "the value is not accepted; expected \(error)"))
        }
    }

    /// Adds the upstream where the file does not have it.
    private static func indexOfUpstream(
        _ name: String, in configuration: inout GatewayConfiguration, _ environment: [String: String],
        _ log: TableReader.Log
    ) -> Int {
        if let index = configuration.upstreams.firstIndex(where: { $0.name == name }) { return index }
        let index = configuration.upstreams.count
        let reader = TableReader(defaultUpstream(name), path: "upstream[\(index)]", log: log, source: .builtIn)
        if let upstream = GatewayReader.upstream(reader, environment) { configuration.upstreams.append(upstream) }
        return index
    }

    private static func defaultUpstream(_ name: String) -> TOMLTable {
        name == "ollama"
            ? ["name": "ollama", "kind": "ollama", "url": "http://127.0.0.1:11434", "model": "llama3"]
            : ["name": "backend", "kind": "query", "url": "http://127.0.0.1:5000/query"]
    }
}
