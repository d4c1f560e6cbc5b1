import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// What an OpenAI-shaped server is asked to tell whether it lives.
@Suite(.timeLimit(.minutes(1)))
struct ProbeTests {
    /// LiteLLM's `/health` makes each model behind it generate, and it was asked for with each probe.
    @Test(arguments: [#"{"data":[{"id":"m","owned_by":"openai"}]}"#, #"{"data":[{"id":"m"}]}"#, "{}"])
    func theHealthOfAnUnknownServerIsNotAskedFor(_ list: String) async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: list) }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) {
            $0.upstreams[0].health.interval = .milliseconds(50)
        } _: { (gateway: RunningGateway) async throws in
            await upstream.until { $0.requests.count >= 4 }
            #expect(upstream.state.requests.allSatisfy { $0.line == "GET /v1/models HTTP/1.1" })
            #expect(gateway.status("u").probe == .up)
        }
        await upstream.close()
    }

    /// It lists the model that it still loads, or whose engine is dead.
    @Test(arguments: ["llamacpp", "vllm"]) func oneThatTellsMoreOfItsHealthIsAskedForIt(_ owner: String) async throws {
        let isWell = Mutexed(false)
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if !request.line.contains("/health") {
                    try await connection.reply(body: #"{"data":[{"id":"m","owned_by":"\#(owner)"}]}"#)
                } else {
                    try await connection.reply(isWell.value ? "200 OK" : "503 Loading", body: "{}")
                }
            }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) {
            $0.upstreams[0].health.interval = .milliseconds(50)
        } _: { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").probe == .down }
            isWell.value = true
            await until { gateway.status("u").probe == .up && gateway.status("u").installed == ["m"] }
        }
        await upstream.close()
    }

    @Test func aServerWithoutAListIsAskedForItsHealth() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                let isHealth = request.line.contains("/health")
                try await connection.reply(isHealth ? "200 OK" : "404 Not Found", body: "{}")
            }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").probe == .up }
        }
        await upstream.close()
    }

    @Test func aServerWithNeitherIsDown() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply("404 Not Found", body: "{}") }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").probe == .down }
        }
        await upstream.close()
    }
}

/// Waits for what no event tells of.
private func until(_ test: () -> Bool) async {
    while !test() { await Task.yield() }
}
