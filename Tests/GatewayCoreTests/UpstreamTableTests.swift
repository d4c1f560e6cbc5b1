import GatewayCore
import Testing

/// Choice, slots and the queue, with a clock that the test moves.
struct UpstreamTableTests {
    private func table(_ slots: [Int], maxQueue: Int = 64, maxAttempts: Int = 3) -> UpstreamTable {
        var routing = RoutingConfiguration()
        routing.maxAttempts = maxAttempts
        return UpstreamTable(
            upstreams: slots.enumerated().map { index, slots in
                var upstream = UpstreamConfiguration(
                    name: "u\(index)", kind: .ollama, url: UpstreamURL(host: "127.0.0.1", port: 1 + index))
                upstream.maxInFlight = slots
                upstream.maxQueue = maxQueue
                return upstream
            }, routing: routing)
    }

    private func request(_ id: UInt64, tried: [Int] = [], isBatchItem: Bool = false) -> SelectionRequest {
        var set = TriedUpstreams()
        for index in tried { set.insert(UpstreamID(index: index)) }
        return SelectionRequest(waiter: WaiterID(rawValue: id), tried: set, isBatchItem: isBatchItem)
    }

    private func at(_ seconds: Int64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    private func settle(
        _ table: inout UpstreamTable, _ index: Int, _ report: AttemptReport, now: MonotonicTime
    ) -> [Grant] {
        table.settle(UpstreamID(index: index), client: ClientID(rawValue: 0), report, now: now).grants
    }

    private func upstream(_ selection: Selection) -> Int? {
        if case .attempt(let choice) = selection { choice.upstream.index } else { nil }
    }

    @Test func theFirstAvailableInConfiguredOrder() {
        var table = table([1, 1, 1])
        #expect(upstream(table.select(request(1), now: at(0))) == 0)
        #expect(upstream(table.select(request(2), now: at(0))) == 1)
        let third = table.select(request(3, tried: [0]), now: at(0))
        guard case .attempt(let choice) = third else { return #expect(Bool(false), "\(third)") }
        #expect(choice.upstream.index == 2)
        #expect(choice.skipped.map(\.reason) == [.tried, .full])
    }

    @Test func aDownUpstreamIsSkippedUntilItRises() {
        var table = table([4, 4])
        let first = UpstreamID(index: 0)
        #expect(table.probeFinished(first, success: true, now: at(0)).transition == .probedUp)
        for round in 0..<3 {
            #expect(upstream(table.select(request(1), now: at(0))) == 0)
            #expect(
                table.probeFinished(first, success: false, now: at(0)).transition == (round == 2 ? .probedDown : nil))
        }
        #expect(upstream(table.select(request(2), now: at(0))) == 1)
        #expect(table.probeFinished(first, success: true, now: at(0)).transition == nil)
        #expect(table.probeFinished(first, success: true, now: at(0)).transition == .probedUp)
        // Slow start: its share is there again after ten seconds.
        #expect(upstream(table.select(request(3), now: at(0))) == 1)
        #expect(upstream(table.select(request(4), now: at(10))) == 0)
    }

    @Test func whenAllAreDownTheyAreTriedAllTheSameInOrder() {
        var table = table([4, 4])
        for index in 0..<2 { _ = table.probeFinished(UpstreamID(index: index), success: false, now: at(0)) }
        guard case .attempt(let choice) = table.select(request(1), now: at(0)) else { return #expect(Bool(false)) }
        #expect(choice.upstream.index == 0)
        #expect(choice.reason == .failOpen)
        #expect(upstream(table.select(request(1, tried: [0]), now: at(0))) == 1)
        #expect(table.select(request(1, tried: [0, 1]), now: at(0)) == .exhausted(.allTried))
    }

    @Test func anUpstreamThatSaid429RestsForItsTime() {
        var table = table([4, 4])
        _ = table.select(request(1), now: at(0))
        _ = settle(&table, 0, AttemptReport(.neutral, rest: .seconds(5)), now: at(0))
        #expect(upstream(table.select(request(2), now: at(4))) == 1)
        #expect(upstream(table.select(request(3), now: at(5))) == 0)
    }

    @Test func attemptsAreBounded() {
        var table = table([4, 4, 4, 4], maxAttempts: 2)
        #expect(upstream(table.select(request(1, tried: [0]), now: at(0))) == 1)
        #expect(table.select(request(1, tried: [0, 1]), now: at(0)) == .exhausted(.allTried))
    }

    /// A pause before another attempt is for requests that will have one.
    @Test func itIsKnownWhetherAnotherAttemptFollows() {
        var table = table([4, 4, 4], maxAttempts: 3)
        #expect(table.hasAttemptLeft(request(1, tried: [0, 1]), now: at(0)))
        #expect(!table.hasAttemptLeft(request(1, tried: [0, 1, 2]), now: at(0)))
        for _ in 0..<3 { _ = table.probeFinished(UpstreamID(index: 2), success: false, now: at(0)) }
        #expect(table.hasAttemptLeft(request(1, tried: [0, 1]), now: at(0)), "it is tried all the same")
        _ = table.setMode("u2", .disabled, now: at(0))
        #expect(!table.hasAttemptLeft(request(1, tried: [0, 1]), now: at(0)))
        let bounded = self.table([4, 4, 4], maxAttempts: 2)
        #expect(!bounded.hasAttemptLeft(request(1, tried: [0, 1]), now: at(0)))
    }

    @Test(arguments: [AttemptFailure.modelNotFound, .status(401)])
    func anUpstreamThatTakesNoRequestIsInTrouble(_ failure: AttemptFailure) {
        var table = table([4])
        func fail() {
            _ = table.select(request(1), now: at(0))
            _ = settle(&table, 0, AttemptReport(.neutral, failure: failure), now: at(0))
        }
        for _ in 0..<2 { fail() }
        #expect(!table.statuses(now: at(0))[0].isFailing)
        fail()
        let status = table.statuses(now: at(0))[0]
        #expect(status.isFailing && status.trouble?.failed == 3 && status.trouble?.failure == failure)
        #expect(HealthSummary([status], isHistoryDegraded: false) == .some)
        #expect(status.isAvailable && status.breaker == .closed, "it is asked as before")
        #expect(!table.statuses(now: at(301))[0].isFailing, "nobody has asked since")
        #expect(table.statuses(now: at(301))[0].trouble?.isAlarming == true)
    }

    @Test(arguments: [AttemptFailure.busy, .tooManyRequests(retryAfter: 1), .disabled, .status(400)])
    func whatPassesIsNoTrouble(_ failure: AttemptFailure) {
        var table = table([4])
        for _ in 0..<5 {
            _ = table.select(request(1), now: at(0))
            _ = settle(&table, 0, AttemptReport(.neutral, failure: failure), now: at(0))
        }
        #expect(table.statuses(now: at(0))[0].trouble == nil)
    }

    @Test func aLaterShorterRestDoesNotEndALongerOne() {
        var table = table([4])
        for rest in [60, 5] {
            _ = table.select(request(1), now: at(0))
            _ = settle(&table, 0, AttemptReport(.neutral, rest: .seconds(rest)), now: at(0))
        }
        #expect(table.statuses(now: at(59))[0].reason == "resting")
        #expect(table.statuses(now: at(60))[0].isAvailable)
    }

    @Test func anotherThatCouldAnswerIsKnown() {
        var table = table([4, 1], maxAttempts: 2)
        let first = UpstreamID(index: 0)
        #expect(table.isAvailableElsewhere(request(1), than: first, now: at(0)))
        #expect(!table.isAvailableElsewhere(request(1, tried: [0, 1]), than: first, now: at(0)))
        var pinned = request(2)
        pinned.pinned = "u0"
        #expect(!table.isAvailableElsewhere(pinned, than: first, now: at(0)))
        _ = table.select(request(3, tried: [0]), now: at(0))
        #expect(!table.isAvailableElsewhere(request(1), than: first, now: at(0)), "it is full")
    }

    @Test func whoWaitsIsServedInOrder() {
        var table = table([1])
        #expect(upstream(table.select(request(1), now: at(0))) == 0)
        #expect(table.select(request(2), now: at(0)) == .wait(position: 1, deadline: at(10), displaced: nil))
        #expect(table.select(request(3), now: at(0)) == .wait(position: 2, deadline: at(10), displaced: nil))
        table.cancelWait(WaiterID(rawValue: 2))
        let grants = settle(&table, 0, AttemptReport(.success), now: at(1))
        #expect(grants.map(\.waiter.rawValue) == [3])
        #expect(settle(&table, 0, AttemptReport(.success), now: at(2)).isEmpty)
        #expect(table.statuses(now: at(2))[0].inFlight == 0)
    }

    @Test func aFullQueueRefusesButABatchItemWaits() {
        var table = table([1], maxQueue: 1)
        _ = table.select(request(1), now: at(0))
        _ = table.select(request(2), now: at(0))
        guard case .refuse(let retryAfter) = table.select(request(3), now: at(0)) else { return #expect(Bool(false)) }
        #expect((1...300).contains(retryAfter))
        #expect(
            table.select(request(4, isBatchItem: true), now: at(0)) == .wait(position: 2, deadline: nil, displaced: nil)
        )
    }

    /// 100 000 random steps: slots are never exceeded, nobody is lost or served twice, and waiting ends in order.
    @Test func randomStepsKeepTheInvariants() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed", seed)
        var random = SplitMix(state: seed)
        let slots = [2, 1, 3]
        var table = table(slots, maxQueue: 5)
        var holding: [UInt64: (upstream: Int, era: Int)] = [:]
        var waiting: [UInt64] = []
        var next: UInt64 = 0
        var now = at(0)
        func accept(_ grants: [Grant]) {
            for grant in grants {
                let id = grant.waiter.rawValue
                #expect(waiting.contains(id), "granted to nobody, seed \(seed)")
                waiting.removeAll { $0 == id }
                holding[id] = (grant.choice.upstream.index, grant.choice.breakerEra)
            }
        }
        for _ in 0..<100_000 {
            now = now + .milliseconds(Int64.random(in: 0...50, using: &random))
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4:
                next += 1
                switch table.select(request(next), now: now) {
                case .attempt(let choice): holding[next] = (choice.upstream.index, choice.breakerEra)
                case .wait: waiting.append(next)
                case .refuse: #expect(waiting.count >= 5, "seed \(seed)")
                case .exhausted: #expect(Bool(false), "seed \(seed)")
                }
            case 4..<8:
                guard let (id, held) = holding.randomElement(using: &random) else { break }
                holding[id] = nil
                let rest: Duration? = Int.random(in: 0..<20, using: &random) == 0 ? .milliseconds(100) : nil
                let report = AttemptReport(
                    [.success, .failure, .neutral].randomElement(using: &random)!, breakerEra: held.era, rest: rest,
                    heldFor: .milliseconds(10))
                accept(settle(&table, held.upstream, report, now: now))
            case 8:
                guard let id = waiting.randomElement(using: &random) else { break }
                waiting.removeAll { $0 == id }
                table.cancelWait(WaiterID(rawValue: id))
            default:
                let id = UpstreamID(index: Int.random(in: 0..<3, using: &random))
                accept(table.probeFinished(id, success: Bool.random(using: &random), now: now).grants)
            }
            let statuses = table.statuses(now: now)
            for (index, status) in statuses.enumerated() {
                #expect(status.inFlight == holding.values.count { $0.upstream == index }, "seed \(seed)")
                #expect(status.inFlight <= slots[index], "seed \(seed)")
            }
            #expect(statuses.reduce(0) { $0 + $1.queued } == waiting.count, "seed \(seed)")
        }
    }
}
