import GatewayCore
import GatewayWire

/// One request of the past, with the fields of the WebLLM API.
struct HistoryEntry: Sendable {
    var requestID: String
    var text: String
    var tokensGenerated: Int
    var inferenceTime: Duration
    var mode: String
    var modelID: String
    var isSuccess: Bool
    var error: String?
    var timestamp: Timestamp
}

/// Sums over all requests since the start or the last clear.
struct RequestTotals: Sendable, Equatable {
    var inferences = 0
    var tokens = 0
    var time = Duration.zero
    /// By the `mode` that clients send.
    var clientSide = 0
    var serverSide = 0

    var averageTime: Duration { inferences == 0 ? .zero : time / inferences }

    mutating func add(_ entry: HistoryEntry) {
        inferences += 1
        tokens += entry.tokensGenerated
        time += entry.inferenceTime
        if entry.mode == "client_side" { clientSide += 1 }
        if entry.mode == "server_side" { serverSide += 1 }
    }
}

/// Keeps what was answered. Never blocks an event loop.
protocol RequestStore: Sendable {
    func record(_ entry: HistoryEntry)
    /// The last `limit` entries, oldest first.
    func history(limit: Int) -> [HistoryEntry]
    func totals() -> (totals: RequestTotals, historyCount: Int)
    func clear()
}
