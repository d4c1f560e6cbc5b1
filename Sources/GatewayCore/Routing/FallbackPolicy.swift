/// What a failed attempt means for the request and for its upstream.
package struct FallbackDecision: Sendable, Equatable {
    package var next = false
    /// Whether it is a sign that the upstream is ill.
    package var countsAgainst = false
    /// How long the upstream is left alone.
    package var rest: Duration?
    /// Whether the upstream may have worked for it: a second generation is then a cost that the retry budget bounds.
    package var isCostly = false
    /// A fault of the configuration or of our own request, to be logged as a warning.
    package var isConfigurationFault = false

    package init(
        next: Bool = false, countsAgainst: Bool = false, rest: Duration? = nil,
        isCostly: Bool = false, isConfigurationFault: Bool = false
    ) {
        self.next = next
        self.countsAgainst = countsAgainst
        self.rest = rest
        self.isCostly = isCostly
        self.isConfigurationFault = isConfigurationFault
    }
}

/// The table "what may be tried again, and where" (docs/policy.md), one row a case.
package enum FallbackPolicy {
    /// - Parameters:
    ///   - committed: the client has a first piece of the answer; from there on nothing is tried again.
    ///   - idempotent: whether a `query` upstream may be left for another after the request was sent.
    package static func decide(
        _ failure: AttemptFailure, kind: UpstreamKind, idempotent: Bool, committed: Bool
    ) -> FallbackDecision {
        if committed { return FallbackDecision(countsAgainst: failure != .disabled) }
        let maySendAgain = kind != .query || idempotent
        switch failure {
        // A stale connection is one that was stale twice: the same upstream had its second chance.
        case .staleConnection, .resolve, .connect, .connectTimer, .tls:
            return FallbackDecision(next: true, countsAgainst: true)
        case .noReply, .firstTokenTimer, .idleTimer, .protocolError, .reply:
            return FallbackDecision(next: maySendAgain, countsAgainst: true, isCostly: true)
        case .busy:
            return FallbackDecision(next: true)
        case .tooManyRequests(let retryAfter):
            return FallbackDecision(next: true, rest: .seconds(rest(retryAfter)))
        case .disabled, .modelNotFound:
            return FallbackDecision(next: true)
        case .status(let code):
            switch code {
            case 400...499: return FallbackDecision(next: true, isConfigurationFault: true)
            default: return FallbackDecision(next: maySendAgain || code < 500, countsAgainst: true, isCostly: true)
            }
        }
    }

    /// Seconds that an upstream rests which answered 429: as it asks, 0...300, else 5.
    package static func rest(_ retryAfter: Int?) -> Int { min(300, max(0, retryAfter ?? 5)) }
}
