import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// Which upstream answers when others fail, and what the client sees of it.
@Suite(.timeLimit(.minutes(1)))
struct FallbackTests {
    private static func backend(_ text: String = "from the backend") async throws -> FakeUpstream {
        try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await connection.reply(body: #"{"response":"\#(text)"}"#) })
    }

    enum Fault: String, CaseIterable, Sendable {
        case closes, resets, status500, garbage, errorObject, emptyAnswer, cleanEndWithoutDone, tooMany, neverAnswers
    }

    @Test(arguments: Fault.allCases)
    func theNextUpstreamAnswersInstead(_ fault: Fault) async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                switch fault {
                case .closes: throw CancellationError()
                case .resets: try await connection.reset()
                case .status500: try await connection.reply("500 No", body: "{}")
                case .garbage: try await connection.reply(body: "<html></html>")
                case .errorObject: try await connection.reply(body: #"{"error":"out of memory"}"#)
                case .emptyAnswer: try await connection.reply(body: Scripts.done)
                case .cleanEndWithoutDone: try await connection.reply(body: Scripts.token(#""half""#))
                case .tooMany: try await connection.reply("429 Too Many", "Retry-After: 1\r\n", body: "{}")
                case .neverAnswers: await connection.untilClosed()
                }
            })
        let second = try await Self.backend()
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .query, second.port)]) {
            $0.upstreams[0].timeouts.firstToken = .milliseconds(100)
        } _: { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == 200)
            #expect(reply.body.contains(#""text":"from the backend""#))
            #expect(reply.headers["x-gateway-upstream"] == "second")
            #expect(reply.headers["x-gateway-attempts"] == "2")
            #expect(first.state.requests.count { $0.line.hasPrefix("POST") } == 1)
        }
        await first.close()
        await second.close()
    }

    @Test func aDeadUpstreamIsPassedOver() async throws {
        let dead = try await FakeUpstream.start { _ in }
        let port = dead.port
        await dead.close()
        let second = try await Self.backend()
        try await RunningGateway.run([("dead", .ollama, port), ("second", .query, second.port)]) { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.headers["x-gateway-upstream"] == "second")
        }
        await second.close()
    }

    @Test(arguments: [("sorry", 200), ("", 502)])
    func whenAllFailTheFallbackMessageOr502(_ message: String, _ status: Int) async throws {
        let only = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await connection.reply("500 No", body: "secret detail") })
        try await RunningGateway.run([("only", .ollama, only.port)]) {
            $0.webllm.fallbackMessage = message
        } _: { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == status)
            #expect(reply.body.contains(message.isEmpty ? "No model could answer" : #""text":"sorry""#))
            #expect(!reply.body.contains("secret"))
            #expect(!reply.body.contains("127.0.0.1"))
            #expect(reply.headers["x-gateway-attempts"] == "1")
        }
        await only.close()
    }

    @Test func afterTheFirstPieceNothingIsTriedAgain() async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""half""#))
                try await connection.reset()
            })
        let second = try await Self.backend()
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .query, second.port)]) { gateway in
            let reply = try await gateway.client.postJSON("/webllm/api/infer", #"{"prompt":"x","stream":true}"#)
            #expect(reply.status == 200)
            #expect(reply.isWhole)
            #expect(reply.body.hasPrefix("event: token\ndata: {\"text\":\"half\"}\n\n"))
            #expect(reply.body.contains("event: error\ndata: {\"error\":\"The model stopped before"))
            #expect(!reply.body.contains("event: done"))
            #expect(second.state.requests.allSatisfy { $0.line.hasPrefix("GET") })
        }
        await first.close()
        await second.close()
    }

    @Test func aStreamThatFallsSilentEndsWithAnError() async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""half""#))
                await connection.untilClosed()
            })
        try await RunningGateway.run([("first", .ollama, first.port)]) {
            $0.upstreams[0].timeouts.idle = .milliseconds(100)
        } _: { gateway in
            let reply = try await gateway.client.postJSON(
                "/webllm/api/infer", #"{"prompt":"x","stream":true}"#, headers: [("Accept", "application/x-ndjson")])
            #expect(reply.isWhole)
            let lines = reply.body.split(separator: "\n")
            #expect(lines.first == #"{"type":"token","text":"half"}"#)
            #expect(lines.last?.hasPrefix(#"{"type":"error","error":"#) == true)
        }
        await first.close()
    }
}
