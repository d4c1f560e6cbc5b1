import CurlMulti
import GatewayCore
import GatewayWire

/// What every transfer to one upstream shares, made once.
struct UpstreamEndpoint: Sendable {
    let configuration: UpstreamConfiguration
    let target: TransferTarget
    let path: String
    let postHeaders: HeaderList
    let getHeaders: HeaderList

    init(_ configuration: UpstreamConfiguration) throws(GatewayError) {
        self.configuration = configuration
        target = TransferTarget(
            isTLS: configuration.url.isTLS, host: configuration.url.host, port: configuration.url.port)
        path = UpstreamRequestWriter.path(configuration)
        var fields: [(name: String, value: String)] = [("User-Agent", "webllm-gateway")]
        if let key = configuration.apiKey { fields.append(("Authorization", "Bearer \(key)")) }
        let get = HeaderList(fields + [("Accept", "application/json")])
        let accept = "application/x-ndjson, text/event-stream, application/json"
        let post = HeaderList(fields + [("Content-Type", "application/json"), ("Accept", accept)])
        guard let get, let post else {
            throw GatewayError("upstream \(configuration.name): api_key holds a line break")
        }
        getHeaders = get
        postHeaders = post
    }
}

/// The gateway cannot start or go on; one line for the operator.
package struct GatewayError: Error, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}
