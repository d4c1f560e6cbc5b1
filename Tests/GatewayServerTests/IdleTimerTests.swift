import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// The timer of the silence after a first token: what sets it anew, and when it stands still.
@Suite(.timeLimit(.minutes(1)))
struct IdleTimerTests {
    private typealias Bench = GenerationBench

    private static let idle = UpstreamTimeouts().idle

    /// How a stream's one attempt ends that has a first token, is left to `signals`, and is then brought to its end.
    private static func end(
        _ kind: UpstreamKind = .ollama, _ signals: (GenerationBench) async throws -> Void
    ) async throws -> [String] {
        let token = kind == .ollama ? Scripts.token(#""word""#) : delta(#"{"content":"word"}"#)
        let done = kind == .ollama ? Scripts.done : "data: [DONE]\n\n"
        let upstream = try await Bench.silentUpstream()
        let labels = try await RunningGateway.run([("u", kind, upstream.port)]) {
            (running: RunningGateway) async throws -> [String] in
            let bench = try await Bench(running, streams: true)
            let run = bench.run()
            await Bench.isAsked(upstream)
            try await bench.inOneTurn { $0.reply?.receive(Bench.update(200, token)) }
            try await signals(bench)
            try await bench.inOneTurn { $0.reply?.receive(Bench.update(nil, done, ends: true)) }
            return await run.value.trace.attempts.map(\.label)
        }
        await upstream.close()
        return labels
    }

    private static func delta(_ json: String) -> String { #"data: {"choices":[{"delta":\#(json)}]}"# + "\n\n" }

    /// What comes after the token, and whether it sets the timer anew.
    static let pieces: [(UpstreamKind, String, Bool)] = [
        (.ollama, "\n", false), (.ollama, " \t\n", false),
        (.ollama, #"{"model":"m","message":{"content":"half"#, false),
        (.ollama, Scripts.token(#""""#), true), (.ollama, #"{"message":{"role":"assistant"}}"# + "\n", true),
        (.ollama, #"{"model":"m"}"# + "\n", true), (.ollama, #"{"message":{"thinking":"hm"}}"# + "\n", true),
        (.ollama, Scripts.token(#""more""#), true),
        (.openai, ": ping\n\n", false), (.openai, "event: ping\n\n", false),
        (.openai, String(delta(#"{"content":"not ended"}"#).dropLast()), false),
        (.openai, delta("{}"), true), (.openai, delta(#"{"role":"assistant"}"#), true),
        (.openai, #"data: {"choices":[],"usage":{"completion_tokens":1}}"# + "\n\n", true),
        (.openai, delta(#"{"content":"more"}"#), true),
    ]

    /// Bytes do not, nor what only keeps a connection open; a whole object does, whatever is in it.
    @Test(arguments: pieces)
    func wholeObjectsSetItAnew(_ kind: UpstreamKind, _ piece: String, _ isObject: Bool) async throws {
        let end = try await Self.end(kind) { bench in
            try await bench.inOneTurn { generation in
                let before = MonotonicTime.now
                generation.reply?.receive(Bench.update(nil, piece))
                // So long after the token, and not quite as long after the piece.
                generation.tick(before + Self.idle)
            }
        }
        #expect(end == [isObject ? "ok" : "idle_timer"])
    }

    /// Held back by the gateway itself, the upstream cannot go on; the silence counts from when the client reads again.
    @Test(arguments: [(Duration.seconds(-1), "ok"), (.zero, "idle_timer")])
    func itStandsStillWhileTheClientDoesNotRead(_ difference: Duration, _ label: String) async throws {
        let end = try await Self.end { bench in
            try await bench.inOneTurn { generation in
                let later = MonotonicTime.now + Self.idle * 2
                generation.setClientReading(false)
                generation.tick(later)
                generation.setClientReading(true)
                generation.tick(later + Self.idle + difference)
            }
        }
        #expect(end == [label])
    }
}
