/// Counts durations, from which quantiles are read: exact below 256 µs, within 0.4 % above, in bounded memory.
struct DurationCounts {
    private var counts: [Int: Int] = [:]
    private(set) var total = 0

    mutating func record(_ duration: Duration) {
        counts[Self.bucket(UInt64(max(0, duration / .microseconds(1)))), default: 0] += 1
        total += 1
    }

    /// - Parameter share: 0...1.
    /// - Returns: nil where nothing was recorded.
    func quantile(_ share: Double) -> Duration? {
        let rank = max(1, Int((Double(total) * share).rounded(.up)))
        var seen = 0
        for (bucket, count) in counts.sorted(by: { $0.key < $1.key }) {
            seen += count
            if seen >= rank { return .microseconds(Self.middle(bucket)) }
        }
        return nil
    }

    /// The eight leading bits and how far they are shifted.
    private static func bucket(_ microseconds: UInt64) -> Int {
        let shift = max(0, 56 - microseconds.leadingZeroBitCount)
        return shift << 8 | Int(microseconds >> shift)
    }

    private static func middle(_ bucket: Int) -> Int {
        let shift = bucket >> 8
        return (bucket & 255) << shift + (1 << shift) / 2
    }
}
