/// What a turn of its loop brought for one transfer, in this order. Of all that come to a receiver at most one has a head,
/// and exactly one, the last, an end. A small reply is mostly one update: each is a call on another thread.
package struct TransferUpdate: Sendable {
    package var head: ResponseHead?
    /// With the head; see ``TransferResult/connectTime``.
    package var connectTime: Duration = .zero
    /// May be empty.
    package var body: [UInt8] = []
    package var end: TransferResult?
}

/// Receives what comes of one transfer, on the thread its ``DeliveryQueue`` brings it to.
package protocol TransferReceiver: AnyObject, Sendable {
    func receive(_ update: TransferUpdate)
}

/// The way to one consumer thread, such as an event loop. Called on a loop thread, at most once a turn, with all that
/// the turn produced for that consumer.
package protocol DeliveryQueue: AnyObject, Sendable {
    func deliver(_ batch: [Delivery])
}

package struct Delivery: Sendable {
    package let receiver: any TransferReceiver
    package let update: TransferUpdate
}

/// The final (not 1xx) head of a reply. Only the fields that somebody reads are kept, bounded.
package struct ResponseHead: Sendable, Equatable {
    package var status: Int
    /// At most 256 bytes.
    package var retryAfter: String?

    package init(status: Int, retryAfter: String? = nil) {
        self.status = status
        self.retryAfter = retryAfter
    }
}

/// How a transfer ended. No failure means that curl saw nothing wrong, not that the reply is whole: curl reports
/// success for many damaged replies, so the caller judges by the body's own end.
package struct TransferResult: Sendable {
    package var failure: TransferFailure?
    /// Until the connection was up; on a reused one the few microseconds until it was found.
    package var connectTime: Duration
}

package struct TransferFailure: Error, Sendable, Equatable {
    /// A closed set, fit for a metric label.
    package enum Reason: String, Sendable, CaseIterable {
        case cancelled
        case resolve
        case connect
        case connectTimer = "connect_timer"
        case tls
        /// A pooled connection died before any byte of the reply; the replay that curl was about to make was stopped.
        case staleConnection = "stale_connection"
        /// The request went out and the connection ended without a byte back.
        case noReply = "no_reply"
        case firstByteTimer = "first_byte_timer"
        case idleTimer = "idle_timer"
        case totalTimer = "total_timer"
        case headTooLarge = "head_too_large"
        /// The head or the transfer encoding is damaged.
        case protocolError = "protocol_error"
        /// The connection ended inside the body.
        case cut
        /// curl itself could not go on (memory, a bad handle).
        case engine
    }

    package var reason: Reason
    /// libcurl's words, for logs, at most 200 characters; nil where the end was ours.
    package var detail: String?
}
