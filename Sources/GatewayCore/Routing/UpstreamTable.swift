/// Everything that is known of the upstreams, and every decision on who is asked next.
///
/// A value without clock or lock: the server keeps it in a mutex, computes under the lock and acts after it.
package struct UpstreamTable: Sendable {
    private struct Entry {
        let configuration: UpstreamConfiguration
        var probe = ProbeState()
        var inFlight = 0
        var restsUntil: MonotonicTime?
        var models: [String] = []
        /// Decayed time a request holds its slot, for Retry-After.
        var serviceTime: Duration = .seconds(1)
    }

    private struct Waiter {
        let request: SelectionRequest
        /// The first upstream it could use: its place is counted there.
        let first: Int
    }

    private var entries: [Entry]
    private let routing: RoutingConfiguration
    private var queue: [Waiter] = []

    package init(upstreams: [UpstreamConfiguration], routing: RoutingConfiguration) {
        entries = upstreams.map { Entry(configuration: $0) }
        self.routing = routing
    }

    // MARK: Choice and admission

    /// Picks the upstream for a request's next attempt and takes its slot, or queues the request.
    package mutating func select(_ request: SelectionRequest, now: MonotonicTime) -> Selection {
        guard request.tried.count < min(routing.maxAttempts, entries.count) else { return .exhausted }
        // Who waits already goes first, so a newcomer must not take a slot that one of them could use.
        if let choice = choose(request, now: now) {
            take(choice.upstream)
            return .attempt(choice)
        }
        guard let first = firstUsable(request, now: now) else { return .exhausted }
        let configuration = entries[first].configuration
        let ahead = queue.count { $0.first == first && !$0.request.isBatchItem }
        guard request.isBatchItem || ahead < configuration.maxQueue else {
            return .refuse(retryAfter: retryAfter(first, ahead: ahead))
        }
        queue.append(Waiter(request: request, first: first))
        return .wait(
            position: queue.count, deadline: request.isBatchItem ? nil : now + configuration.queueTimeout)
    }

    /// A waiting request leaves the queue: its client left, or its time is over.
    package mutating func cancelWait(_ id: WaiterID) {
        queue.removeAll { $0.request.waiter == id }
    }

    /// An attempt ended: its slot is free, and those that wait are served in order.
    package mutating func settle(
        _ id: UpstreamID, rest: Duration?, heldFor: Duration, now: MonotonicTime
    ) -> [Grant] {
        entries[id.index].inFlight -= 1
        entries[id.index].serviceTime = entries[id.index].serviceTime * 0.9 + heldFor * 0.1
        if let rest { entries[id.index].restsUntil = now + rest }
        return grants(now: now)
    }

    private mutating func grants(now: MonotonicTime) -> [Grant] {
        guard !queue.isEmpty else { return [] }
        var grants: [Grant] = []
        var index = 0
        while index < queue.count {
            if var choice = choose(queue[index].request, now: now) {
                choice.reason = .queued
                take(choice.upstream)
                grants.append(Grant(waiter: queue[index].request.waiter, choice: choice))
                queue.remove(at: index)
            } else {
                index += 1
            }
        }
        return grants
    }

    private mutating func take(_ id: UpstreamID) { entries[id.index].inFlight += 1 }

    /// The first available upstream; where none is, the first that is merely thought to be down (fail open).
    private func choose(_ request: SelectionRequest, now: MonotonicTime) -> Choice? {
        var skipped: [Skip] = []
        var isAnyAvailable = false
        for index in entries.indices {
            let id = UpstreamID(index: index)
            switch skipReason(index, request, now: now) {
            case nil: return Choice(upstream: id, reason: .priority, skipped: skipped)
            case .full:
                isAnyAvailable = true
                skipped.append(Skip(upstream: id, reason: .full))
            case let reason?:
                skipped.append(Skip(upstream: id, reason: reason))
            }
        }
        guard !isAnyAvailable else { return nil }
        for index in entries.indices where !request.tried.contains(UpstreamID(index: index)) && hasSlot(index) {
            return Choice(upstream: UpstreamID(index: index), reason: .failOpen, skipped: skipped)
        }
        return nil
    }

    private func skipReason(_ index: Int, _ request: SelectionRequest, now: MonotonicTime) -> SkipReason? {
        let entry = entries[index]
        if request.tried.contains(UpstreamID(index: index)) { return .tried }
        if entry.probe.verdict == .down { return .probedDown }
        if let until = entry.restsUntil, now < until { return .resting }
        return hasSlot(index) ? nil : .full
    }

    private func hasSlot(_ index: Int) -> Bool {
        entries[index].inFlight < entries[index].configuration.maxInFlight
    }

    private func firstUsable(_ request: SelectionRequest, now: MonotonicTime) -> Int? {
        entries.indices.first { skipReason($0, request, now: now) == .full }
            ?? entries.indices.first { !request.tried.contains(UpstreamID(index: $0)) }
    }

    /// Seconds until as many slots have become free as requests are ahead, from recent service times; 1...300.
    private func retryAfter(_ index: Int, ahead: Int) -> Int {
        let entry = entries[index]
        let wait = entry.serviceTime * (ahead + 1) / entry.configuration.maxInFlight
        return Int(min(300, max(1, wait.components.seconds + 1)))
    }

    // MARK: Health

    /// - Returns: the new verdict where it changed, and who may go on because of it.
    package mutating func probeFinished(
        _ id: UpstreamID, success: Bool, now: MonotonicTime
    ) -> (changedTo: ProbeState.Verdict?, grants: [Grant]) {
        let health = entries[id.index].configuration.health
        guard entries[id.index].probe.record(success: success, configuration: health) else { return (nil, []) }
        return (entries[id.index].probe.verdict, grants(now: now))
    }

    package mutating func setModels(_ id: UpstreamID, _ models: [String]) { entries[id.index].models = models }

    package func statuses(now: MonotonicTime) -> [UpstreamStatus] {
        entries.indices.map { index in
            let entry = entries[index]
            let isResting = entry.restsUntil.map { now < $0 } ?? false
            return UpstreamStatus(
                name: entry.configuration.name, kind: entry.configuration.kind, probe: entry.probe.verdict,
                isAvailable: entry.probe.verdict != .down && !isResting, inFlight: entry.inFlight,
                slots: entry.configuration.maxInFlight, queued: queue.count { $0.first == index }, models: entry.models)
        }
    }

    /// Slots of all upstreams that are not down: how many items of a batch can run at once.
    package var totalSlots: Int {
        let usable = entries.filter { $0.probe.verdict != .down }
        return max(1, (usable.isEmpty ? entries : usable).reduce(0) { $0 + $1.configuration.maxInFlight })
    }
}
