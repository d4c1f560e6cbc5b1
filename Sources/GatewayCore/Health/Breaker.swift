/// When a breaker opens and for how long: the `breaker` table of an upstream.
package struct BreakerConfiguration: Sendable, Equatable {
    /// Failures in a row that open it, 1...1000.
    package var failures = 5
    /// Share of failed requests in the window that opens it, 0.01...1, once there are `minRequests` in it.
    package var ratio = 0.5
    package var minRequests = 20
    package var window: Duration = .seconds(30)
    /// Open for this long times how often it opened, at most `maxOpen`, ±10 %.
    package var open: Duration = .seconds(30)
    package var maxOpen: Duration = .seconds(300)
    package init() {}
}

/// A passive circuit breaker: judges an upstream by the requests that really went to it.
///
/// Closed, it counts. Open, the upstream gets none. When its time is over it is half-open: one request is the probe, and
/// its success closes the breaker. Active probes cannot close it: a server may answer them and still fail to generate.
package struct Breaker: Sendable {
    package enum State: String, Sendable, Equatable {
        case closed, open
        case halfOpen = "half_open"
    }

    package private(set) var state: State = .closed
    /// Grows each time it opens. A request that was sent in an earlier era tells nothing of this one.
    private(set) var era = 0
    /// When the open time is over; meaningful while open.
    package private(set) var openUntil = MonotonicTime(nanoseconds: 0)
    private(set) var failuresInRow = 0
    private var timesOpened = 0
    private var lastOpened = MonotonicTime(nanoseconds: 0)
    private var isProbeOut = false
    /// Outcomes of the window in slices of a tenth of it.
    private var slices: [(start: MonotonicTime, failed: Int, total: Int)] = []

    package init() {}

    /// Of an upstream that replaces another.
    init(era: Int) { self.era = era }

    /// Whether a request may go, as of now.
    func admits(_ now: MonotonicTime) -> Bool {
        switch state {
        case .closed: true
        case .open: now >= openUntil
        case .halfOpen: !isProbeOut
        }
    }

    /// A request goes: from an open breaker whose time is over it is the probe.
    mutating func take(_ now: MonotonicTime) {
        if state == .open, now >= openUntil { state = .halfOpen }
        if state == .halfOpen { isProbeOut = true }
    }

    /// The request ended in a way that says nothing about the upstream.
    mutating func release(era: Int) {
        if era == self.era { isProbeOut = false }
    }

    /// - Parameter era: of the request, when it was sent.
    /// - Returns: whether the breaker closed because of it.
    mutating func succeed(era: Int, _ now: MonotonicTime, _ configuration: BreakerConfiguration) -> Bool {
        guard era == self.era else { return false }
        count(failed: false, now, configuration)
        failuresInRow = 0
        isProbeOut = false
        guard state == .halfOpen else { return false }
        state = .closed
        slices = []
        return true
    }

    /// - Parameters:
    ///   - era: of the request, when it was sent.
    ///   - mayOpen: false where it is the last available upstream: ejecting it would leave nobody.
    ///   - jitter: -1...1, spreads the open time by 10 %.
    /// - Returns: whether the breaker opened because of it.
    mutating func fail(
        era: Int, _ now: MonotonicTime, _ configuration: BreakerConfiguration, mayOpen: Bool, jitter: Double
    ) -> Bool {
        guard era == self.era else { return false }
        count(failed: true, now, configuration)
        failuresInRow += 1
        isProbeOut = false
        switch state {
        case .open: return false
        case .halfOpen: break
        case .closed:
            let window = slices.reduce((0, 0)) { ($0.0 + $1.failed, $0.1 + $1.total) }
            let isOver =
                failuresInRow >= configuration.failures
                || (window.1 >= configuration.minRequests && Double(window.0) >= configuration.ratio * Double(window.1))
            guard isOver, mayOpen else { return false }
        }
        // A long time without trouble is forgiven.
        if timesOpened > 0, now - lastOpened > configuration.maxOpen * 2 { timesOpened = 0 }
        timesOpened += 1
        lastOpened = now
        let base = min(configuration.maxOpen, configuration.open * timesOpened)
        openUntil = now + base * (1 + 0.1 * min(1, max(-1, jitter)))
        state = .open
        self.era += 1
        slices = []
        return true
    }

    private mutating func count(failed: Bool, _ now: MonotonicTime, _ configuration: BreakerConfiguration) {
        let window = configuration.window.nanoseconds
        while let first = slices.first, now.nanoseconds - first.start.nanoseconds > window { slices.removeFirst() }
        if slices.isEmpty || now.nanoseconds - slices[slices.count - 1].start.nanoseconds >= window / 10 {
            slices.append((now, 0, 0))
        }
        slices[slices.count - 1].total += 1
        if failed { slices[slices.count - 1].failed += 1 }
    }
}
