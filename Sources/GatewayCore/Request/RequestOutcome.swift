/// How a request ended. A closed set: its raw values go to logs and metrics.
package enum RequestOutcome: String, Sendable, CaseIterable {
    case ok
    /// Every upstream failed and the configured message was sent in place of an answer.
    case fallback
    /// Refused by our own checks: 4xx, 501 or 503.
    case refused
    /// Every upstream failed, and there is no fallback message: 429, 502, 503 or 504.
    case upstreamsFailed = "upstreams_failed"
    /// No slot in time: 503.
    case overloaded
    /// The upstream failed after the client had a first piece.
    case cutOff = "cut_off"
    /// 499: the client left.
    case clientLeft = "client_left"
    /// An operator ended it.
    case cancelled
    /// Ended because the gateway stops.
    case drained

    /// Whether the gateway or its upstreams failed the client: not where the client's request was wrong, and not where the
    /// client or an operator ended it.
    package var isFailure: Bool {
        switch self {
        case .ok, .refused, .clientLeft, .cancelled: false
        case .fallback, .upstreamsFailed, .overloaded, .cutOff, .drained: true
        }
    }
}
