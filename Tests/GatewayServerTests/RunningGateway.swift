import GatewayCore
import Logging
import NIOCore
import Support
import Synchronization

@testable import GatewayServer

/// A gateway on a free port, for one test.
final class RunningGateway: Sendable {
    let server: HTTPServer
    let client: RawClient
    let admin: RawClient

    private let next: NextConfiguration

    /// What the configuration file would hold at the next reload.
    private final class NextConfiguration: Sendable {
        let value: Mutex<GatewayConfiguration>
        init(_ value: GatewayConfiguration) { self.value = Mutex(value) }
    }

    private init(server: HTTPServer, next: NextConfiguration) {
        self.server = server
        self.next = next
        client = RawClient(server.addresses[0])
        admin = RawClient(server.adminAddresses.first ?? server.addresses[0])
    }

    /// - Parameter upstreams: name, kind and port; the order is the order of preference.
    static func run<R: Sendable>(
        _ upstreams: [(String, UpstreamKind, Int)],
        change: (inout GatewayConfiguration) -> Void = { _ in },
        _ body: (RunningGateway) async throws -> R
    ) async throws -> R {
        try await limiter.run {
            let running = try await start(upstreams, change: change)
            do {
                let result = try await body(running)
                await running.server.stop()
                return result
            } catch {
                await running.server.stop()
                throw error
            }
        }
    }

    /// The same for a test that needs several; it stops them.
    static func start(
        _ upstreams: [(String, UpstreamKind, Int)] = [], handover: Handover = Handover(),
        change: (inout GatewayConfiguration) -> Void = { _ in }
    ) async throws -> RunningGateway {
        var configuration = GatewayConfiguration()
        configuration.server.listen = [.tcp(host: "127.0.0.1", port: 0)]
        configuration.admin.listen = [.tcp(host: "127.0.0.1", port: 0)]
        configuration.admin.allowedHosts = ["test"]
        configuration.server.threads = 2
        configuration.log.access = false
        configuration.upstreams = upstreams.map { name, kind, port in
            var upstream = UpstreamConfiguration(
                name: name, kind: kind, url: UpstreamURL(host: "127.0.0.1", port: port), model: "m")
            // Probes of their own accord would blur what the fake upstreams see.
            upstream.health.interval = .seconds(3600)
            return upstream
        }
        change(&configuration)
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let gateway = try Gateway(configuration, logger: logger, logSink: sink)
        let next = NextConfiguration(configuration)
        let server = try await HTTPServer.start(
            gateway, source: { LoadedConfiguration(configuration: next.value.withLock { $0 }) }, handover: handover)
        return RunningGateway(server: server, next: next)
    }

    private static let limiter = Limiter(3)
    private static let sink = LogSink(descriptor: -1)

    /// Changes the configuration and reloads it.
    func reload(_ change: (inout GatewayConfiguration) -> Void) throws {
        next.value.withLock { change(&$0) }
        try server.reload()
    }

    /// What the last hour's chart counts as errors, once it has the first request.
    func errorsOfOneRequest() async -> Int {
        while true {
            let steps = server.gateway.metrics.withSeries { $0.steps(.now) }
            if steps.contains(where: { $0.requests > 0 }) { return steps.map(\.errors).reduce(0, +) }
            await Task.yield()
        }
    }

    func infer(_ prompt: String) async throws -> RawReply {
        try await client.postJSON("/webllm/api/infer", #"{"prompt":"\#(prompt)"}"#)
    }
}

/// What the upstreams of the recorded cases answer.
enum Scripts {
    /// Serves requests on a connection: probes are answered, generations go to `generate`.
    static func ollama(
        _ generate: @escaping @Sendable (FakeConnection, RecordedRequest) async throws -> Void
    ) -> FakeUpstream.Script {
        { connection in
            while let request = try await connection.request() {
                if request.line.hasPrefix("GET") {
                    try await connection.reply(body: #"{"version":"1","models":[{"name":"m"}]}"#)
                } else {
                    try await generate(connection, request)
                }
            }
        }
    }

    static func startStream(_ connection: FakeConnection) async throws {
        try await connection.send(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
    }

    static func token(_ json: String) -> String {
        #"{"model":"m","message":{"role":"assistant","content":\#(json)},"done":false}"# + "\n"
    }

    static let done = #"{"model":"m","message":{"role":"assistant","content":""},"done":true}"# + "\n"

    /// A whole answer in one piece.
    static func answer(_ connection: FakeConnection, _ json: String) async throws {
        try await startStream(connection)
        try await connection.chunk(token(json))
        try await connection.chunk(done)
        try await connection.send("0\r\n\r\n")
    }
}

extension RunningGateway {
    func status(_ name: String) -> UpstreamStatus {
        server.gateway.upstreamStatuses().first { $0.name == name }!
    }
}

extension RawReply {
    func has(_ text: String) -> Bool { body.utf8.firstRange(of: text.utf8) != nil }
}

/// A value that several tasks change.
final class Mutexed<Value: Sendable>: Sendable {
    private let state: Mutex<Value>
    init(_ value: Value) { state = Mutex(value) }
    var value: Value {
        get { state.withLock { $0 } }
        set { state.withLock { $0 = newValue } }
    }
}
