import GatewayCore
import NIOCore
import NIOPosix
import Support

@testable import CurlMulti
@testable import GatewayServer

/// A generation whose time and transfer the test makes.
final class GenerationBench: Sendable {
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

    /// What a transfer brings.
    static func update(_ status: Int? = nil, _ body: String = "", ends: Bool = false) -> TransferUpdate {
        TransferUpdate(
            head: status.map { ResponseHead(status: $0) }, body: Array(body.utf8),
            end: ends ? TransferResult(failure: nil, connectTime: .zero) : nil)
    }

    /// Holds every generation it is asked for.
    static func silentUpstream() async throws -> FakeUpstream {
        try await FakeUpstream.start(Scripts.ollama { connection, _ in await connection.untilClosed() })
    }

    /// Waits until a generation has come to the upstream.
    static func isAsked(_ upstream: FakeUpstream) async {
        await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
    }
}
