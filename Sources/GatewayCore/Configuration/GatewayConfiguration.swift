/// Everything gateway.conf can say, typed and validated: an immutable snapshot that a request keeps from accept to settle.
///
/// The defaults here are the defaults of the product; gateway.conf documents each of them.
package struct GatewayConfiguration: Sendable, Equatable {
    package var server = ServerConfiguration()
    package var admin = AdminConfiguration()
    package var webllm = WebLLMConfiguration()
    package var upstreams: [UpstreamConfiguration] = []
    package var routing = RoutingConfiguration()
    package var models: [ModelConfiguration] = ModelConfiguration.defaultCatalogue
    package var history = HistoryConfiguration()
    package var log = LogConfiguration()

    package init() {}
}

/// An address the gateway listens on.
package enum ListenAddress: Sendable, Hashable {
    /// A numeric IPv4 or IPv6 host (without brackets) and a port; port 0 lets the system choose.
    case tcp(host: String, port: Int)
    /// A Unix socket path.
    case unix(path: String)

    /// Whether several of them are several addresses all the same.
    package var isChosenBySystem: Bool {
        if case .tcp(_, port: 0) = self { true } else { false }
    }

    /// Whether only this machine's own programs reach it.
    package var isLocal: Bool {
        switch self {
        case .tcp(let host, _): host.hasPrefix("127.") || host == "::1"
        case .unix: true
        }
    }

    /// Whether it stands for all addresses, the other one among them: no gateway listens on both. `[::]`
    /// takes IPv4 too.
    package func includes(_ other: ListenAddress) -> Bool {
        guard case .tcp(let host, let port) = self, case .tcp(let otherHost, let otherPort) = other,
            port == otherPort, !isChosenBySystem, host != otherHost
        else { return false }
        return host == "::" || (host == "0.0.0.0" && !otherHost.contains(":"))
    }
}

/// The `[server]` table: listeners, threads, limits and the client-side timers.
package struct ServerConfiguration: Sendable, Equatable {
    package var listen: [ListenAddress] = [.tcp(host: "127.0.0.1", port: 8000)]
    /// NIO event loops, 0...256; 0 means one a core.
    package var threads = 0
    /// libcurl loop threads, 0...``maxCurlLoops``; 0 means one a core, as many at most.
    package var curlLoops = 0
    package static let maxCurlLoops = 16
    /// Largest request body, in bytes.
    package var maxBody = 4 << 20
    /// Bytes that the bodies of all requests may take together, while they arrive, wait and run.
    package var maxBodyMemory = 256 << 20
    /// Largest request head (request line and headers), in bytes.
    package var maxHead = 16 << 10
    /// Most client connections at once; further ones are closed at once.
    package var maxConnections = 8192
    /// Most connections of one address at once.
    package var maxConnectionsPerAddress = 4096
    /// Requests served on one connection before it is closed.
    package var maxRequestsPerConnection = 1000
    /// From accept, or the first byte after a response, to the end of the head.
    package var headTimeout: Duration = .seconds(10)
    /// From the end of a response to the first byte of the next request.
    package var keepAliveTimeout: Duration = .seconds(60)
    /// Longest silence inside a request body.
    package var bodyIdleTimeout: Duration = .seconds(10)
    /// From the end of the head to the end of the body.
    package var bodyTimeout: Duration = .seconds(60)
    /// Longest time reply bytes wait for a client that does not read.
    package var clientStallTimeout: Duration = .seconds(30)
    /// From accept to settle: queue and all attempts included.
    package var totalTimeout: Duration = .seconds(600)
    /// Sent on a stream that has been silent for this long; nil sends nothing.
    package var heartbeat: Duration?
    /// From SIGTERM to the end of the last stream.
    package var drainTimeout: Duration = .seconds(30)
    /// Whether `/metrics` is served to clients too, not only on the admin listener.
    package var metrics = false

    package init() {}
}

/// The `[admin]` table: the listener for operators.
package struct AdminConfiguration: Sendable, Equatable {
    /// Empty: no such listener.
    package var listen: [ListenAddress] = [.tcp(host: "127.0.0.1", port: 8001)]
    /// Names beside the loopback's by which the listener may be addressed.
    package var allowedHosts: [String] = []
    /// Pages of these origins may ask the listener too, such as `https://ops.example`; its own is always allowed.
    package var allowedOrigins: [String] = []
    /// SHA-256 of the token that every request must bring, 32 bytes; nil asks for none.
    package var tokenDigest: [UInt8]?

    package init() {}
}

/// The `[webllm]` table: what is specific to the WebLLM API.
package struct WebLLMConfiguration: Sendable, Equatable {
    package var defaultModel = "mistralai/Mistral-7B-Instruct-v0.2"
    package var systemPrompt = "You are a helpful AI assistant. Answer clearly and concisely."
    /// In Unicode code points.
    package var maxPromptCharacters = 2000
    /// Most prompts in one batch.
    package var maxBatch = 100
    /// Sent as the text of a 200 reply when every upstream failed; empty answers 429, 502, 503 or 504 instead.
    package var fallbackMessage =
        "I apologize, but I'm unable to connect to the AI service at the moment. "
        + "Please try again later or contact support."

    package init() {}
}

/// The `[history]` table.
package struct HistoryConfiguration: Sendable, Equatable {
    /// The database file; nil keeps the history in memory, and it ends with the process.
    package var path: String?
    /// Requests kept; the oldest ones go. 0 keeps none.
    package var maxRows = 1_000_000
    /// Older requests are deleted.
    package var retention: Duration = .seconds(30 * 86_400)
    /// Whether the texts of answers are kept.
    package var storeText = true

    package init() {}
}

/// The `[log]` table.
package struct LogConfiguration: Sendable, Equatable {
    package enum Level: String, Sendable, CaseIterable { case trace, debug, info, notice, warning, error, critical }
    package enum Format: String, Sendable, CaseIterable { case json, logfmt }
    package var level: Level = .info
    package var format: Format = .json
    /// One line a request.
    package var access = true

    package init() {}
}
