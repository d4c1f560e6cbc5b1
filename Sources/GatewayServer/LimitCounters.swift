import Synchronization

/// How often each limit has bitten since the start.
final class LimitCounters: Sendable {
    /// A closed set, fit for a metric label.
    enum Limit: String, CaseIterable, Sendable {
        case connections
        case connectionsPerAddress = "connections_per_address"
        case adminConnections = "admin_connections"
        case head, body
        /// All request bodies together.
        case bodyMemory = "body_memory"
        case clientStall = "client_stall"
        /// A line or the whole of an upstream's reply.
        case reply
        case queue
        case queueTime = "queue_time"
        case retryBudget = "retry_budget"
    }

    private let counts = Mutex([Limit: Int]())

    func note(_ limit: Limit) { counts.withLock { $0[limit, default: 0] += 1 } }

    subscript(limit: Limit) -> Int { counts.withLock { $0[limit] ?? 0 } }
}
