import GatewayCore

/// How a generation ended, and what is to be told of it.
struct GenerationResult: Sendable {
    enum End: Sendable {
        case answered(TokenUsage)
        /// Every upstream that may be tried failed.
        case failed
        /// The upstream failed after the client had a first piece.
        case cutOff(AttemptFailure)
        case overloaded(retryAfter: Int)
        case abandoned(AbandonReason)
    }

    var end: End
    /// What came of the answer, untrimmed.
    var text: String
    var trace: GenerationTrace
    /// Whether the client has a piece of the answer.
    var isCommitted: Bool
}

/// The phases of a generation and the attempts it took, for the access log, history and metrics.
struct GenerationTrace: Sendable {
    struct Attempt: Sendable {
        var upstream: String
        /// Why this one: the first by the policy, past all obstacles, or after a wait in the queue.
        var reason: Choice.Reason
        /// See ``Choice/candidates``.
        var candidates: [Candidate]
        /// How it ended; `running` while it has not.
        var label = "running"
        /// Since the request was accepted.
        var start: Duration
        var duration = Duration.zero
        var loadTime = Duration.zero
        var connectTime = Duration.zero
        var firstTokenTime: Duration?
        /// The timer that ended it.
        var timer: String?
    }

    /// Where a generation is now. A closed set.
    enum Phase: String, Sendable, CaseIterable { case planned, queued, loading, prompt, generating }

    var attempts: [Attempt] = []
    var phase: Phase = .planned
    /// Upstreams that the last plan passed over, with the reasons.
    var skipped: [Skip] = []
    var exhaustion: Exhaustion?
    /// From 1, where it had to wait.
    var queuePosition: Int?
    var queueTime = Duration.zero
    /// Waiting for a model to be loaded, over all attempts.
    var loadTime = Duration.zero
    var connectTime = Duration.zero
    /// From the last attempt's request to its first token: the time for the prompt.
    var firstTokenTime: Duration?
    /// The successful attempt alone.
    var inferenceTime = Duration.zero
    /// Of the attempts, in their order.
    var failures: [AttemptFailure] = []
    /// When the request was sent, after any load.
    private var attemptStart = MonotonicTime(nanoseconds: 0)
    private var attemptBegin = MonotonicTime(nanoseconds: 0)
    private var loadBefore = Duration.zero

    /// The upstream that was asked last.
    var upstream: String? { attempts.last?.upstream }

    /// `a:connect,b:ok`.
    var attemptsText: String {
        var text = ""
        for attempt in attempts {
            if !text.isEmpty { text += "," }
            text += attempt.upstream
            text += ":"
            text += attempt.label
        }
        return text
    }

    /// From the first token to the end.
    private(set) var generationTime: Duration?

    mutating func requestSent(_ now: MonotonicTime) { attemptStart = now }

    /// Of the answer, where the upstream counts its tokens.
    var tokensPerSecond: Double?

    func rate(_ tokens: Int?) -> Double? {
        guard let tokens, let firstTokenTime else { return nil }
        return Self.rate(tokens, in: MonotonicTime.now - attemptStart - firstTokenTime)
    }

    /// Tokens a second after the first one; nil where they came too fast to tell, as in one piece.
    static func rate(_ tokens: Int, in time: Duration) -> Double? {
        guard tokens > 1, time >= .milliseconds(50) else { return nil }
        return Double(tokens - 1) / (time.milliseconds / 1000)
    }

    /// `b:probed_down`.
    var skippedText: String { skipped.map { "\($0.name):\($0.reason.rawValue)" }.joined(separator: ",") }

    /// - Parameter accepted: when the request was.
    mutating func begin(_ upstream: String, _ choice: Choice, accepted: MonotonicTime) {
        attemptStart = .now
        attempts.append(
            Attempt(
                upstream: upstream, reason: choice.reason, candidates: choice.candidates,
                start: attemptStart - accepted))
        attemptBegin = attemptStart
        loadBefore = loadTime
        connectTime = .zero
        firstTokenTime = nil
    }

    mutating func firstToken() { firstTokenTime = .now - attemptStart }

    mutating func end(_ outcome: AttemptOutcome) {
        guard !attempts.isEmpty else { return }
        let now = MonotonicTime.now
        if let firstTokenTime { generationTime = now - attemptStart - firstTokenTime }
        let last = attempts.count - 1
        attempts[last].duration = now - attemptBegin
        attempts[last].loadTime = loadTime - loadBefore
        attempts[last].connectTime = connectTime
        attempts[last].firstTokenTime = firstTokenTime
        switch outcome {
        case .success: attempts[last].label = "ok"
        case .failed(let failure):
            attempts[last].label = failure.label
            attempts[last].timer = failure.timer
        case .abandoned(let reason):
            attempts[last].label = reason.rawValue
            if reason == .totalDeadline { attempts[last].timer = "total" }
        }
    }
}
