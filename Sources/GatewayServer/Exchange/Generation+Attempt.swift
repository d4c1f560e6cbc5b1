import GatewayCore

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
        /// Whether the upstream may have worked on the answer; waiting for a load is no such work.
        var wasSent = true
        /// Words for the log, mostly libcurl's, where there are some.
        var detail: String?
    }
}
