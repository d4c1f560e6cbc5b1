import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// Signals that cross on their way to a generation: a timer fires when what it waited for is there, or both are.
@Suite(.timeLimit(.minutes(1)))
struct CrossingTests {
    private typealias Bench = GenerationBench

    private static let word = Scripts.token(#""word""#)
    private static let beyondFirstToken = UpstreamTimeouts().firstToken + .seconds(1)
    private static let beyondQueue = Duration.seconds(11)
    private static let beyondIdle = UpstreamTimeouts().idle + .seconds(1)

    private static func willing() async throws -> FakeUpstream {
        try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""other""#) })
    }

    @Test(arguments: [true, false]) func aSlotThatComesAsTheQueueTimeEndsIsTaken(_ timerFirst: Bool) async throws {
        let upstream = try await Self.willing()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
        } _: { (running: RunningGateway) async throws in
            let bench = try await Bench(running)
            let (run, release) = try await bench.runBehindAnother(running)
            try await bench.inOneTurn { generation in
                if !timerFirst { release() }
                generation.tick(.now + Self.beyondQueue)
                if timerFirst { release() }
            }
            #expect(await run.value.text == "other")
            #expect(running.status("u").inFlight == 0)
        }
        await upstream.close()
    }

    /// A client that leaves, an operator who cancels, the total time: the slot goes on to the next.
    @Test(arguments: [true, false]) func aSlotThatComesAsItsClientLeavesGoesOn(_ clientFirst: Bool) async throws {
        let upstream = try await Bench.silentUpstream()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
        } _: { (running: RunningGateway) async throws in
            let bench = try await Bench(running)
            let (run, release) = try await bench.runBehindAnother(running)
            try await bench.inOneTurn { generation in
                if !clientFirst { release() }
                generation.abandon(.clientLeft)
                if clientFirst { release() }
            }
            guard case .abandoned(.clientLeft) = await run.value.end else { return #expect(Bool(false)) }
            while running.status("u").inFlight > 0 { await Task.yield() }
        }
        #expect(!upstream.state.requests.contains { $0.line.hasPrefix("POST") }, "who left is never dispatched")
        await upstream.close()
    }

    /// A generation that the upstream `first` lets wait, with `second` behind it.
    /// - Parameter body: what happens in one turn.
    private static func run(_ body: @escaping @Sendable (isolated Generation) -> Void) async throws -> GenerationResult
    {
        let (first, second) = (try await Bench.silentUpstream(), try await willing())
        let result = try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            (running: RunningGateway) async throws in
            let bench = try await Bench(running)
            let run = bench.run()
            await Bench.isAsked(first)
            try await bench.inOneTurn(body)
            return await run.value
        }
        await first.close()
        await second.close()
        return result
    }

    @Test func anAnswerThatComesAsTheFirstTokenTimerFiresIsTheAnswer() async throws {
        let result = try await Self.run { generation in
            generation.tick(.now + Self.beyondFirstToken)
            generation.reply?.receive(Bench.update(200, Self.word + Scripts.done, ends: true))
        }
        #expect(result.text == "word")
        #expect(result.trace.attemptsText == "first:ok")
    }

    /// As a rule the generation goes on where its attempt's end arrives. Where another signal has woken it just before, a
    /// timer may still fire in between.
    @Test func aTimerOfAFailedAttemptDoesNotEndTheNext() async throws {
        let result = try await Self.run { generation in
            generation.reply?.end()
            generation.attemptEnded(Generation.AttemptEnd(outcome: .failed(.status(500)), hasEnded: true))
            generation.tick(.now + Self.beyondFirstToken)
        }
        #expect(result.text == "other")
        #expect(result.trace.attemptsText == "first:status_500,second:ok")
    }

    @Test func aTokenThatComesAsItsTimerFiresKeepsTheStream() async throws {
        let upstream = try await Bench.silentUpstream()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (running: RunningGateway) async throws in
            let bench = try await Bench(running, streams: true)
            let run = bench.run()
            await Bench.isAsked(upstream)
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondFirstToken)
                generation.reply?.receive(Bench.update(200, Self.word))
            }
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondIdle)
                generation.reply?.receive(Bench.update(nil, Self.word))
            }
            try await bench.inOneTurn { $0.reply?.receive(Bench.update(nil, Scripts.done, ends: true)) }
            let result = await run.value
            guard case .answered = result.end else { return #expect(Bool(false), "\(result.end)") }
            #expect(result.text == "wordword")
        }
        await upstream.close()
    }

    @Test func silenceAfterSuchATokenIsEndedAllTheSame() async throws {
        let upstream = try await Bench.silentUpstream()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (running: RunningGateway) async throws in
            let bench = try await Bench(running, streams: true)
            let run = bench.run()
            await Bench.isAsked(upstream)
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondFirstToken)
                generation.reply?.receive(Bench.update(200, Self.word))
            }
            try await bench.inOneTurn { $0.tick(.now + Self.beyondIdle) }
            guard case .cutOff(.idleTimer) = await run.value.end else { return #expect(Bool(false)) }
        }
        await upstream.close()
    }
}
