import CurlMulti
import GatewayCore
import GatewayWire

extension Generation {
    /// What a generation is told while it waits.
    enum Signal {
        case attemptEnded(AttemptEnd)
        case granted(Choice)
        /// Another client's request took its place in the queue.
        case displaced(retryAfter: Int)
        /// No upstream is left that it could wait for.
        case stranded
        case loadEnded(UpstreamID, ModelLoader.Result)
        /// An operator disabled the upstream.
        case interrupted
        case timer(FiredTimer)
        case abandoned(AbandonReason)

        /// The others mean nothing to a later attempt.
        var isOfTheWholeRequest: Bool {
            switch self {
            case .abandoned, .timer(.total): true
            default: false
            }
        }
    }

    enum FiredTimer { case queue, backoff, firstToken, idle, total }

    /// How an attempt ended.
    struct AttemptEnd {
        var outcome: AttemptOutcome
        var usage = TokenUsage()
        /// The transfer is over, or its reply whole: nothing is left to cancel.
        var hasEnded: Bool
        /// The failure of a load that others waited for too: it counts once.
        var isShared = false
        /// libcurl's words for a failure, where it has some.
        var detail: String?
    }

    /// What has come of the running attempt's reply. A class: it is changed in place for each token.
    final class AttemptReply {
        var decoder: UpstreamReplyDecoder
        let idleTimeout: Duration
        var hasFirstToken = false
        var head: ResponseHead?
        var status = 0
        var errorBody: [UInt8] = []

        init(_ kind: UpstreamKind, idleTimeout: Duration) {
            decoder = UpstreamReplyDecoder(kind: kind)
            self.idleTimeout = idleTimeout
        }
    }

    /// A client that left, and what it left behind.
    struct Departure {
        let time: MonotonicTime
        let phase: GenerationTrace.Phase
        let upstream: String
        let reply: AttemptReply?
    }
}
