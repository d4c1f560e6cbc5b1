/// An upstream for the life of the process: the place of its name in the table. It stays the same over reloads.
package struct UpstreamID: Hashable, Sendable {
    package var index: Int
    package init(index: Int) { self.index = index }
}

/// A request that may have to wait for a slot. Unique for the life of the process.
package struct WaiterID: Hashable, Sendable {
    package var rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Whose request it is, for fair shares: the hash of a client's address.
package struct ClientID: Hashable, Sendable {
    package var rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// The upstreams a request has tried: a handful at most, and mostly one, which needs no allocation.
package struct TriedUpstreams: Sendable, Hashable {
    private var first: UpstreamID?
    private var others: [UpstreamID] = []
    package var count: Int { first == nil ? 0 : 1 + others.count }
    package init() {}

    package mutating func insert(_ id: UpstreamID) {
        if first == nil {
            first = id
        } else if !contains(id) {
            others.append(id)
        }
    }

    package func contains(_ id: UpstreamID) -> Bool { first == id || others.contains(id) }
}

package struct SelectionRequest: Sendable {
    package var waiter: WaiterID
    package var client: ClientID
    /// As the client calls it.
    package var modelID: String
    package var tried: TriedUpstreams
    /// Items of a batch wait as long as the batch may, and do not count towards the queue's limit.
    package var isBatchItem: Bool
    /// Whether an upstream may have generated for it already: another attempt draws on the retry budget.
    package var isCostlyRetry = false
    /// The only upstream that may be asked, by name.
    package var pinned: String?

    package init(
        waiter: WaiterID, client: ClientID = ClientID(rawValue: 0), modelID: String = "",
        tried: TriedUpstreams = .init(), isBatchItem: Bool = false
    ) {
        self.waiter = waiter
        self.client = client
        self.modelID = modelID
        self.tried = tried
        self.isBatchItem = isBatchItem
    }
}

/// Why an upstream was passed over. A closed set, used in logs, in `explain` and in the history.
package enum SkipReason: String, Sendable, CaseIterable {
    /// This request was there already.
    case tried
    /// The client asked for another one.
    case notPinned = "not_pinned"
    case disabled
    case draining
    case probedDown = "probed_down"
    case breakerOpen = "breaker_open"
    /// Its breaker is half-open, and another request is the probe.
    case breakerProbing = "breaker_probing"
    /// It said 429 and rests for its Retry-After.
    case resting
    case full
    /// It recovered a moment ago and has its share of requests for now.
    case slowStart = "slow_start"
}

package struct Skip: Sendable, Equatable {
    package var name: String
    package var reason: SkipReason
}

/// The upstream for the next attempt; its slot is taken.
package struct Choice: Sendable, Equatable {
    package enum Reason: String, Sendable {
        /// The first of the available ones by the policy.
        case best
        /// Nothing was available: one round in configured order is tried all the same.
        case failOpen = "fail_open"
        /// It waited for a slot.
        case queued
    }
    package var upstream: UpstreamID
    package var reason: Reason
    package var skipped: [Skip] = []
    /// See ``Breaker/era``.
    package var breakerEra = 0
    /// All that were looked at, in the order in which they would be asked. Empty where the first in the configured order
    /// was taken, with nothing against it: no other was looked at.
    package var candidates: [Candidate] = []
}

package enum Selection: Sendable, Equatable {
    case attempt(Choice)
    /// Every candidate is full; a ``Grant`` follows, or the deadline passes. Where the queue was full, the newest
    /// request of the client with the most in it has to go.
    case wait(position: Int, deadline: MonotonicTime?, displaced: WaiterID?)
    /// The queue is full too; seconds until it may be worth to come back.
    case refuse(retryAfter: Int)
    case exhausted(Exhaustion)
}

/// Why no further upstream is asked. A closed set.
package enum Exhaustion: String, Sendable {
    /// Every upstream was tried, or as many as the configuration allows.
    case allTried = "all_tried"
    case retryBudget = "retry_budget"
    /// The operator has taken every upstream out, or the pinned one.
    case noneEnabled = "none_enabled"
}

/// A waiting request gets its slot.
package struct Grant: Sendable, Equatable {
    package var waiter: WaiterID
    package var choice: Choice
}

/// What an operator made of an upstream.
package enum OperatorMode: String, Sendable, CaseIterable {
    case enabled
    /// No new requests; running ones end by themselves.
    case draining
    /// No new requests and no probes; running ones are ended.
    case disabled
}

/// What `/api/ps` says about an Ollama's models.
package enum LoadedModels: Sendable, Equatable {
    case unknown
    case models([String])
    /// The server lives, but its list does not come: it is loading one.
    case hanging
}

/// How an attempt went, for the upstream's record.
package struct AttemptReport: Sendable {
    package enum Verdict: Sendable, Equatable { case success, failure, neutral }
    package var verdict: Verdict
    /// ``Choice/breakerEra`` of its choice.
    package var breakerEra = 0
    /// Leaves the upstream alone for this long.
    package var rest: Duration?
    package var heldFor: Duration
    package var firstToken: Duration?
    /// Of the answer, a second.
    package var tokensPerSecond: Double?
    /// Where it failed, also where that is no fault of the upstream.
    package var failure: AttemptFailure?

    package init(
        _ verdict: Verdict, breakerEra: Int = 0, rest: Duration? = nil, heldFor: Duration = .zero,
        firstToken: Duration? = nil,
        tokensPerSecond: Double? = nil, failure: AttemptFailure? = nil
    ) {
        self.verdict = verdict
        self.breakerEra = breakerEra
        self.rest = rest
        self.heldFor = heldFor
        self.firstToken = firstToken
        self.tokensPerSecond = tokensPerSecond
        self.failure = failure
    }
}

/// A change of an upstream's state that operators want to know.
package enum UpstreamTransition: Sendable, Equatable {
    case probedUp, probedDown
    case breakerOpened(until: MonotonicTime), breakerClosed
}

/// One upstream as operators see it.
package struct UpstreamStatus: Sendable, Equatable {
    package var id: UpstreamID
    package var name: String
    package var kind: UpstreamKind
    package var mode: OperatorMode
    package var probe: ProbeState.Verdict
    package var breaker: Breaker.State
    /// Until an open breaker lets a request probe.
    package var probesIn: Duration?
    /// Up, not broken, not resting, not taken out; it may be full.
    package var isAvailable: Bool
    /// Why it is not available, or `ok`.
    package var reason: String
    package var inFlight: Int
    package var slots: Int
    package var queued: Int
    package var installed: [String]
    package var loaded: LoadedModels
    package var firstToken: Duration?
    package var tokensPerSecond: Double?
    package var failuresInRow: Int
    package var lastFailure: String?
    package var trouble: Trouble?
    /// Whether it has been failing requests, the last of them not long ago.
    package var isFailing: Bool
    /// When its probes marked it down.
    package var downSince: MonotonicTime?
}

/// A run of failures at one upstream, for the alerts that operators read.
package struct Trouble: Sendable, Equatable {
    /// When the first of the failures ended.
    package var since: MonotonicTime
    package var failed = 0
    /// Requests that ended there since, the failed ones included.
    package var total = 0
    /// The last one, and when it ended.
    package var failure: AttemptFailure?
    package var last: MonotonicTime

    init(since: MonotonicTime) {
        self.since = since
        last = since
    }

    /// Too much to be chance: at least three, and half of what was asked.
    package var isAlarming: Bool { failed >= 3 && failed * 2 >= total }

    /// Whether it goes on: what was long ago may be mended, and nobody has asked since.
    func isPresent(_ now: MonotonicTime) -> Bool { isAlarming && now - last < .seconds(300) }
}

/// A candidate of a plan, in the order in which candidates would be asked.
package struct Candidate: Sendable, Equatable {
    package var upstream: UpstreamID
    package var name: String
    /// The upstream's own name of the model.
    package var model: String?
    package var skip: SkipReason?
    /// The policy's measure; the lowest is first.
    package var score: Double
    /// Nil where it is not known.
    package var isInstalled: Bool?
    package var isLoaded: Bool?
}
