/// Bounds what failing upstreams cost: of the recent requests only a share may be generated a second time.
package struct RetryBudget: Sendable {
    private let ratio: Double
    private let minimum: Int
    private var seconds: [(second: Int64, requests: Int, retries: Int)] = []

    /// Requests and retries are remembered for this long.
    package static let window: Int64 = 10

    /// `retryRatio` retries for one request, and `retryMinimum` in the window that are always allowed.
    init(_ routing: RoutingConfiguration) {
        ratio = routing.retryRatio
        minimum = routing.retryMinimum
    }

    mutating func noteRequest(_ now: MonotonicTime) {
        let index = slot(now)
        seconds[index].requests += 1
    }

    mutating func noteRetry(_ now: MonotonicTime) {
        let index = slot(now)
        seconds[index].retries += 1
    }

    /// Retries that are allowed now.
    package func left(_ now: MonotonicTime) -> Int {
        let oldest = now.nanoseconds / 1_000_000_000 - Self.window
        var allowed = Double(minimum)
        for second in seconds where second.second > oldest {
            allowed += ratio * Double(second.requests) - Double(second.retries)
        }
        return max(0, Int(allowed))
    }

    private mutating func slot(_ now: MonotonicTime) -> Int {
        let second = now.nanoseconds / 1_000_000_000
        if seconds.last?.second != second {
            seconds.removeAll { $0.second <= second - Self.window }
            seconds.append((second, 0, 0))
        }
        return seconds.count - 1
    }
}

/// The pause before a request's second and later fallbacks.
package enum Backoff {
    /// The first fallback is immediate; later ones wait up to 25 ms × 2^n, at most 250 ms, with full jitter.
    /// - Parameters:
    ///   - attempt: attempts made so far, from 1.
    ///   - random: 0...1.
    package static func pause(afterAttempts attempt: Int, random: Double) -> Duration {
        guard attempt > 1 else { return .zero }
        let most = min(250, 25 * (1 << min(attempt - 1, 10)))
        return .microseconds(Int64(Double(most) * 1000 * min(1, max(0, random))))
    }
}
