/// Requests that wait for a slot, and how many each client has running.
struct WaitingQueue: Sendable {
    struct Waiter: Sendable {
        let request: SelectionRequest
        /// The first upstream it could use: its place is counted there.
        let first: UpstreamID
    }

    /// What decides where a request may go: those with the same wish may go to the same upstreams.
    struct Wish: Hashable {
        let modelID: String
        let tried: TriedUpstreams
        let pinned: String?

        init(_ request: SelectionRequest) {
            modelID = request.modelID
            tried = request.tried
            pinned = request.pinned
        }
    }

    /// In the order they came.
    var waiters: [Waiter] = []
    var running: [ClientID: Int] = [:]

    mutating func ended(_ client: ClientID) {
        guard let count = running[client] else { return }
        running[client] = count > 1 ? count - 1 : nil
    }
}

extension UpstreamTable {
    /// A request waits at an upstream. When its queue is full, a client with fewer entries than another takes the
    /// place of that one's newest: a flood from one client does not keep the others out.
    mutating func enqueue(_ request: SelectionRequest, at first: UpstreamID, now: MonotonicTime) -> Selection {
        let configuration = self[first].configuration
        var displaced: WaiterID?
        if !request.isBatchItem, isQueueFull(first) {
            let counted = counted(first)
            var entriesOf: [ClientID: Int] = [:]
            for waiter in counted { entriesOf[waiter.request.client, default: 0] += 1 }
            let most = entriesOf.max { ($0.value, $0.key.rawValue) < ($1.value, $1.key.rawValue) }
            guard let most, most.value > entriesOf[request.client, default: 0] + 1,
                let newest = counted.last(where: { $0.request.client == most.key })
            else { return .refuse(retryAfter: retryAfter(first, ahead: counted.count)) }
            displaced = newest.request.waiter
            cancelWait(newest.request.waiter)
        }
        queue.waiters.append(.init(request: request, first: first))
        return .wait(
            position: queue.waiters.count { $0.first == first },
            deadline: request.isBatchItem ? nil : now + configuration.queueTimeout, displaced: displaced)
    }

    /// Those that count towards the queue's limit.
    private func counted(_ id: UpstreamID) -> [WaitingQueue.Waiter] {
        queue.waiters.filter { $0.first == id && !$0.request.isBatchItem }
    }

    /// A newcomer finds no place, unless it takes another client's.
    package func isQueueFull(_ id: UpstreamID) -> Bool { counted(id).count >= self[id].configuration.maxQueue }

    /// A waiting request leaves the queue: its client left, or its time is over.
    /// - Returns: seconds until it may be worth to come back; nil where it was not in the queue.
    @discardableResult
    package mutating func cancelWait(_ id: WaiterID) -> Int? {
        guard let index = queue.waiters.firstIndex(where: { $0.request.waiter == id }) else { return nil }
        return retryAfter(queue.waiters.remove(at: index).first)
    }

    /// Those that wait for nothing any more, as an operator or a reload took out the last upstream they could use.
    package mutating func removeStranded(now: MonotonicTime) -> [WaiterID] {
        let stranded = Set(queue.waiters.map(\.request).filter { firstUsable($0, now: now) == nil }.map(\.waiter))
        queue.waiters.removeAll { stranded.contains($0.request.waiter) }
        return Array(stranded)
    }

    /// Time passed: a rest or a breaker's may be over.
    package mutating func wake(now: MonotonicTime) -> [Grant] { grants(now: now) }

    /// Gives free slots to those that wait: the client with the fewest running requests first, then in order.
    mutating func grants(now: MonotonicTime) -> [Grant] {
        var grants: [Grant] = []
        while !queue.waiters.isEmpty, order.contains(where: { self[$0].hasSlot }) {
            guard let served = nextServed(now) else { break }
            var choice = served.choice
            let request = queue.waiters.remove(at: served.index).request
            choice.reason = .queued
            take(&choice, for: request, now: now)
            grants.append(Grant(waiter: request.waiter, choice: choice))
        }
        return grants
    }

    /// One pass, however many wait: those that ask alike are looked at once.
    private func nextServed(_ now: MonotonicTime) -> (index: Int, choice: Choice)? {
        var best: (index: Int, choice: Choice, running: Int)?
        var hopeless: Set<WaitingQueue.Wish> = []
        for (index, waiter) in queue.waiters.enumerated() {
            let running = queue.running[waiter.request.client] ?? 0
            if let best, running >= best.running { continue }
            let wish = WaitingQueue.Wish(waiter.request)
            if hopeless.contains(wish) { continue }
            guard let choice = choose(waiter.request, now: now) else {
                hopeless.insert(wish)
                continue
            }
            best = (index, choice, running)
            if running == 0 { break }
        }
        return best.map { ($0.index, $0.choice) }
    }

    /// Seconds until a slot may be free for one who comes now, where another one waits.
    package func retryAfter(ofQueueOf waiter: WaiterID) -> Int {
        queue.waiters.first { $0.request.waiter == waiter }.map { retryAfter($0.first) } ?? 1
    }

    private func retryAfter(_ id: UpstreamID) -> Int {
        retryAfter(id, ahead: queue.waiters.count { $0.first == id })
    }

    /// Seconds until as many slots have become free as requests are ahead, from recent service times; 1...300.
    private func retryAfter(_ id: UpstreamID, ahead: Int) -> Int {
        let entry = self[id]
        let wait = entry.serviceSeconds * Double(ahead + 1) / Double(entry.configuration.maxInFlight)
        return Int(min(300, wait + 1))
    }
}
