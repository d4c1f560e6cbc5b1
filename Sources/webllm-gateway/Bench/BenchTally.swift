import GatewayCore
import GatewayServer
import Synchronization

/// Hands requests out to a bench's connections, and counts how they end.
final class BenchTally: Sendable {
    /// How one request ended.
    struct Sample: Sendable {
        var tokens = 0
        var firstToken: Duration?
        var gaps: [Duration] = []
        var total = Duration.zero
        /// Nil where it was answered. A closed set, but for the status.
        var error: String?
        /// What the gateway said of the error.
        var message: String?
    }

    /// What is counted so far.
    struct Figures: Sendable {
        var begun = 0
        var answered = 0
        var tokens = 0
        var firstToken = DurationCounts()
        var gaps = DurationCounts()
        var total = DurationCounts()
        var errors: [String: Int] = [:]
        /// The first that the gateway had words for, in its words.
        var firstError: String?

        var failed: Int { errors.values.reduce(0, +) }
        var ended: Int { answered + failed }
    }

    private let state = Mutex(Figures())
    private let requests: Int
    private let end: MonotonicTime?
    let start: MonotonicTime

    /// - Parameters:
    ///   - requests: how many begin at most.
    ///   - duration: after which no further ones begin.
    init(requests: Int?, duration: Duration?) {
        self.requests = requests ?? .max
        let now = MonotonicTime.now
        start = now
        end = duration.map { now + $0 }
    }

    var figures: Figures { state.withLock { $0 } }

    /// - Returns: whether one more request is to begin.
    func begin() -> Bool {
        state.withLock { figures in
            guard figures.begun < requests, end.map({ .now < $0 }) ?? true else { return false }
            figures.begun += 1
            return true
        }
    }

    func record(_ sample: Sample) {
        state.withLock { figures in
            guard sample.error == nil else {
                figures.errors[sample.error ?? "", default: 0] += 1
                figures.firstError = figures.firstError ?? sample.message
                return
            }
            figures.answered += 1
            figures.tokens += sample.tokens
            figures.total.record(sample.total)
            if let time = sample.firstToken { figures.firstToken.record(time) }
            for gap in sample.gaps { figures.gaps.record(gap) }
        }
    }

    /// How much is done, by requests or by time, whichever is further: 0...1.
    func progress(_ figures: Figures) -> Double {
        let byRequests = requests == .max ? 0 : Double(figures.ended) / Double(requests)
        let byTime = end.map { (MonotonicTime.now - start) / ($0 - start) } ?? 0
        return min(1, max(byRequests, byTime))
    }
}
