import GatewayCore

extension Generation {
    /// Receives the pieces of the answer as they come, never none of them; called on the event loop.
    typealias PiecesHandler = @Sendable ([String]) -> Void

    /// What a generation is for. A class: it is handed on, and would be copied.
    final class Job: Sendable {
        let chat: ChatRequest
        let modelID: String
        let client: ClientID
        let accepted: MonotonicTime
        /// For logs.
        let requestID: String
        let isBatchItem: Bool
        /// The only upstream that may be asked.
        let pinned: String?
        /// For operators: the client's address, and the route.
        let clientAddress: String
        let route: String
        /// Called on the event loop each time it has a slot.
        let onAdmitted: (@Sendable (Generation) -> Void)?
        /// Nil where nobody waits for pieces.
        let onPieces: PiecesHandler?

        init(
            chat: ChatRequest, modelID: String, client: ClientID, accepted: MonotonicTime, requestID: String,
            isBatchItem: Bool = false, pinned: String? = nil, clientAddress: String, route: String,
            onAdmitted: (@Sendable (Generation) -> Void)? = nil, onPieces: PiecesHandler? = nil
        ) {
            self.chat = chat
            self.modelID = modelID
            self.client = client
            self.accepted = accepted
            self.requestID = requestID
            self.isBatchItem = isBatchItem
            self.pinned = pinned
            self.clientAddress = clientAddress
            self.route = route
            self.onAdmitted = onAdmitted
            self.onPieces = onPieces
        }
    }
}
