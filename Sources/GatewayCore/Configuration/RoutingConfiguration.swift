/// How an upstream is chosen among the available ones.
package enum RoutingPolicy: String, Sendable, CaseIterable {
    /// Configured order.
    case priority
    /// Fewest requests in flight per slot.
    case leastBusy = "least-busy"
    /// Lowest recent time to first token, with requests in flight as a penalty.
    case fastest
    /// In proportion to `weight`.
    case weighted
}

/// The `[routing]` table.
package struct RoutingConfiguration: Sendable, Equatable {
    package var policy: RoutingPolicy = .priority
    /// Attempts for one request, 1...10; each upstream is tried at most once.
    package var maxAttempts = 3
    package var retryBudget = RetryBudgetConfiguration()
    package var breaker = BreakerConfiguration()
    package init() {}
}

/// Bounds retries to a share of recent requests, so that they cannot multiply an overload.
package struct RetryBudgetConfiguration: Sendable, Equatable {
    /// Percent of the requests of the last 10 s, 0...100.
    package var percent = 20
    /// Retries allowed in any 10 s beside that share.
    package var minimum = 3
    package init() {}
}

/// The passive breaker that watches real requests.
package struct BreakerConfiguration: Sendable, Equatable {
    /// Failures in a row that open it.
    package var consecutiveFailures = 5
    /// Percent of failures in the window that open it, once it holds `minimumRequests`.
    package var failurePercent = 50
    package var minimumRequests = 20
    package var window: Duration = .seconds(30)
    /// First time it stays open; each opening in a row adds as much again.
    package var openTime: Duration = .seconds(30)
    package var maxOpenTime: Duration = .seconds(300)
    /// After recovery an upstream's share grows to its whole over this time.
    package var slowStart: Duration = .seconds(10)
    package init() {}
}
