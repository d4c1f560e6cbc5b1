/// The upstreams' health as one word, for `/webllm/api/health` and `/webllm/api/status`.
package enum HealthSummary: Sendable, Equatable {
    /// Every upstream is available and answers, and the history is written.
    case all
    case some
    case none

    package init(_ statuses: [UpstreamStatus], isHistoryDegraded: Bool) {
        let available = statuses.count(where: \.isAvailable)
        let isWhole = available == statuses.count && !statuses.contains(where: \.isFailing) && !isHistoryDegraded
        self = available == 0 ? .none : isWhole ? .all : .some
    }

    package var health: String {
        switch self {
        case .all: "healthy"
        case .some: "degraded"
        case .none: "unhealthy"
        }
    }

    package var status: String {
        switch self {
        case .all: "operational"
        case .some: "degraded"
        case .none: "offline"
        }
    }
}
