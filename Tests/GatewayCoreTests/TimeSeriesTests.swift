import GatewayCore
import Testing

@Suite struct TimeSeriesTests {
    private static func time(_ seconds: Int64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    @Test func eachStepHasWhatHappenedInItAndTheNewestComesLast() {
        var series = TimeSeries(now: Self.time(1000))
        series.request(isError: false, now: Self.time(1001))
        series.request(isError: true, now: Self.time(1009))
        series.attempt("a", firstToken: .milliseconds(100), now: Self.time(1009))
        series.attempt("a", firstToken: .milliseconds(300), now: Self.time(1009))
        series.attempt("b", firstToken: nil, now: Self.time(1009))
        series.tokens(30, "a", now: Self.time(1010))
        let steps = series.steps(Self.time(1010))
        #expect(steps.count == Int(TimeSeries.stepCount))
        let (before, last) = (steps[steps.count - 2], steps[steps.count - 1])
        #expect(before.requests == 2)
        #expect(before.errors == 1)
        #expect(before.upstreams["a"]?.firstTokenMean == .milliseconds(200))
        #expect(before.upstreams["b"]?.requests == 1)
        #expect(before.upstreams["b"]?.firstTokenMean == nil)
        #expect(last.requests == 0)
        #expect(last.tokens == 30)
        #expect(steps.dropLast(2).allSatisfy { $0 == TimeSeries.Step() })
    }

    @Test func stepsInWhichNothingHappenedAreEmpty() {
        var series = TimeSeries(now: Self.time(0))
        series.request(isError: false, now: Self.time(0))
        let steps = series.steps(Self.time(35))
        #expect(steps.suffix(4).map(\.requests) == [1, 0, 0, 0])
    }

    @Test(arguments: [3600, 3610, 100_000_000])
    func anHourLaterItIsForgotten(_ seconds: Int64) {
        var series = TimeSeries(now: Self.time(0))
        series.request(isError: false, now: Self.time(5))
        #expect(series.steps(Self.time(3599)).first?.requests == 1)
        #expect(series.steps(Self.time(seconds)).allSatisfy { $0.requests == 0 })
    }

    /// Two threads read the clock and may come in the other order.
    @Test func aTimeThatIsLateCountsInTheNewestStep() {
        var series = TimeSeries(now: Self.time(100))
        series.request(isError: false, now: Self.time(110))
        series.request(isError: false, now: Self.time(109))
        #expect(series.steps(Self.time(110)).last?.requests == 2)
    }

    @Test func aNewStepHasANewNumber() {
        var series = TimeSeries(now: Self.time(0))
        let first = series.stepNumber(Self.time(9))
        #expect(series.stepNumber(Self.time(9)) == first)
        #expect(series.stepNumber(Self.time(10)) == first + 1)
    }
}

@Suite struct QuantilesTests {
    @Test func anEmptyOneHasNone() { #expect(Quantiles().quantile(0.5) == nil) }

    /// From 1 ms to 100 s, and each is at most one bucket too high.
    @Test(arguments: [0.5, 0.95, 0.99, 1])
    func theyAreWithinTwelvePercent(_ share: Double) throws {
        var quantiles = Quantiles()
        var values = (0..<1000).map { 0.001 * exponential(Double($0) / 1000 * 5) }
        values.shuffle()
        for value in values { quantiles.record(.microseconds(Int64(value * 1e6))) }
        let exact = values.sorted()[Int((share * 1000).rounded(.up)) - 1]
        let found = try #require(quantiles.quantile(share)).milliseconds / 1000
        #expect(found >= exact * 0.999 && found <= exact * 1.121, "\(found) for \(exact)")
    }

    @Test func whatIsLongerThanTheLastBucketIsInIt() throws {
        var quantiles = Quantiles()
        quantiles.record(.seconds(1_000_000))
        #expect(try #require(quantiles.quantile(0.5)) > .seconds(600))
    }

    /// Ten to the power of it, without a library of functions.
    private func exponential(_ power: Double) -> Double {
        let term = power * 2.302585092994046
        return (1...60).reversed().reduce(1.0) { 1 + term / Double($1) * $0 }
    }
}
