/// Sums over all requests since the last clear.
struct RequestTotals: Sendable, Equatable {
    var inferences = 0
    var tokens = 0
    var time = Duration.zero
    /// By the `mode` that clients send.
    var clientSide = 0
    var serverSide = 0

    var averageTime: Duration { inferences == 0 ? .zero : time / inferences }

    mutating func add(_ request: StoredRequest) {
        inferences += 1
        tokens += request.tokensOut
        time += request.inference
        if request.mode == "client_side" { clientSide += 1 }
        if request.mode == "server_side" { serverSide += 1 }
    }

    static func + (left: Self, right: Self) -> Self {
        RequestTotals(
            inferences: left.inferences + right.inferences, tokens: left.tokens + right.tokens,
            time: left.time + right.time, clientSide: left.clientSide + right.clientSide,
            serverSide: left.serverSide + right.serverSide)
    }
}
