/// A point on the monotonic clock. Core never reads a clock; the time is always an argument.
package struct MonotonicTime: Sendable, Hashable, Comparable {
    /// Nanoseconds since an arbitrary start.
    package var nanoseconds: Int64

    package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    package static func < (left: Self, right: Self) -> Bool { left.nanoseconds < right.nanoseconds }
    package static func + (left: Self, right: Duration) -> Self {
        .init(nanoseconds: left.nanoseconds + right.nanoseconds)
    }
    package static func - (left: Self, right: Self) -> Duration { .nanoseconds(left.nanoseconds - right.nanoseconds) }
}

extension Duration {
    /// Whole nanoseconds; durations in this project are far below the 292 years that fit.
    package var nanoseconds: Int64 {
        Int64(attoseconds / 1_000_000_000)
    }

    package var milliseconds: Double { Double(nanoseconds) / 1_000_000 }
}
