/// Counts durations in buckets of fixed upper bounds, as Prometheus' histograms do.
package struct Histogram: Sendable, Equatable {
    /// Upper bounds in seconds, ascending; above the last comes the bucket without bound.
    package let bounds: [Double]
    /// One count for each bound, and one for the rest; not cumulative.
    package private(set) var counts: [UInt64]
    package private(set) var sum = 0.0

    package init(bounds: [Double]) {
        self.bounds = bounds
        counts = [UInt64](repeating: 0, count: bounds.count + 1)
    }

    package var total: UInt64 { counts.reduce(0, +) }

    package mutating func record(_ duration: Duration) {
        let seconds = duration.milliseconds / 1000
        // Few buckets, and most values are in the first ones: a walk beats a search.
        var index = 0
        while index < bounds.count, seconds > bounds[index] { index += 1 }
        counts[index] += 1
        sum += seconds
    }
}

/// Bounds that fit models: OpenTelemetry's advice for generative AI clients, and on to what a cold model takes.
package enum HistogramBounds {
    package static let firstToken: [Double] = [
        0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300,
    ]
    package static let perToken: [Double] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5,
    ]
    package static let request: [Double] = [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
        327.68, 655.36,
    ]
    package static let short: [Double] = [
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
    ]
}
