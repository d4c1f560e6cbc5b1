import GatewayCore

extension Generation {
    /// Receives the pieces of the answer as they come, never none of them; called on the event loop.
    typealias PiecesHandler = @Sendable ([String]) -> Void

    /// What a generation is for.
    struct Job: Sendable {
        var chat: ChatRequest
        var modelID: String
        var client: ClientID
        var accepted: MonotonicTime
        /// For logs.
        var requestID: String
        var isBatchItem = false
        /// The only upstream that may be asked.
        var pinned: String?
        /// For operators: the client's address, and the route.
        var clientAddress: String
        var route: String
        /// Called on the event loop each time it has a slot.
        var onAdmitted: (@Sendable (Generation) -> Void)?
        /// Nil where nobody waits for pieces.
        var onPieces: PiecesHandler?
    }
}
