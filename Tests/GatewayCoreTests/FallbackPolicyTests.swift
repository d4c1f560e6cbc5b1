import GatewayCore
import Testing

/// Every row of the table "what may be tried again, and where".
struct FallbackPolicyTests {
    struct Row: Sendable, CustomTestStringConvertible {
        var failure: AttemptFailure
        var decision: FallbackDecision
        var testDescription: String { failure.label }
    }

    static let rows: [Row] =
        [
            Row(failure: .resolve, decision: .init(next: true, countsAgainst: true)),
            Row(failure: .connect, decision: .init(next: true, countsAgainst: true)),
            Row(failure: .connectTimer, decision: .init(next: true, countsAgainst: true)),
            Row(failure: .tls, decision: .init(next: true, countsAgainst: true)),
            Row(failure: .staleConnection, decision: .init(next: true, countsAgainst: true)),
            Row(failure: .noReply, decision: .init(next: true, countsAgainst: true, isCostly: true)),
            Row(failure: .firstTokenTimer, decision: .init(next: true, countsAgainst: true, isCostly: true)),
            Row(failure: .idleTimer, decision: .init(next: true, countsAgainst: true, isCostly: true)),
            Row(failure: .protocolError, decision: .init(next: true, countsAgainst: true, isCostly: true)),
            Row(failure: .busy, decision: .init(next: true)),
            Row(failure: .modelNotFound, decision: .init(next: true)),
            Row(failure: .disabled, decision: .init(next: true)),
            Row(failure: .tooManyRequests(retryAfter: 7), decision: .init(next: true, rest: .seconds(7))),
            Row(failure: .tooManyRequests(retryAfter: nil), decision: .init(next: true, rest: .seconds(5))),
            Row(failure: .tooManyRequests(retryAfter: 9999), decision: .init(next: true, rest: .seconds(300))),
            Row(failure: .tooManyRequests(retryAfter: -1), decision: .init(next: true, rest: .seconds(0))),
        ]
        + [500, 502, 503, 504, 302, 999].map {
            Row(failure: .status($0), decision: .init(next: true, countsAgainst: true, isCostly: true))
        }
        + [400, 413, 422, 401, 403, 404].map {
            Row(failure: .status($0), decision: .init(next: true, isConfigurationFault: true))
        }
        + ReplyFault.allCases.map {
            Row(failure: .reply($0), decision: .init(next: true, countsAgainst: true, isCostly: true))
        }

    @Test(arguments: rows, UpstreamKind.allCases)
    func beforeCommit(_ row: Row, _ kind: UpstreamKind) {
        #expect(FallbackPolicy.decide(row.failure, kind: kind, idempotent: true, committed: false) == row.decision)
    }

    @Test(arguments: rows)
    func afterCommitNothingIsTriedAgain(_ row: Row) {
        let decision = FallbackPolicy.decide(row.failure, kind: .ollama, idempotent: true, committed: true)
        #expect(decision == FallbackDecision(countsAgainst: row.failure != .disabled))
    }

    @Test(arguments: [AttemptFailure.noReply, .firstTokenTimer, .protocolError, .status(500), .reply(.malformed)])
    func aQueryThatIsNotIdempotentIsNotSentTwice(_ failure: AttemptFailure) {
        #expect(!FallbackPolicy.decide(failure, kind: .query, idempotent: false, committed: false).next)
        #expect(FallbackPolicy.decide(failure, kind: .ollama, idempotent: false, committed: false).next)
    }

    @Test(arguments: [AttemptFailure.resolve, .connect, .connectTimer, .tls, .busy, .modelNotFound])
    func aQueryThatWasNotSentOrNotTakenMayGoOn(_ failure: AttemptFailure) {
        #expect(FallbackPolicy.decide(failure, kind: .query, idempotent: false, committed: false).next)
    }
}
