import GatewayCore
import NIOCore
import NIOPosix
import Support
import Testing

@testable import CurlMulti
@testable import GatewayServer

/// Signals that cross on their way to a generation: a timer fires when what it waited for is there, or both are.
@Suite(.timeLimit(.minutes(1)))
struct CrossingTests {
    /// A generation whose time and transfer the test makes.
    private final class Bench: Sendable {
        let gateway: Gateway
        let generation: Generation
        private let eventLoop: any EventLoop
        private let executor: EventLoopExecutor

        init(_ running: RunningGateway, streams: Bool = false) async throws {
            let gateway = running.server.gateway
            let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
            let drop: Generation.PiecesHandler = { _ in }
            (generation, executor) = try await eventLoop.submit {
                let loop = LoopContext(eventLoop: eventLoop, gateway: gateway)
                let job = Generation.Job(
                    chat: ChatRequest(messages: [], sampling: SamplingParameters()), modelID: "m",
                    client: ClientID(rawValue: 1), accepted: .now, requestID: "r", clientAddress: "unix",
                    route: "infer", onPieces: streams ? drop : nil)
                let generation = Generation(
                    gateway: gateway, snapshot: gateway.snapshot, loop: NIOLoopBound(loop, eventLoop: eventLoop),
                    job: job)
                return (generation, loop.executor)
            }.get()
            self.gateway = gateway
            self.eventLoop = eventLoop
        }

        func run() -> Task<GenerationResult, Never> {
            Task(executorPreference: executor) { [generation] in await generation.run() }
        }

        /// Runs it when the one slot of the upstream `u` is taken.
        /// - Returns: what gives the slot back.
        func runBehindAnother(
            _ running: RunningGateway
        ) async throws -> (Task<GenerationResult, Never>, release: @Sendable () -> Void) {
            let client = ClientID(rawValue: 2)
            let request = SelectionRequest(waiter: gateway.makeWaiterID(), client: client)
            guard case .attempt(let choice) = gateway.select(request, for: generation) else { fatalError("no slot") }
            let run = run()
            while running.status("u").queued == 0 { await Task.yield() }
            return (run, { [gateway] in gateway.settle(choice.upstream, client: client, AttemptReport(.neutral)) })
        }

        /// What happens within one turn of the event loop, before the generation's task goes on.
        func inOneTurn(_ body: @escaping @Sendable (isolated Generation) -> Void) async throws {
            try await eventLoop.submit { [generation] in generation.assumeIsolated { body($0) } }.get()
        }
    }

    /// What a transfer brings.
    private static func update(_ status: Int? = nil, _ body: String = "", ends: Bool = false) -> TransferUpdate {
        TransferUpdate(
            head: status.map { ResponseHead(status: $0) }, body: Array(body.utf8),
            end: ends ? TransferResult(failure: nil, connectTime: .zero) : nil)
    }

    private static let word = Scripts.token(#""word""#)
    private static let beyondFirstToken = UpstreamTimeouts().firstToken + .seconds(1)
    private static let beyondQueue = Duration.seconds(11)
    private static let beyondIdle = UpstreamTimeouts().idle + .seconds(1)

    /// Holds every generation it is asked for.
    private static func silent() async throws -> FakeUpstream {
        try await FakeUpstream.start(Scripts.ollama { connection, _ in await connection.untilClosed() })
    }

    private static func willing() async throws -> FakeUpstream {
        try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""other""#) })
    }

    private static func isAsked(_ upstream: FakeUpstream) async {
        await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
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
        let upstream = try await Self.silent()
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

    @Test func anAnswerThatComesAsTheFirstTokenTimerFiresIsTheAnswer() async throws {
        let (first, second) = (try await Self.silent(), try await Self.willing())
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            (running: RunningGateway) async throws in
            let bench = try await Bench(running)
            let run = bench.run()
            await Self.isAsked(first)
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondFirstToken)
                generation.receive(attempt: 1, Self.update(200, Self.word + Scripts.done, ends: true))
            }
            let result = await run.value
            #expect(result.text == "word")
            #expect(result.trace.attempts.map { "\($0.upstream):\($0.label)" } == ["first:ok"])
        }
        await first.close()
        await second.close()
    }

    @Test func aTimerOfAFailedAttemptDoesNotEndTheNext() async throws {
        let (first, second) = (try await Self.silent(), try await Self.willing())
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            (running: RunningGateway) async throws in
            let bench = try await Bench(running)
            let run = bench.run()
            await Self.isAsked(first)
            try await bench.inOneTurn { generation in
                generation.receive(attempt: 1, Self.update(500, "{}", ends: true))
                generation.tick(.now + Self.beyondFirstToken)
            }
            let result = await run.value
            #expect(result.text == "other")
            #expect(
                result.trace.attempts.map { "\($0.upstream):\($0.label)" } == ["first:status_500", "second:ok"])
        }
        await first.close()
        await second.close()
    }

    @Test func aTokenThatComesAsItsTimerFiresKeepsTheStream() async throws {
        let upstream = try await Self.silent()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (running: RunningGateway) async throws in
            let bench = try await Bench(running, streams: true)
            let run = bench.run()
            await Self.isAsked(upstream)
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondFirstToken)
                generation.receive(attempt: 1, Self.update(200, Self.word))
            }
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondIdle)
                generation.receive(attempt: 1, Self.update(nil, Self.word))
            }
            try await bench.inOneTurn { $0.receive(attempt: 1, Self.update(nil, Scripts.done, ends: true)) }
            let result = await run.value
            guard case .answered = result.end else { return #expect(Bool(false), "\(result.end)") }
            #expect(result.text == "wordword")
        }
        await upstream.close()
    }

    @Test func silenceAfterSuchATokenIsEndedAllTheSame() async throws {
        let upstream = try await Self.silent()
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (running: RunningGateway) async throws in
            let bench = try await Bench(running, streams: true)
            let run = bench.run()
            await Self.isAsked(upstream)
            try await bench.inOneTurn { generation in
                generation.tick(.now + Self.beyondFirstToken)
                generation.receive(attempt: 1, Self.update(200, Self.word))
            }
            try await bench.inOneTurn { $0.tick(.now + Self.beyondIdle) }
            guard case .cutOff(.idleTimer) = await run.value.end else { return #expect(Bool(false)) }
        }
        await upstream.close()
    }
}
