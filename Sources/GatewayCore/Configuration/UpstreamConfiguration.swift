/// What a server behind the gateway speaks.
package enum UpstreamKind: String, Sendable, CaseIterable {
    /// Ollama's own API: `POST /api/chat`.
    case ollama
    /// The Python inference backend: `POST /query/`.
    case query
    /// `POST /v1/chat/completions`: llama.cpp, vLLM, LM Studio and others.
    case openai
}

/// An upstream's base address, already validated: http or https, a host, no user info, query or fragment.
package struct UpstreamURL: Sendable, Hashable {
    package var isTLS: Bool
    /// As in a URL: a name, an IPv4 address, or an IPv6 address without brackets.
    package var host: String
    package var port: Int
    /// Path below which the API lies: empty, or starting with `/` and not ending with one.
    package var basePath: String
    /// Whether a `/` follows it, which matters where the address is an endpoint itself.
    package var endsInSlash: Bool

    package init(isTLS: Bool = false, host: String, port: Int, basePath: String = "", endsInSlash: Bool = false) {
        self.isTLS = isTLS
        self.host = host
        self.port = port
        self.basePath = basePath
        self.endsInSlash = endsInSlash
    }

    /// `http://host:port`, with brackets around an IPv6 address.
    package var origin: String {
        "\(isTLS ? "https" : "http")://\(host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host):\(port)"
    }
}

/// One `[[upstream]]` table.
package struct UpstreamConfiguration: Sendable, Equatable {
    /// Unique; `[A-Za-z0-9._-]{1,64}`.
    package var name: String
    package var kind: UpstreamKind
    package var url: UpstreamURL
    /// Model used where `[[model]]` names none for this upstream. `query` upstreams have none.
    package var model: String?
    /// Sent as `Authorization: Bearer …`. A secret: never logged, printed as `***`.
    package var apiKey: String?
    /// Requests in flight at once, 1...10000.
    package var maxInFlight = 4
    /// Requests that may wait for a slot, 0...100000.
    package var maxQueue = 64
    /// Longest wait for a slot.
    package var queueTimeout: Duration = .seconds(10)
    /// `query` only: whether a request that was sent but not answered may be tried elsewhere.
    package var idempotent = true
    /// Share under the policy `weighted`, 1...1000.
    package var weight = 1
    /// Ollama only: models that the gateway loads at start, after a recovery and after a reload that changes the upstream.
    package var warm = WarmConfiguration()
    package var timeouts = UpstreamTimeouts()
    package var breaker = BreakerConfiguration()
    package var health = HealthCheckConfiguration()

    package init(name: String, kind: UpstreamKind, url: UpstreamURL, model: String? = nil) {
        self.name = name
        self.kind = kind
        self.url = url
        self.model = model
    }
}

package struct UpstreamTimeouts: Sendable, Equatable {
    /// From dispatch to a connection that is up (TCP, and TLS where used).
    package var connect: Duration = .seconds(2)
    /// From dispatch, connecting included, to the first whole object with content or an error.
    package var firstToken: Duration = .seconds(120)
    /// Longest silence between two whole objects after the first token.
    package var idle: Duration = .seconds(60)
    /// In place of `firstToken` while an Ollama loads the model.
    package var firstTokenCold: Duration = .seconds(300)
    package init() {}

    /// The time of the timer that fired; nil where none did.
    package func duration(of failure: AttemptFailure) -> Duration? {
        switch failure {
        case .connectTimer: connect
        case .firstTokenTimer: firstToken
        case .idleTimer: idle
        default: nil
        }
    }
}

package struct WarmConfiguration: Sendable, Equatable {
    package var models: [String] = []
    /// How long Ollama keeps a model that the gateway loads, in Ollama's own form ("30m", "-1"); nil leaves it to Ollama.
    package var keepAlive: String?
    package init() {}
}

package struct HealthCheckConfiguration: Sendable, Equatable {
    /// Between two probes, ±10 %.
    package var interval: Duration = .seconds(5)
    /// For one probe, from start to end.
    package var timeout: Duration = .seconds(2)
    /// Failures in a row that mark an upstream down.
    package var fall = 3
    /// Successes in a row that mark it up again.
    package var rise = 2
    package init() {}
}
