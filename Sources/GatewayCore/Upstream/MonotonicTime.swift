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
        // Up to nine seconds, 64 bits are enough, which are divided at once.
        if let few = Int64(exactly: attoseconds) { return few / 1_000_000_000 }
        return Int64(clamping: attoseconds / 1_000_000_000)
    }

    package var milliseconds: Double { Double(nanoseconds) / 1_000_000 }
}
