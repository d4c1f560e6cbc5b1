import GatewayCore
import Synchronization

/// What is counted of every request, attempt and change of state. One short critical section each; labels come from
/// closed sets and from the configuration, so the number of series is bounded.
final class Metrics: Sendable {
    struct RequestKey: Hashable {
        var route: String
        var outcome: RequestOutcome
        /// Empty where no upstream was asked.
        var upstream: String
    }

    struct UpstreamSeries {
        var firstToken = Histogram(bounds: HistogramBounds.firstToken)
        var perToken = Histogram(bounds: HistogramBounds.perToken)
        var connect = Histogram(bounds: HistogramBounds.short)
        var load = Histogram(bounds: HistogramBounds.firstToken)
        var inputTokens = 0
        var outputTokens = 0
        /// Pieces of answers whose client had left.
        var lateTokens = 0
        /// Attempts by how they ended.
        var attempts: [String: Int] = [:]
        /// Attempts that another upstream had to take over, by the reason.
        var fallbacks: [String: Int] = [:]
        var probes: [Bool: Int] = [:]
        var breakerOpened = 0
        var breakerClosed = 0
    }

    struct State {
        var requests: [RequestKey: Int] = [:]
        var durations: [String: Histogram] = [:]
        var queueWait = Histogram(bounds: HistogramBounds.request)
        var upstreams: [String: UpstreamSeries] = [:]
        /// Generations whose client left, by the phase they were in.
        var cancels: [GenerationTrace.Phase: Int] = [:]
        /// From there until the upstream's connection was closed.
        var cancelDurations: [GenerationTrace.Phase: Histogram] = [:]
        var reloads: [Bool: Int] = [:]
    }

    private let state = Mutex(State())
    private let series = Mutex(TimeSeries(now: .now))

    /// Reads the last hour.
    func withSeries<Value: Sendable>(_ body: (inout TimeSeries) -> Value) -> Value { series.withLock { body(&$0) } }

    var snapshot: State { state.withLock { $0 } }

    @inline(never)  // Benchmarks/recording.py measures it
    func request(_ record: AccessRecord) {
        let key = RequestKey(route: record.route, outcome: record.outcome, upstream: record.trace.upstream ?? "")
        state.withLock { state in
            state.requests[key, default: 0] += 1
            state.durations[record.route, default: Histogram(bounds: HistogramBounds.request)].record(record.duration)
        }
    }

    /// A request, or an item of a batch, whose generation has ended: what the history has a row of.
    func generation(_ outcome: RequestOutcome) {
        series.withLock { $0.request(isError: outcome.isFailure, now: .now) }
    }

    /// - Parameters:
    ///   - tokens: of the answer, estimated where the upstream does not count; nil where there is none.
    ///   - countedTokens: how many of these the time series has already.
    @inline(never)  // Benchmarks/recording.py measures it
    func attempt(
        _ upstream: String, _ outcome: AttemptOutcome, _ trace: GenerationTrace, _ usage: TokenUsage,
        tokens: Int?, countedTokens: Int
    ) {
        series.withLock { series in
            let now = MonotonicTime.now
            series.attempt(upstream, firstToken: trace.firstTokenTime, now: now)
            if let tokens, tokens > countedTokens {
                series.tokens(tokens - countedTokens, upstream, now: now)
            }
        }
        state.withLock { state in
            if case .abandoned(.clientLeft) = outcome { state.cancels[trace.phase, default: 0] += 1 }
            Self.note(&state.upstreams[upstream, default: UpstreamSeries()], outcome, trace, usage)
        }
    }

    private static func note(
        _ series: inout UpstreamSeries, _ outcome: AttemptOutcome, _ trace: GenerationTrace, _ usage: TokenUsage
    ) {
        series.attempts[outcome.metricLabel, default: 0] += 1
        if trace.connectTime > .zero { series.connect.record(trace.connectTime) }
        if trace.loadTime > .zero { series.load.record(trace.loadTime) }
        if let time = trace.firstTokenTime { series.firstToken.record(time) }
        guard case .success = outcome else { return }
        if let rate = trace.tokensPerSecond {
            series.perToken.record(.nanoseconds(Int64(1e9 / rate)))
        }
        series.inputTokens += usage.promptTokens ?? 0
        series.outputTokens += usage.completionTokens ?? 0
    }

    /// Tokens of requests that still run.
    func tokens(_ counts: [String: Int]) {
        guard !counts.isEmpty else { return }
        series.withLock { series in
            let now = MonotonicTime.now
            for (upstream, count) in counts { series.tokens(count, upstream, now: now) }
        }
    }

    func waited(_ duration: Duration, left: Bool) {
        state.withLock { state in
            state.queueWait.record(duration)
            if left { state.cancels[.queued, default: 0] += 1 }
        }
    }

    /// Another upstream takes over.
    func fellBack(from upstream: String, _ reason: String) {
        state.withLock { $0.upstreams[upstream, default: UpstreamSeries()].fallbacks[reason, default: 0] += 1 }
    }

    func clientLeft(_ phase: GenerationTrace.Phase) { state.withLock { $0.cancels[phase, default: 0] += 1 } }

    /// The transfer of a client that left has ended.
    func cancelled(_ phase: GenerationTrace.Phase, after duration: Duration) {
        state.withLock {
            $0.cancelDurations[phase, default: Histogram(bounds: HistogramBounds.short)].record(duration)
        }
    }

    func lateTokens(_ upstream: String, _ count: Int) {
        state.withLock { $0.upstreams[upstream, default: UpstreamSeries()].lateTokens += count }
    }

    func probe(_ upstream: String, success: Bool) {
        state.withLock { $0.upstreams[upstream, default: UpstreamSeries()].probes[success, default: 0] += 1 }
    }

    func transition(_ upstream: String, _ transition: UpstreamTransition) {
        state.withLock { state in
            switch transition {
            case .breakerOpened: state.upstreams[upstream, default: UpstreamSeries()].breakerOpened += 1
            case .breakerClosed: state.upstreams[upstream, default: UpstreamSeries()].breakerClosed += 1
            case .probedUp, .probedDown: break
            }
        }
    }

    func reload(success: Bool) { state.withLock { $0.reloads[success, default: 0] += 1 } }
}

extension AttemptOutcome {
    /// Statuses by their class: a server may invent any number.
    var metricLabel: String {
        switch self {
        case .success: "ok"
        case .failed(.status(400...499)): "status_4xx"
        case .failed(.status(500...599)): "status_5xx"
        case .failed(.status): "status_other"
        case .failed(let failure): failure.label
        case .abandoned(let reason): reason.rawValue
        }
    }
}
