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
}

/// The phases of a generation and the attempts it took, for the access log, history and metrics.
struct GenerationTrace: Sendable {
    struct Attempt: Sendable {
        var upstream: String
        var label: String
    }

    var attempts: [Attempt] = []
    var queueTime = Duration.zero
    var connectTime = Duration.zero
    /// From the last attempt's start to its first token.
    var firstTokenTime: Duration?
    /// The successful attempt alone.
    var inferenceTime = Duration.zero
    var lastFailure: AttemptFailure?
    private var attemptStart = MonotonicTime(nanoseconds: 0)

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

    mutating func begin(_ upstream: String) {
        attempts.append(Attempt(upstream: upstream, label: "running"))
        attemptStart = .now
        firstTokenTime = nil
    }

    mutating func firstToken() { firstTokenTime = .now - attemptStart }

    mutating func end(_ outcome: AttemptOutcome) {
        guard !attempts.isEmpty else { return }
        attempts[attempts.count - 1].label =
            switch outcome {
            case .success: "ok"
            case .failed(let failure): failure.label
            case .abandoned(let reason): reason.rawValue
            }
    }
}
