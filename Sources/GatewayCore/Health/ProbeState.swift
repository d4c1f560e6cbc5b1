/// What active probes say of one upstream, with hysteresis: `fall` failures in a row mark it down, `rise` successes in
/// a row up again.
///
/// An upstream that no probe has answered for yet is unknown and counts as available. Its very first probe decides at
/// once, so that a gateway that starts next to a dead node does not send it requests.
package struct ProbeState: Sendable, Equatable {
    package enum Verdict: String, Sendable { case unknown, up, down }
    package private(set) var verdict: Verdict = .unknown
    private var run = 0

    package init() {}

    /// - Returns: whether the verdict changed.
    package mutating func record(success: Bool, configuration: HealthCheckConfiguration) -> Bool {
        switch (verdict, success) {
        case (.unknown, _):
            verdict = success ? .up : .down
            return true
        case (.up, true), (.down, false):
            run = 0
            return false
        case (.up, false), (.down, true):
            run += 1
            guard run >= (success ? configuration.rise : configuration.fall) else { return false }
            run = 0
            verdict = success ? .up : .down
            return true
        }
    }
}
