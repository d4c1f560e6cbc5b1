import CurlMulti
import GatewayCore
import GatewayWire

/// What every transfer to one upstream shares, made once.
final class UpstreamEndpoint: Sendable {
    let configuration: UpstreamConfiguration
    /// Of a generation.
    let target: TransferTarget
    let postHeaders: HeaderList
    let getHeaders: HeaderList

    init(_ configuration: UpstreamConfiguration) throws(GatewayError) {
        self.configuration = configuration
        target = configuration.url.target(UpstreamPaths.generate(configuration))
        var fields: [(name: String, value: String)] = [("User-Agent", "webllm-gateway")]
        if let key = configuration.apiKey { fields.append(("Authorization", "Bearer \(key)")) }
        let get = HeaderList(fields + [("Accept", "application/json")])
        // libcurl adds an Accept for everything: the server knows from the body what is asked for.
        let post = HeaderList(fields + [("Content-Type", "application/json")])
        guard let get, let post else {
            throw GatewayError("upstream \(configuration.name): api_key holds a line break")
        }
        getHeaders = get
        postHeaders = post
    }
}

extension UpstreamURL {
    /// - Parameter path: from the server's root.
    func target(_ path: String) -> TransferTarget {
        TransferTarget(isTLS: isTLS, host: host, port: port, path: path)
    }
}
