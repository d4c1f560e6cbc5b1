/// The upstreams' health as one word, for `/webllm/api/health` and `/webllm/api/status`.
package enum HealthSummary: Sendable, Equatable {
    /// Every upstream is available.
    case all
    case some
    case none

    package init(_ statuses: [UpstreamStatus]) {
        let available = statuses.count(where: \.isAvailable)
        self = available == 0 ? .none : available == statuses.count ? .all : .some
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
