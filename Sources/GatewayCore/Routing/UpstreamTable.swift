/// Everything that is known of the upstreams, and every decision on who is asked next.
///
/// A value without clock or lock: the server keeps it in a mutex, computes under the lock and acts after it.
/// The queue is in `UpstreamTable+Queue.swift`, the order of candidates in `UpstreamTable+Plan.swift`.
package struct UpstreamTable: Sendable {
    /// By ``UpstreamID/index``; one that is no longer configured keeps its place.
    var entries: [UpstreamEntry] = []
    /// The configured ones, in order.
    var order: [UpstreamID] = []
    var routing = RoutingConfiguration()
    var models = ModelMap(models: [], upstreams: [])
    var budget = RetryBudget(RoutingConfiguration())
    var queue = WaitingQueue()

    package init(
        upstreams: [UpstreamConfiguration], routing: RoutingConfiguration, models: [ModelConfiguration] = []
    ) {
        configure(upstreams: upstreams, routing: routing, models: models)
    }

    subscript(_ id: UpstreamID) -> UpstreamEntry {
        get { entries[id.index] }
        _modify { yield &entries[id.index] }
    }

    package func name(of id: UpstreamID) -> String { self[id].configuration.name }

    // MARK: Configuration

    /// Takes a new configuration over. An upstream of the same name, kind and address keeps its state and its id; one
    /// that is gone keeps its running requests and gets no new ones.
    /// - Returns: the id of each upstream, in order, and who may go on because of it.
    @discardableResult
    package mutating func configure(
        upstreams: [UpstreamConfiguration], routing: RoutingConfiguration, models: [ModelConfiguration],
        now: MonotonicTime = MonotonicTime(nanoseconds: 0)
    ) -> (ids: [UpstreamID], grants: [Grant]) {
        if self.routing.retryRatio != routing.retryRatio || self.routing.retryMinimum != routing.retryMinimum {
            budget = RetryBudget(routing)
        }
        self.routing = routing
        order = upstreams.map { upstream in
            let known = entries.firstIndex { $0.configuration.name == upstream.name }
            guard let index = known else {
                let id = UpstreamID(index: entries.count)
                entries.append(UpstreamEntry(id: id, configuration: upstream))
                return id
            }
            let old = entries[index].configuration
            if old.kind != upstream.kind || old.url != upstream.url {
                entries[index] = UpstreamEntry(replacing: entries[index], by: upstream)
            }
            entries[index].configuration = upstream
            return UpstreamID(index: index)
        }
        self.models = ModelMap(models: models, upstreams: zip(order, upstreams).map { ($0, $1) })
        return (order, grants(now: now))
    }

    // MARK: Attempts

    /// Picks the upstream for a request's next attempt and takes its slot, or queues the request.
    package mutating func select(_ request: SelectionRequest, now: MonotonicTime) -> Selection {
        if request.tried.count == 0 { budget.noteRequest(now) }
        if let reason = exhaustion(of: request, now: now) { return .exhausted(reason) }
        let selection = place(request, now: now)
        if case .exhausted = selection { return selection }
        if request.isCostlyRetry { budget.noteRetry(now) }
        return selection
    }

    private func exhaustion(of request: SelectionRequest, now: MonotonicTime) -> Exhaustion? {
        // Those that were tried may be configured no longer.
        guard request.tried.count < routing.maxAttempts, order.contains(where: { !request.tried.contains($0) }) else {
            return .allTried
        }
        return request.isCostlyRetry && budget.left(now) == 0 ? .retryBudget : nil
    }

    /// Whether the request may have another attempt, at once or when a slot is free.
    package func hasAttemptLeft(_ request: SelectionRequest, now: MonotonicTime) -> Bool {
        exhaustion(of: request, now: now) == nil && firstUsable(request, now: now) != nil
    }

    private mutating func place(_ request: SelectionRequest, now: MonotonicTime) -> Selection {
        // Who waits already goes first, so a newcomer must not take a slot that one of them could use.
        if var choice = choose(request, now: now) {
            take(&choice, for: request, now: now)
            return .attempt(choice)
        }
        guard let first = firstUsable(request, now: now) else {
            let anyEnabled = order.contains { self[$0].mode == .enabled }
            return .exhausted(anyEnabled && request.pinned == nil ? .allTried : .noneEnabled)
        }
        return enqueue(request, at: first, now: now)
    }

    mutating func take(_ choice: inout Choice, for request: SelectionRequest, now: MonotonicTime) {
        let id = choice.upstream
        self[id].inFlight += 1
        self[id].breaker.take(now)
        choice.breakerEra = self[id].breaker.era
        queue.running[request.client, default: 0] += 1
        // A pinned one was no choice.
        if routing.policy == .weighted, request.pinned == nil { spendCredit(on: id, for: request, now: now) }
    }

    /// An attempt ended: its slot is free, the upstream's record has one more line, and those that wait are served.
    /// - Parameter jitter: -1...1, for the time that a breaker stays open.
    package mutating func settle(
        _ id: UpstreamID, client: ClientID, _ report: AttemptReport, jitter: Double = 0, now: MonotonicTime
    ) -> (grants: [Grant], transition: UpstreamTransition?) {
        self[id].inFlight -= 1
        queue.ended(client)
        // What was sent to another address under this name says nothing of the present one.
        guard report.breakerEra >= self[id].firstEra else { return (grants(now: now), nil) }
        self[id].note(report, now: now)
        if let rest = report.rest { self[id].restsUntil = max(self[id].restsUntil ?? now, now + rest) }
        let configuration = self[id].configuration.breaker
        var transition: UpstreamTransition?
        switch report.verdict {
        case .neutral: self[id].breaker.release(era: report.breakerEra)
        case .success:
            if self[id].breaker.succeed(era: report.breakerEra, now, configuration) {
                self[id].recoveredAt = now
                transition = .breakerClosed
            }
        case .failure:
            let mayOpen = order.contains { $0 != id && self[$0].obstacle(now) == nil }
            if self[id].breaker.fail(
                era: report.breakerEra, now, configuration, mayOpen: mayOpen, jitter: jitter)
            {
                transition = .breakerOpened(until: self[id].breaker.openUntil)
            }
        }
        return (grants(now: now), transition)
    }

    // MARK: Health

    /// - Returns: the new verdict where it changed, and who may go on because of it.
    package mutating func probeFinished(
        _ id: UpstreamID, success: Bool, now: MonotonicTime
    ) -> (transition: UpstreamTransition?, grants: [Grant]) {
        let before = self[id].probe.verdict
        let health = self[id].configuration.health
        guard self[id].probe.record(success: success, configuration: health) else { return (nil, []) }
        switch self[id].probe.verdict {
        case .up:
            if before == .down { self[id].recoveredAt = now }
            self[id].downSince = nil
            return (.probedUp, grants(now: now))
        case .down:
            self[id].loaded = .unknown
            self[id].downSince = now
            return (.probedDown, grants(now: now))
        case .unknown: return (nil, [])
        }
    }

    package mutating func setInstalled(_ id: UpstreamID, _ models: [String]) { self[id].installed = models }

    /// - Parameter asked: when the list was asked for.
    package mutating func setLoaded(_ id: UpstreamID, _ models: LoadedModels, asked: MonotonicTime) {
        self[id].noteList(models, asked: asked)
    }

    /// The gateway's own load has just ended.
    package mutating func noteLoaded(_ id: UpstreamID, _ model: String, now: MonotonicTime) {
        self[id].noteLoad(model, now: now)
    }

    /// Whether there is evidence that the upstream has yet to load the model: it lives, and its list of loaded models
    /// lacks it or does not come.
    package func isCold(_ id: UpstreamID, model: String?) -> Bool {
        self[id].probe.verdict == .up && self[id].hasLoaded(model) == false
    }

    /// Whether another available upstream has the model loaded, so that waiting for this one is not worth it.
    package func isLoadedElsewhere(_ request: SelectionRequest, than id: UpstreamID, now: MonotonicTime) -> Bool {
        available(request, butFor: id, now: now).contains { other in
            self[other].hasLoaded(models.model(for: request.modelID, on: other)) == true
        }
    }

    /// Whether another upstream could be asked at once.
    package func isAvailableElsewhere(_ request: SelectionRequest, than id: UpstreamID, now: MonotonicTime) -> Bool {
        !available(request, butFor: id, now: now).isEmpty
    }

    private func available(_ request: SelectionRequest, butFor id: UpstreamID, now: MonotonicTime) -> [UpstreamID] {
        guard request.pinned == nil, request.tried.count < routing.maxAttempts else { return [] }
        return order.filter { other in
            other != id && !request.tried.contains(other) && self[other].obstacle(now) == nil && self[other].hasSlot
        }
    }

    // MARK: Operators

    /// - Returns: nil where no upstream has the name.
    package mutating func setMode(
        _ name: String, _ mode: OperatorMode, now: MonotonicTime
    ) -> (id: UpstreamID, grants: [Grant])? {
        guard let id = order.first(where: { self[$0].configuration.name == name }) else { return nil }
        self[id].mode = mode
        return (id, grants(now: now))
    }

    package func mode(_ id: UpstreamID) -> OperatorMode { self[id].mode }

    package func statuses(now: MonotonicTime) -> [UpstreamStatus] {
        order.map { id in
            let entry = self[id]
            let obstacle = entry.obstacle(now)
            let isOpen = entry.breaker.state == .open && now < entry.breaker.openUntil
            return UpstreamStatus(
                id: id, name: entry.configuration.name, kind: entry.configuration.kind, mode: entry.mode,
                probe: entry.probe.verdict, breaker: entry.breaker.state,
                probesIn: isOpen ? entry.breaker.openUntil - now : nil, isAvailable: obstacle == nil,
                reason: obstacle?.rawValue ?? "ok", inFlight: entry.inFlight, slots: entry.configuration.maxInFlight,
                queued: queue.waiters.count { $0.first == id }, installed: entry.installed ?? [],
                loaded: entry.loaded, firstToken: entry.firstTokenSeconds.map { .nanoseconds(Int64($0 * 1e9)) },
                tokensPerSecond: entry.tokensPerSecond,
                failuresInRow: entry.breaker.failuresInRow, lastFailure: entry.lastFailure,
                trouble: entry.trouble, isFailing: entry.trouble?.isPresent(now) ?? false, downSince: entry.downSince)
        }
    }

    /// Generations that the retry budget still allows to be made again.
    package func retriesLeft(now: MonotonicTime) -> Int { budget.left(now) }

    /// Slots of all upstreams that take requests: how many items of a batch can run at once.
    package func totalSlots(now: MonotonicTime) -> Int {
        let usable = order.filter { self[$0].obstacle(now) == nil }
        return max(1, (usable.isEmpty ? order : usable).reduce(0) { $0 + self[$1].configuration.maxInFlight })
    }
}
