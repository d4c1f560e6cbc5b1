/// The last hour of traffic in steps of ten seconds, for the dashboard.
package struct TimeSeries: Sendable {
    /// What happened in one step.
    package struct Step: Sendable, Equatable {
        package var requests = 0
        /// Requests that were not answered by a model, but those that were refused, or that their client or an operator
        /// ended.
        package var errors = 0
        package var tokens = 0
        package var firstToken = Quantiles()
        package var upstreams: [String: UpstreamStep] = [:]
        package init() {}
    }

    package struct UpstreamStep: Sendable, Equatable {
        package var requests = 0
        package var tokens = 0
        package var firstTokenSum = Duration.zero
        package var firstTokens = 0

        fileprivate mutating func attempt(_ firstToken: Duration?) {
            requests += 1
            guard let firstToken else { return }
            firstTokenSum += firstToken
            firstTokens += 1
        }

        package var firstTokenMean: Duration? { firstTokens == 0 ? nil : firstTokenSum / firstTokens }
    }

    package static let stepSeconds: Int64 = 10
    package static let stepCount: Int64 = 360

    /// A ring: the step with number `n` is at `n % stepCount`.
    private var ring = [Step](repeating: Step(), count: Int(stepCount))
    /// Number of the newest step, counted from the clock's zero.
    private var newest: Int64

    package init(now: MonotonicTime) { newest = Self.number(now) }

    private static func number(_ time: MonotonicTime) -> Int64 { time.nanoseconds / (stepSeconds * 1_000_000_000) }

    /// The step that is filling now. Steps in between, in which nothing happened, become empty.
    private mutating func current(_ now: MonotonicTime) -> Int {
        let number = Self.number(now)
        if number > newest {
            for passed in max(newest + 1, number - Self.stepCount + 1)...number {
                ring[Int(passed % Self.stepCount)] = Step()
            }
            newest = number
        }
        return Int(newest % Self.stepCount)
    }

    package mutating func request(isError: Bool, now: MonotonicTime) {
        let index = current(now)
        ring[index].requests += 1
        if isError { ring[index].errors += 1 }
    }

    package mutating func attempt(_ upstream: String, firstToken: Duration?, now: MonotonicTime) {
        let index = current(now)
        ring[index].upstreams[upstream, default: UpstreamStep()].attempt(firstToken)
        if let firstToken { ring[index].firstToken.record(firstToken) }
    }

    /// Tokens count where they come, not where their request ends.
    package mutating func tokens(_ count: Int, _ upstream: String, now: MonotonicTime) {
        let index = current(now)
        ring[index].tokens += count
        ring[index].upstreams[upstream, default: UpstreamStep()].tokens += count
    }

    /// Number of the step that is filling: it tells whether a new one has begun.
    package mutating func stepNumber(_ now: MonotonicTime) -> Int64 {
        _ = current(now)
        return newest
    }

    /// Oldest first.
    package mutating func steps(_ now: MonotonicTime) -> [Step] {
        let index = current(now)
        return Array(ring[(index + 1)...] + ring[...index])
    }
}

/// Counts durations in steps of 12 %, from which quantiles are read with that precision.
package struct Quantiles: Sendable, Equatable {
    private static let lowest = 0.0005
    private static let ratio = 1.12
    private static let buckets = 140
    private var counts: [UInt32] = []
    private var total: UInt32 = 0

    package init() {}

    package mutating func record(_ duration: Duration) {
        if counts.isEmpty { counts = [UInt32](repeating: 0, count: Self.buckets) }
        let seconds = duration.milliseconds / 1000
        var bound = Self.lowest
        var index = 0
        while seconds > bound, index < Self.buckets - 1 {
            bound *= Self.ratio
            index += 1
        }
        counts[index] += 1
        total += 1
    }

    /// - Parameter share: 0...1.
    /// - Returns: the upper bound of the bucket that holds it; nil where nothing was recorded.
    package func quantile(_ share: Double) -> Duration? {
        guard total > 0 else { return nil }
        let rank = max(1, (Double(total) * share).rounded(.up))
        var bound = Self.lowest
        var seen: UInt32 = 0
        for count in counts {
            seen += count
            if Double(seen) >= rank { break }
            bound *= Self.ratio
        }
        return .microseconds(Int64(bound * 1e6))
    }
}
