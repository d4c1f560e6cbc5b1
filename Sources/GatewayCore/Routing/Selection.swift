/// An upstream by its place in the configuration.
package struct UpstreamID: Hashable, Sendable {
    package var index: Int
    package init(index: Int) { self.index = index }
}

/// A request that may have to wait for a slot. Unique for the life of the process.
package struct WaiterID: Hashable, Sendable {
    package var rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// The upstreams a request has tried. At most 64 upstreams are configured.
package struct TriedUpstreams: Sendable, Equatable {
    private var bits: UInt64 = 0
    package private(set) var count = 0
    package init() {}

    package mutating func insert(_ id: UpstreamID) {
        if !contains(id) { count += 1 }
        bits |= 1 << UInt64(id.index)
    }

    package func contains(_ id: UpstreamID) -> Bool { bits & (1 << UInt64(id.index)) != 0 }
}

package struct SelectionRequest: Sendable {
    package var waiter: WaiterID
    package var tried: TriedUpstreams
    /// Items of a batch wait as long as the batch may, and do not count towards the queue's limit.
    package var isBatchItem: Bool

    package init(waiter: WaiterID, tried: TriedUpstreams = .init(), isBatchItem: Bool = false) {
        self.waiter = waiter
        self.tried = tried
        self.isBatchItem = isBatchItem
    }
}

/// Why an upstream was passed over. A closed set, used in logs.
package enum SkipReason: String, Sendable, CaseIterable {
    case tried
    case probedDown = "probed_down"
    case resting
    case full
}

package struct Skip: Sendable, Equatable {
    package var upstream: UpstreamID
    package var reason: SkipReason
}

/// The upstream for the next attempt; its slot is taken.
package struct Choice: Sendable, Equatable {
    package enum Reason: String, Sendable {
        /// The first available one in configured order.
        case priority
        /// Nothing was available: one round in configured order is tried all the same.
        case failOpen = "fail_open"
        /// It waited for a slot.
        case queued
    }
    package var upstream: UpstreamID
    package var reason: Reason
    package var skipped: [Skip] = []
}

package enum Selection: Sendable, Equatable {
    case attempt(Choice)
    /// Every candidate is full; a ``Grant`` follows, or the deadline passes.
    case wait(position: Int, deadline: MonotonicTime?)
    /// The queue is full too; seconds until it may be worth to come back.
    case refuse(retryAfter: Int)
    /// Every upstream was tried, or as many as the configuration allows.
    case exhausted
}

/// A waiting request gets its slot.
package struct Grant: Sendable, Equatable {
    package var waiter: WaiterID
    package var choice: Choice
}

/// One upstream as operators see it.
package struct UpstreamStatus: Sendable, Equatable {
    package var name: String
    package var kind: UpstreamKind
    package var probe: ProbeState.Verdict
    package var isAvailable: Bool
    package var inFlight: Int
    package var slots: Int
    package var queued: Int
    package var models: [String]
}
