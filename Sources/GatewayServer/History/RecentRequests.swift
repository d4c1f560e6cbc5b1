/// The newest requests, oldest first, as they are kept in memory: bounded in number and in bytes of text.
struct RecentRequests: Sendable {
    private(set) var entries: [Shared<StoredRequest>] = []
    private var bytes = 0
    /// An answer may have 16 MiB.
    static let maxBytes = 16 << 20

    /// - Parameter most: how many are of use; twice as many are kept at times, as taking away the first moves all.
    mutating func append(_ entry: Shared<StoredRequest>, atMost most: Int) {
        entries.append(entry)
        bytes += Self.bytes(entry)
        if entries.count > 2 * most { removeFirst(entries.count - most) }
        guard bytes > Self.maxBytes else { return }
        var count = 0
        var rest = bytes
        while rest > Self.maxBytes, count < entries.count - 1 {
            rest -= Self.bytes(entries[count])
            count += 1
        }
        removeFirst(count)
    }

    /// What is deleted from the database is not kept here either.
    /// - Parameter time: a key of ``StoredRequest``, in microseconds since 1970.
    mutating func remove(olderThan time: Int64, keeping most: Int) {
        let old = entries.prefix { $0.id < time }.count
        removeFirst(max(old, entries.count - most))
    }

    private mutating func removeFirst(_ count: Int) {
        guard count > 0 else { return }
        for entry in entries.prefix(count) { bytes -= Self.bytes(entry) }
        entries.removeFirst(count)
    }

    private static func bytes(_ entry: Shared<StoredRequest>) -> Int { entry.text?.utf8.count ?? 0 }
}
