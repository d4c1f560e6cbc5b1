import Testing

@testable import GatewayCore

/// The breaker's states, with a clock that the test moves.
struct BreakerTests {
    private let configuration = BreakerConfiguration()
    private func at(_ seconds: Double) -> MonotonicTime { MonotonicTime(nanoseconds: Int64(seconds * 1e9)) }

    /// Fails until it opens; says after how many.
    private func failures(_ breaker: inout Breaker, from start: Double, mayOpen: Bool = true) -> Int? {
        for count in 1...100 {
            if breaker.fail(era: breaker.era, at(start), configuration, mayOpen: mayOpen, jitter: 0) { return count }
        }
        return nil
    }

    @Test func fiveFailuresInARowOpenItForThirtySeconds() {
        var breaker = Breaker()
        #expect(failures(&breaker, from: 0) == 5)
        #expect(!breaker.admits(at(29.9)))
        #expect(breaker.admits(at(30)))
    }

    @Test func aSuccessInBetweenStartsTheCountAgain() {
        var breaker = Breaker()
        for _ in 0..<4 { _ = breaker.fail(era: breaker.era, at(0), configuration, mayOpen: true, jitter: 0) }
        _ = breaker.succeed(era: breaker.era, at(0), configuration)
        #expect(failures(&breaker, from: 0) == 5)
    }

    @Test func halfOfTwentyInTheWindowOpensIt() {
        var breaker = Breaker()
        var opened: [Int] = []
        for count in 1...10 {
            _ = breaker.succeed(era: breaker.era, at(0), configuration)
            if breaker.fail(era: breaker.era, at(1), configuration, mayOpen: true, jitter: 0) { opened.append(count) }
        }
        #expect(opened == [10])
    }

    @Test func whatIsOlderThanTheWindowDoesNotCount() {
        var breaker = Breaker()
        for _ in 0..<9 {
            _ = breaker.succeed(era: breaker.era, at(0), configuration)
            _ = breaker.fail(era: breaker.era, at(0), configuration, mayOpen: true, jitter: 0)
        }
        _ = breaker.succeed(era: breaker.era, at(31), configuration)
        #expect(breaker.fail(era: breaker.era, at(31), configuration, mayOpen: true, jitter: 0) == false)
    }

    @Test func halfOpenOneRequestIsTheProbe() {
        var breaker = Breaker()
        _ = failures(&breaker, from: 0)
        breaker.take(at(30))
        #expect(breaker.state == .halfOpen)
        #expect(!breaker.admits(at(30)))
        breaker.release(era: breaker.era)
        #expect(breaker.admits(at(30)), "a probe whose client left says nothing")
        breaker.take(at(30))
        #expect(breaker.succeed(era: breaker.era, at(31), configuration) == true)
        #expect(breaker.state == .closed)
    }

    @Test func eachFailedProbeOpensItLongerUpToTheMost() {
        var breaker = Breaker()
        _ = failures(&breaker, from: 0)
        var now = 30.0
        for expected in [60.0, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
            breaker.take(at(now))
            #expect(breaker.fail(era: breaker.era, at(now), configuration, mayOpen: true, jitter: 0) == true)
            #expect((breaker.openUntil - at(now)).nanoseconds == Int64(expected * 1e9))
            now += expected
        }
    }

    @Test func theLastAvailableOneStaysClosed() {
        var breaker = Breaker()
        #expect(failures(&breaker, from: 0, mayOpen: false) == nil)
        #expect(breaker.state == .closed)
        #expect(failures(&breaker, from: 1) == 1, "as soon as there is another")
    }

    @Test func aLateSuccessDoesNotCloseAnOpenOne() {
        var breaker = Breaker()
        _ = failures(&breaker, from: 0)
        #expect(breaker.succeed(era: breaker.era, at(1), configuration) == false)
        #expect(!breaker.admits(at(1)))
    }

    /// Generations last minutes: some that were sent before it opened end while the probe runs, or after.
    @Test(arguments: [true, false]) func whatWasSentBeforeItOpenedDecidesNothing(_ succeeds: Bool) {
        var breaker = Breaker()
        let before = breaker.era
        for _ in 0..<5 { _ = breaker.fail(era: before, at(0), configuration, mayOpen: true, jitter: 0) }
        breaker.take(at(30))
        let probe = breaker.era
        breaker.release(era: before)
        #expect(!breaker.admits(at(30)), "the probe is still out")
        if succeeds {
            #expect(breaker.succeed(era: before, at(30), configuration) == false)
        } else {
            #expect(breaker.fail(era: before, at(30), configuration, mayOpen: true, jitter: 0) == false)
        }
        #expect(breaker.state == .halfOpen)
        #expect(!breaker.admits(at(30)))
        #expect(breaker.succeed(era: probe, at(31), configuration) == true)
        for _ in 0..<20 { _ = breaker.fail(era: before, at(32), configuration, mayOpen: true, jitter: 0) }
        #expect(breaker.state == .closed)
        #expect(
            breaker.fail(era: probe, at(32), configuration, mayOpen: true, jitter: 0) == false, "the first of its era")
    }

    /// 100 000 random steps of requests that overlap: an open breaker admits nobody before its time, a half-open one has
    /// one probe out, and what was sent in an earlier era changes nothing.
    @Test func randomStepsKeepTheInvariants() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed", seed)
        var random = SplitMix(state: seed)
        var breaker = Breaker()
        var running: [Int] = []
        var now = at(0)
        var opened = 0
        for _ in 0..<100_000 {
            now = now + .milliseconds(Int64.random(in: 0...2000, using: &random))
            let before = (state: breaker.state, era: breaker.era)
            if Bool.random(using: &random) {
                let isEarly = breaker.state == .open && now < breaker.openUntil
                let hasProbe = breaker.state == .halfOpen && running.contains(breaker.era)
                #expect(breaker.admits(now) == !(isEarly || hasProbe), "seed \(seed)")
                guard breaker.admits(now) else { continue }
                breaker.take(now)
                running.append(breaker.era)
                continue
            }
            guard let index = running.indices.randomElement(using: &random) else { continue }
            let era = running.remove(at: index)
            switch Int.random(in: 0..<5, using: &random) {
            case 0: breaker.release(era: era)
            case 1, 2:
                let closed = breaker.succeed(era: era, now, configuration)
                #expect(closed == (before.state == .halfOpen && era == before.era), "seed \(seed)")
            default:
                let jitter = Double.random(in: -1...1, using: &random)
                guard breaker.fail(era: era, now, configuration, mayOpen: true, jitter: jitter) else { break }
                opened += 1
                let length = (breaker.openUntil - now).milliseconds / 1000
                #expect((27...330).contains(length), "seed \(seed)")
                #expect(breaker.era == before.era + 1, "seed \(seed)")
            }
            if era != before.era { #expect(breaker.state == before.state, "seed \(seed)") }
        }
        #expect(opened > 100, "seed \(seed)")
    }
}
