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
    /// Whole nanoseconds; at most 292 years, which only a sum over all requests ever comes near.
    package var nanoseconds: Int64 {
        Int64(clamping: attoseconds / 1_000_000_000)
    }

    package var milliseconds: Double { Double(nanoseconds) / 1_000_000 }
}
