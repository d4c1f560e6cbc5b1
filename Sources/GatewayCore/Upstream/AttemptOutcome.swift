/// How one attempt at one upstream ended. A closed set: its labels go to logs, metrics and history.
package enum AttemptOutcome: Sendable, Equatable {
    /// Ended without error, status 200 and the dialect's end.
    case success
    case failed(AttemptFailure)
    /// Ended by us for a reason that says nothing about the upstream.
    case abandoned(AbandonReason)
}

package enum AbandonReason: String, Sendable, Equatable, CaseIterable {
    case clientLeft = "client_left"
    case drain
    case totalDeadline = "total_deadline"
    /// An operator ended this one request.
    case cancelled
}

package enum AttemptFailure: Error, Sendable, Equatable {
    /// The host name has no address.
    case resolve
    /// Refused, unreachable, reset while connecting.
    case connect
    case connectTimer
    case tls
    /// A pooled connection turned out stale before any byte of this request was answered. May be tried once more on
    /// the same upstream.
    case staleConnection
    /// The request was sent and the connection ended without one byte back.
    case noReply
    case firstTokenTimer
    case idleTimer
    /// A status other than 200 that has no case of its own.
    case status(Int)
    /// 429; seconds until what Retry-After says, where that could be read.
    case tooManyRequests(retryAfter: Int?)
    /// 503 whose body says that the upstream is only busy (Ollama's queue is full).
    case busy
    /// 404 that means the model is not there.
    case modelNotFound
    /// The head or the transfer encoding was damaged, or the connection was cut inside the body.
    case protocolError
    case reply(ReplyFault)
    /// An operator disabled the upstream while it answered.
    case disabled

    /// Fit for a log field or a metric label.
    package var label: String {
        switch self {
        case .resolve: "resolve"
        case .connect: "connect"
        case .connectTimer: "connect_timer"
        case .tls: "tls"
        case .staleConnection: "stale_connection"
        case .noReply: "no_reply"
        case .firstTokenTimer: "first_token_timer"
        case .idleTimer: "idle_timer"
        case .status(let code): "status_\(code)"
        case .tooManyRequests: "status_429"
        case .busy: "busy"
        case .modelNotFound: "model_not_found"
        case .protocolError: "protocol_error"
        case .reply(let fault): fault.rawValue
        case .disabled: "disabled"
        }
    }

    /// The timer that fired, by its key in gateway.conf.
    package var timer: String? {
        switch self {
        case .connectTimer: "connect"
        case .firstTokenTimer: "first_token"
        case .idleTimer: "idle"
        default: nil
        }
    }

    /// The upstream works, and does not take what it is configured for: another model, another key, another path. A 400 may
    /// be a client's prompt that is too long for the model.
    package var isConfigurationFault: Bool {
        switch self {
        case .modelNotFound, .status(401), .status(403...405): true
        default: false
        }
    }

    /// Whether the failure is a timeout, for the choice between 502 and 504.
    package var isTimeout: Bool {
        switch self {
        case .connectTimer, .firstTokenTimer, .idleTimer: true
        default: false
        }
    }
}
