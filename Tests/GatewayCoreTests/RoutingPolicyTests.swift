import Testing

@testable import GatewayCore

/// Who is asked first under each policy, and what bounds retries.
struct RoutingPolicyTests {
    private func at(_ seconds: Double) -> MonotonicTime { MonotonicTime(nanoseconds: Int64(seconds * 1e9)) }

    private func table(
        _ policy: RoutingPolicy,
        _ change: (inout [UpstreamConfiguration], inout RoutingConfiguration) -> Void = { _, _ in }
    ) -> UpstreamTable {
        var routing = RoutingConfiguration()
        routing.policy = policy
        var upstreams = (0..<3).map { index in
            UpstreamConfiguration(
                name: "u\(index)", kind: .ollama, url: UpstreamURL(host: "127.0.0.1", port: 1 + index), model: "m")
        }
        change(&upstreams, &routing)
        return UpstreamTable(upstreams: upstreams, routing: routing)
    }

    private func request(_ id: UInt64, client: UInt64 = 0) -> SelectionRequest {
        SelectionRequest(waiter: WaiterID(rawValue: id), client: ClientID(rawValue: client), modelID: "x")
    }

    private func choose(_ table: inout UpstreamTable, _ id: UInt64 = 1, client: UInt64 = 0, now: Double = 0) -> Int? {
        if case .attempt(let choice) = table.select(request(id, client: client), now: at(now)) {
            choice.upstream.index
        } else {
            nil
        }
    }

    private func settle(_ table: inout UpstreamTable, _ index: Int, _ report: AttemptReport, now: Double = 0) {
        _ = table.settle(UpstreamID(index: index), client: ClientID(rawValue: 0), report, now: at(now))
    }

    @Test func leastBusyTakesTheFewestForItsSlots() {
        var table = table(.leastBusy) { upstreams, _ in upstreams[1].maxInFlight = 8 }
        #expect((0..<6).map { _ in choose(&table) } == [0, 1, 2, 1, 0, 1])
    }

    @Test func fastestTakesTheQuickestAndAsksTheUnknown() {
        var table = table(.fastest)
        for (index, milliseconds) in [300, 100, 200].enumerated() {
            #expect(choose(&table) == index)
            settle(&table, index, AttemptReport(.success, firstToken: .milliseconds(milliseconds)))
        }
        #expect(choose(&table) == 1)
        #expect(choose(&table) == 1)
        #expect(choose(&table) == 1, "150 ms with two of four slots taken")
        #expect(choose(&table) == 1, "175 ms")
        #expect(choose(&table) == 2, "full")
    }

    @Test func fastestAsksASlowOneAgainSomeDay() {
        var table = table(.fastest)
        func answered(after milliseconds: Int) -> AttemptReport {
            AttemptReport(.success, heldFor: .seconds(5), firstToken: .milliseconds(milliseconds))
        }
        for (index, milliseconds) in [300, 2000, 4000].enumerated() {
            #expect(choose(&table) == index)
            settle(&table, index, answered(after: milliseconds))
        }
        // The quickest is measured all the time; 2000 ms count for less than its 297 after 165 s.
        var asked: [Int: Double] = [:]
        for second in stride(from: 1.0, to: 200, by: 1) {
            let index = choose(&table, now: second)!
            if asked[index] == nil { asked[index] = second }
            // Without an answer nothing is learnt, and it does not become more attractive.
            let report = index == 1 ? AttemptReport(.neutral, heldFor: .seconds(1)) : answered(after: 300)
            settle(&table, index, report, now: second)
        }
        #expect(asked == [0: 1, 1: 166])
        #expect(choose(&table, now: 200) == 0)
    }

    @Test func weightedGivesEachItsShare() {
        var table = table(.weighted) { upstreams, _ in
            for (index, weight) in [5, 1, 2].enumerated() {
                upstreams[index].weight = weight
                upstreams[index].maxInFlight = 10_000
            }
        }
        var counts = [0, 0, 0]
        for _ in 0..<800 { counts[choose(&table)!] += 1 }
        #expect(counts == [500, 100, 200])
    }

    /// What could not be asked for a while saves nothing up for it.
    @Test(arguments: ["full", "pinned away"])
    func weightedSharesAreAsBeforeAfterOneWasNotAsked(_ cause: String) {
        var table = table(.weighted) { upstreams, _ in
            for index in upstreams.indices { upstreams[index].maxInFlight = index == 1 ? 1 : 1000 }
        }
        if cause == "full" {
            for _ in 0..<200 { _ = choose(&table) }
            for (index, status) in table.statuses(now: at(0)).enumerated() {
                for _ in 0..<status.inFlight { settle(&table, index, AttemptReport(.neutral)) }
            }
        } else {
            var pinned = request(1)
            pinned.pinned = "u0"
            for _ in 0..<200 {
                _ = table.select(pinned, now: at(0))
                settle(&table, 0, AttemptReport(.neutral))
            }
        }
        var counts = [0, 0, 0]
        for _ in 0..<30 {
            let index = choose(&table)!
            counts[index] += 1
            settle(&table, index, AttemptReport(.neutral))
        }
        #expect(counts.allSatisfy { (9...11).contains($0) }, "\(counts)")
    }

    /// One that fails without being ill has its share of the first attempts, and not all of them.
    @Test func weightedSharesHoldWhereOneFails() {
        var table = table(.weighted) { upstreams, _ in upstreams.removeLast() }
        var first = [0, 0]
        for _ in 0..<30 {
            let index = choose(&table)!
            first[index] += 1
            if index == 0 {
                settle(&table, 0, AttemptReport(.neutral))
                var again = request(1)
                again.tried.insert(UpstreamID(index: 0))
                _ = table.select(again, now: at(0))
            }
            settle(&table, 1, AttemptReport(.neutral))
        }
        #expect(first == [15, 15])
    }

    @Test func amongEqualsTheLoadedOneThenTheInstalled() {
        var table = table(.leastBusy)
        table.setInstalled(UpstreamID(index: 1), ["m:latest"])
        #expect(choose(&table) == 1)
        settle(&table, 1, AttemptReport(.neutral))
        table.setLoaded(UpstreamID(index: 2), .models(["m:latest"]), asked: at(0))
        #expect(choose(&table) == 2)
    }

    @Test func anOllamaWithoutTheModelComesLast() {
        var table = table(.priority)
        table.setInstalled(UpstreamID(index: 0), ["other"])
        #expect(choose(&table) == 1)
    }

    /// Its list has the shortest name; requests may have any.
    @Test(arguments: [
        ("llama3:latest", "llama3", true), ("llama3:latest", "Llama3:LATEST", true), ("llama3", "library/llama3", true),
        ("llama3:latest", "registry.ollama.ai/library/llama3", true), ("Me/A:7b", "me/a:7B", true),
        ("llama3:8b", "llama3", false), ("me/llama3", "llama3", false), ("llama3", "other.ai/library/llama3", false),
        ("", "llama3", false), ("latest", "llama3:latest", false),
    ])
    func anOllamasModelHasSeveralNames(_ listed: String, _ asked: String, _ isSame: Bool) {
        var table = table(.priority) { upstreams, _ in for index in upstreams.indices { upstreams[index].model = asked }
        }
        table.setInstalled(UpstreamID(index: 0), [listed])
        #expect((choose(&table) == 0) == isSame)
    }

    @Test func aPinnedRequestTriesThatOneOnly() {
        var table = table(.priority)
        var request = request(1)
        request.pinned = "u2"
        guard case .attempt(let choice) = table.select(request, now: at(0)) else { return #expect(Bool(false)) }
        #expect(choice.upstream.index == 2)
        request.tried.insert(choice.upstream)
        #expect(table.select(request, now: at(0)) == .exhausted(.noneEnabled))
    }

    @Test func theBudgetBoundsCostlyRetriesAlone() {
        var table = table(.priority) { upstreams, routing in
            for index in upstreams.indices { upstreams[index].maxInFlight = 1000 }
            routing.retryMinimum = 3
        }
        var retry = request(1)
        retry.tried.insert(UpstreamID(index: 0))
        for _ in 0..<10 { _ = choose(&table) }
        retry.isCostlyRetry = true
        var allowed = 0
        while case .attempt = table.select(retry, now: at(1)) { allowed += 1 }
        #expect(allowed == 5, "3 and a fifth of 10")
        #expect(table.select(retry, now: at(1)) == .exhausted(.retryBudget))
        retry.isCostlyRetry = false
        guard case .attempt = table.select(retry, now: at(1)) else { return #expect(Bool(false)) }
        retry.isCostlyRetry = true
        guard case .attempt = table.select(retry, now: at(12)) else { return #expect(Bool(false), "it grows again") }
    }

    @Test func theOperatorsWordStands() {
        var table = table(.priority)
        _ = table.setMode("u0", .draining, now: at(0))
        _ = table.setMode("u1", .disabled, now: at(0))
        #expect(choose(&table) == 2)
        _ = table.setMode("u2", .disabled, now: at(0))
        #expect(table.select(request(2), now: at(0)) == .exhausted(.noneEnabled), "no fail open past an operator")
        _ = table.setMode("u0", .enabled, now: at(0))
        #expect(choose(&table) == 0)
    }

    @Test func aBreakerEjectsAndARecoveredOneStartsSlowly() {
        var table = table(.priority)
        for _ in 0..<5 {
            #expect(choose(&table) == 0)
            settle(&table, 0, AttemptReport(.failure))
        }
        #expect(choose(&table) == 1)
        #expect(table.plan(request(2), now: at(1))[0].skip == .breakerOpen)
        #expect(choose(&table, now: 33.1) == 0, "the probe")
        #expect(choose(&table, now: 33.1) == 1, "the others go elsewhere")
        settle(&table, 0, AttemptReport(.success, breakerEra: 1), now: 34)
        #expect(choose(&table, now: 34) == 0, "one slot at first")
        #expect(choose(&table, now: 34) == 1)
        #expect(choose(&table, now: 44) == 0)
    }

    @Test func aFloodOfOneClientDoesNotKeepOthersOut() {
        var table = UpstreamTable(
            upstreams: [
                {
                    var upstream = UpstreamConfiguration(
                        name: "u", kind: .query, url: UpstreamURL(host: "127.0.0.1", port: 1))
                    upstream.maxInFlight = 1
                    upstream.maxQueue = 4
                    return upstream
                }()
            ], routing: RoutingConfiguration())
        #expect(choose(&table, 1, client: 7) == 0)
        for id in 2...5 { _ = table.select(request(UInt64(id), client: 7), now: at(0)) }
        guard case .refuse = table.select(request(6, client: 7), now: at(0)) else { return #expect(Bool(false)) }
        // The other client takes the flood's newest place.
        guard case .wait(_, _, let displaced) = table.select(request(10, client: 8), now: at(0)) else {
            return #expect(Bool(false))
        }
        #expect(displaced == WaiterID(rawValue: 5))
        _ = table.select(request(11, client: 7), now: at(0))
        let grants = table.settle(
            UpstreamID(index: 0), client: ClientID(rawValue: 7), AttemptReport(.success), now: at(1)
        ).grants
        #expect(grants.map(\.waiter.rawValue) == [2], "nobody has anything running: in order")
    }

    @Test func whoHasTheFewestRunningIsServedFirst() {
        var table = table(.priority) { upstreams, _ in
            upstreams.removeSubrange(1...)
            upstreams[0].maxInFlight = 2
        }
        #expect(choose(&table, 1, client: 7) == 0)
        #expect(choose(&table, 2, client: 7) == 0)
        _ = table.select(request(3, client: 7), now: at(0))
        _ = table.select(request(4, client: 8), now: at(0))
        let grants = table.settle(
            UpstreamID(index: 0), client: ClientID(rawValue: 7), AttemptReport(.success), now: at(1)
        ).grants
        #expect(grants.map(\.waiter.rawValue) == [4], "client 7 has one running, client 8 none")
    }

    @Test func reloadKeepsStateByNameAndEndsWhatIsGone() {
        var table = table(.priority)
        for _ in 0..<3 { _ = table.probeFinished(UpstreamID(index: 0), success: false, now: at(0)) }
        #expect(choose(&table) == 1)
        var upstreams = table.entries.map(\.configuration)
        upstreams.swapAt(0, 2)
        upstreams[0].maxInFlight = 9
        upstreams.remove(at: 1)
        let ids = table.configure(upstreams: upstreams, routing: RoutingConfiguration(), models: []).ids
        #expect(ids.map(\.index) == [2, 0])
        #expect(table.statuses(now: at(1)).map(\.probe) == [.unknown, .down])
        #expect(choose(&table, 2) == 2)
        // What ran at the one that is gone ends in peace.
        settle(&table, 1, AttemptReport(.success))
        #expect(table.entries[1].inFlight == 0)
        // Another address under the same name is another server.
        upstreams[1].url.port = 99
        _ = table.configure(upstreams: upstreams, routing: RoutingConfiguration(), models: [])
        #expect(table.statuses(now: at(1))[1].probe == .unknown)
    }

    @Test func whatFailsAtAnOldAddressSaysNothingOfTheNewOne() {
        var table = table(.priority)
        let id = UpstreamID(index: 0)
        for _ in 0..<4 { #expect(choose(&table) == 0) }
        var upstreams = table.entries.map(\.configuration)
        upstreams[0].url.port = 99
        _ = table.configure(upstreams: upstreams, routing: RoutingConfiguration(), models: [])
        #expect(choose(&table) == 1, "the slots are still taken")
        for _ in 0..<4 { settle(&table, 0, AttemptReport(.failure, rest: .seconds(60), failure: .connect)) }
        #expect(table.statuses(now: at(0))[0].isAvailable)
        #expect(table.statuses(now: at(0))[0].lastFailure == nil)
        #expect(table.entries[0].inFlight == 0)
        for _ in 0..<5 {
            guard case .attempt(let choice) = table.select(request(9), now: at(0)) else { return #expect(Bool(false)) }
            #expect(choice.upstream == id)
            settle(&table, 0, AttemptReport(.failure, breakerEra: choice.breakerEra))
        }
        #expect(table.statuses(now: at(0))[0].breaker == .open, "its own failures count")
    }

    @Test func whoFailedAtAnUpstreamThatIsGoneGoesToTheOthers() {
        var table = table(.priority)
        var retry = request(1)
        retry.tried.insert(UpstreamID(index: 0))
        var upstreams = table.entries.map(\.configuration)
        upstreams = [upstreams[1]]
        _ = table.configure(upstreams: upstreams, routing: RoutingConfiguration(), models: [])
        guard case .attempt(let choice) = table.select(retry, now: at(0)) else { return #expect(Bool(false)) }
        #expect(choice.upstream == UpstreamID(index: 1))
        retry.tried.insert(choice.upstream)
        guard case .exhausted(.allTried) = table.select(retry, now: at(0)) else { return #expect(Bool(false)) }
    }

    @Test func coldIsWhatIsUpAndNotInItsList() {
        var table = table(.priority)
        let first = UpstreamID(index: 0)
        #expect(!table.isCold(first, model: "m"), "nothing is known")
        table.setLoaded(first, .models([]), asked: at(0))
        #expect(!table.isCold(first, model: "m"), "not up")
        _ = table.probeFinished(first, success: true, now: at(0))
        #expect(table.isCold(first, model: "m"))
        table.noteLoaded(first, "m", now: at(1))
        #expect(!table.isCold(first, model: "m"))
        table.setLoaded(first, .hanging, asked: at(2))
        #expect(table.isCold(first, model: "m"))
        table.setLoaded(UpstreamID(index: 1), .models(["m"]), asked: at(2))
        #expect(table.isLoadedElsewhere(request(1), than: first, now: at(0)))
    }

    @Test func aListThatLacksWhatWasJustLoadedIsNotBelieved() {
        var table = table(.priority)
        let first = UpstreamID(index: 0)
        _ = table.probeFinished(first, success: true, now: at(0))
        table.setLoaded(first, .models([]), asked: at(0))
        #expect(table.isCold(first, model: "m"))
        table.noteLoaded(first, "m", now: at(2))
        table.setLoaded(first, .models([]), asked: at(1))
        #expect(!table.isCold(first, model: "m"), "a list from before the load")
        #expect(table.isCold(first, model: "other"), "and nothing is concluded from it")
        table.setLoaded(first, .models([]), asked: at(3))
        #expect(!table.isCold(first, model: "m"), "it was there a moment ago")
        table.setLoaded(first, .models([]), asked: at(4))
        #expect(!table.isCold(first, model: "other"))
        table.setLoaded(first, .models(["m"]), asked: at(5))
        #expect(table.isCold(first, model: "other"), "it does list what it has")
    }

    /// A server with room for one model.
    @Test func aModelThatTookAnothersPlaceMakesNoListMisleading() {
        var table = table(.priority)
        let first = UpstreamID(index: 0)
        _ = table.probeFinished(first, success: true, now: at(0))
        table.setLoaded(first, .models([]), asked: at(0))
        table.noteLoaded(first, "a", now: at(1))
        table.noteLoaded(first, "b", now: at(2))
        table.setLoaded(first, .models(["b"]), asked: at(3))
        #expect(table.isCold(first, model: "a") && !table.isCold(first, model: "b"))
    }

    @Test func backoffIsBoundedAndTheFirstFallbackIsImmediate() {
        #expect(Backoff.pause(afterAttempts: 0, random: 1) == .zero)
        #expect(Backoff.pause(afterAttempts: 1, random: 1) == .zero)
        #expect(
            (2...9).map { Backoff.pause(afterAttempts: $0, random: 1).milliseconds } == [
                50, 100, 200, 250, 250, 250, 250, 250,
            ])
        #expect(Backoff.pause(afterAttempts: 9, random: 0) == .zero)
    }

    /// 100 000 random steps: in no ten seconds are more generations made again than the budget allows.
    @Test func theRetryBudgetHoldsInRandomSteps() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed", seed)
        var random = SplitMix(state: seed)
        let routing = RoutingConfiguration()
        var budget = RetryBudget(routing)
        var seconds: [Int64: (requests: Int, retries: Int)] = [:]
        var now = at(0)
        var retries = 0
        for _ in 0..<100_000 {
            now = now + .milliseconds(Int64.random(in: 0...20, using: &random))
            let second = now.nanoseconds / 1_000_000_000
            seconds = seconds.filter { $0.key > second - RetryBudget.window }
            if Bool.random(using: &random) {
                budget.noteRequest(now)
                seconds[second, default: (0, 0)].requests += 1
            } else if budget.left(now) > 0 {
                budget.noteRetry(now)
                seconds[second, default: (0, 0)].retries += 1
                retries += 1
                let (asked, again) = seconds.values.reduce((0, 0)) { ($0.0 + $1.requests, $0.1 + $1.retries) }
                let allowed = Double(routing.retryMinimum) + routing.retryRatio * Double(asked)
                #expect(Double(again) <= allowed, "seed \(seed)")
            }
        }
        #expect(retries > 1000, "seed \(seed)")
    }
}
