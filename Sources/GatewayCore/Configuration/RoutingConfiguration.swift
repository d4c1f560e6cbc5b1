/// Which of the available upstreams is asked first.
package enum RoutingPolicy: String, Sendable, CaseIterable {
    /// Configured order.
    case priority
    /// Fewest requests in flight for its slots.
    case leastBusy = "least-busy"
    /// Lowest recent time to the first token, with requests in flight as a penalty.
    case fastest
    /// In turn, by weight.
    case weighted
}

/// The `[routing]` table.
package struct RoutingConfiguration: Sendable, Equatable {
    package var policy: RoutingPolicy = .priority
    /// Attempts for one request, 1...10; each upstream is tried at most once.
    package var maxAttempts = 3
    /// Generations that may be made a second time, for one request, 0...1, and how many are always allowed: more than the
    /// failures that open a breaker, or a server that fails would cost answers which another could have given.
    package var retryRatio = 0.2
    package var retryMinimum = 10
    /// How long an upstream's share grows after it recovered.
    package var slowStart: Duration = .seconds(10)
    /// Whether a client may choose its upstream with the header `X-Gateway-Upstream`.
    package var allowPin = false

    package init() {}
}
