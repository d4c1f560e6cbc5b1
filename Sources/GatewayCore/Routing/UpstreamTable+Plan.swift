/// The order in which upstreams are asked, and why.
extension UpstreamTable {
    /// Candidates for a request, best first, with what speaks against each. A dry run: nothing changes.
    package func plan(_ request: SelectionRequest, now: MonotonicTime) -> [Candidate] {
        let candidates = order.map { id -> Candidate in
            let entry = self[id]
            let model = models.model(for: request.modelID, on: id)
            return Candidate(
                upstream: id, name: entry.configuration.name, model: model,
                skip: skipReason(entry, request, now: now), score: score(entry, now: now),
                isInstalled: entry.hasInstalled(model), isLoaded: entry.hasLoaded(model))
        }
        guard candidates.count > 1 else { return candidates }
        let ranked = candidates.indices.sorted { Self.rank(candidates[$0], $0) < Self.rank(candidates[$1], $1) }
        return ranked.map { candidates[$0] }
    }

    /// An Ollama that is known not to have the model comes last; then the policy's measure; among equals one that has
    /// the model loaded, then one that has it installed, then the configured order.
    private static func rank(_ candidate: Candidate, _ place: Int) -> (Int, Double, Int, Int) {
        let preference = candidate.isLoaded == true ? 0 : candidate.isInstalled == true ? 1 : 2
        return (candidate.isInstalled == false ? 1 : 0, candidate.score, preference, place)
    }

    private func score(_ entry: UpstreamEntry, now: MonotonicTime) -> Double {
        let load = Double(entry.inFlight) / Double(entry.configuration.maxInFlight)
        switch routing.policy {
        case .priority: return Double(order.firstIndex(of: entry.id) ?? 0)
        case .leastBusy: return load / entry.share(now, slowStart: routing.slowStart)
        case .fastest:
            // One that was never measured is asked, to learn it.
            guard let seconds = entry.recentFirstTokenSeconds(now) else { return 0 }
            return seconds * 1000 * (1 + load) / entry.share(now, slowStart: routing.slowStart)
        case .weighted: return -(entry.credit + weight(entry, now: now))
        }
    }

    private func weight(_ entry: UpstreamEntry, now: MonotonicTime) -> Double {
        Double(entry.configuration.weight) * entry.share(now, slowStart: routing.slowStart)
    }

    /// Smooth weighted round-robin: each that could have been taken gets its weight, and who is taken pays for all. Nobody
    /// saves or owes more than a round: what was busy for an hour is not asked alone for the next.
    mutating func spendCredit(on id: UpstreamID, for request: SelectionRequest, now: MonotonicTime) {
        var total = 0.0
        for other in order where other == id || skipReason(self[other], request, now: now) == nil {
            let weight = weight(self[other], now: now)
            self[other].credit += weight
            total += weight
        }
        self[id].credit -= total
        for other in order { self[other].credit = min(total, max(-total, self[other].credit)) }
    }

    private func skipReason(_ entry: UpstreamEntry, _ request: SelectionRequest, now: MonotonicTime) -> SkipReason? {
        if let pinned = request.pinned, entry.configuration.name != pinned { return .notPinned }
        if request.tried.contains(entry.id) { return .tried }
        if let obstacle = entry.obstacle(now) { return obstacle }
        if !entry.hasSlot { return .full }
        return entry.hasSlotInSlowStart(now, slowStart: routing.slowStart) ? nil : .slowStart
    }

    /// The best available upstream. Slow start passes one over only for another; where none is available, the first
    /// that is merely thought to be ill (fail open).
    func choose(_ request: SelectionRequest, now: MonotonicTime) -> Choice? {
        if let choice = obviousChoice(request, now: now) { return choice }
        let candidates = plan(request, now: now)
        var skipped: [Skip] = []
        for candidate in candidates {
            guard let reason = candidate.skip else {
                return Choice(
                    upstream: candidate.upstream, reason: .best, skipped: skipped, candidates: candidates)
            }
            skipped.append(Skip(name: candidate.name, reason: reason))
        }
        if let candidate = candidates.first(where: { $0.skip == .slowStart }) {
            return Choice(
                upstream: candidate.upstream, reason: .best, skipped: skipped.filter { $0.reason != .slowStart },
                candidates: candidates)
        }
        guard !candidates.contains(where: { $0.skip == .full }) else { return nil }
        return lastResort(request).map {
            Choice(upstream: $0, reason: .failOpen, skipped: skipped, candidates: candidates)
        }
    }

    /// Who is asked where nobody is available: in the configured order, as there is nothing to rank them by.
    package func lastResort(_ request: SelectionRequest) -> UpstreamID? {
        order.first { mayFailOpen($0, request) && self[$0].hasSlot }
    }

    /// By configured order and with nothing against the first: no other needs to be looked at.
    private func obviousChoice(_ request: SelectionRequest, now: MonotonicTime) -> Choice? {
        guard routing.policy == .priority, let id = order.first else { return nil }
        let entry = self[id]
        guard skipReason(entry, request, now: now) == nil else { return nil }
        if entry.installed != nil, entry.hasInstalled(models.model(for: request.modelID, on: id)) == false {
            return nil
        }
        return Choice(upstream: id, reason: .best)
    }

    /// What an operator took out stays out.
    private func mayFailOpen(_ id: UpstreamID, _ request: SelectionRequest) -> Bool {
        let entry = self[id]
        return entry.mode == .enabled && !request.tried.contains(id)
            && (request.pinned == nil || request.pinned == entry.configuration.name)
    }

    /// Where a request waits: the best one that is only full, or the first that could be tried all the same.
    package func firstUsable(_ request: SelectionRequest, now: MonotonicTime) -> UpstreamID? {
        plan(request, now: now).first { $0.skip == .full }?.upstream ?? order.first { mayFailOpen($0, request) }
    }
}
