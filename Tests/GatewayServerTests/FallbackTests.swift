import GatewayCore
import GatewayWire
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
            #expect(await gateway.errorsOfOneRequest() == 1)
        }
        await only.close()
    }

    @Test(arguments: [
        (["429 Too Many", "429 Too Many"], 429, "2"), (["503 Busy", "503 Busy"], 503, "5"),
        (["429 Too Many", "500 No"], 502, nil),
    ])
    func whatAllUpstreamsSayIsSaid(_ statuses: [String], _ status: Int, _ retryAfter: String?) async throws {
        var upstreams: [FakeUpstream] = []
        for (index, line) in statuses.enumerated() {
            upstreams.append(
                try await FakeUpstream.start(
                    Scripts.ollama { connection, _ in
                        try await connection.reply(
                            line, "Retry-After: \(9 - 7 * index)\r\n",
                            body: #"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#)
                    }))
        }
        try await RunningGateway.run(upstreams.enumerated().map { ("u\($0)", .ollama, $1.port) }) {
            $0.webllm.fallbackMessage = ""
        } _: { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == status, "\(reply)")
            #expect(reply.headers["retry-after"] == retryAfter)
        }
        for upstream in upstreams { await upstream.close() }
    }

    @Test func whereNothingIsEnabledItIs503() async throws {
        try await RunningGateway.run([("u", .ollama, 1)]) {
            $0.webllm.fallbackMessage = ""
        } _: { (gateway: RunningGateway) async throws in
            _ = gateway.server.gateway.setMode("u", .draining)
            let reply = try await gateway.infer("x")
            #expect(reply.status == 503)
            #expect(reply.headers["retry-after"] == "5")
        }
    }

    @Test func aRequestThatWaitedForWhatIsTakenOutIsAnsweredAtOnce() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""late""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
            $0.upstreams[0].queueTimeout = .seconds(3600)
            $0.webllm.fallbackMessage = ""
        } _: { (gateway: RunningGateway) async throws in
            async let first = gateway.infer("x")
            await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            async let second = gateway.infer("x")
            while gateway.status("u").queued == 0 { await Task.yield() }
            #expect(try await gateway.admin.postJSON("/admin/upstreams/u/drain", "{}").status == 200)
            #expect(try await second.status == 503)
            gate.open()
            #expect(try await first.status == 200)
        }
        await upstream.close()
    }

    /// What came of an answer that no client has seen is no answer.
    @Test(arguments: [("sorry", 200), ("", 504)])
    func whenTheTotalTimeIsOverAPlainReplyIsTheFallback(_ message: String, _ status: Int) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""half""#))
                await connection.untilClosed()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.totalTimeout = .milliseconds(300)
            $0.webllm.fallbackMessage = message
        } _: { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == status)
            #expect(!reply.body.contains("half"))
        }
        await upstream.close()
    }

    /// What the client has it keeps; it is told that no more comes, and nobody else is asked.
    @Test(arguments: [
        ("text/event-stream", "event: token\ndata: {", "event: error\ndata: {", "\n\n"),
        ("application/x-ndjson", #"{"type":"token","#, #"{"type":"error","#, "\n"),
    ])
    func whenTheTotalTimeIsOverAStreamEndsWithAnError(
        _ type: String, _ token: String, _ error: String, _ lineEnd: String
    ) async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""half""#))
                await connection.untilClosed()
            })
        let second = try await Self.backend()
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .query, second.port)]) {
            $0.server.totalTimeout = .seconds(1)
            $0.webllm.fallbackMessage = "sorry"
        } _: { (gateway: RunningGateway) async throws in
            let reply = try await gateway.client.postJSON(
                "/webllm/api/infer", #"{"prompt":"x","stream":true}"#, headers: [("Accept", type)])
            #expect(reply.status == 200)
            #expect(reply.isWhole)
            let id = try #require(reply.headers["x-request-id"])
            let message = "The answer took too long and was cut off"
            let piece = token + #""text":"half"}"# + lineEnd
            #expect(reply.body == piece + error + #""error":"\#(message)","request_id":"\#(id)"}"# + lineEnd)
            #expect(second.state.requests.allSatisfy { $0.line.hasPrefix("GET") })
            let kept = try #require(gateway.server.gateway.history.recent(1).first)
            #expect(kept.outcome == .cutOff)
            #expect(kept.text == "half")
        }
        await first.close()
        await second.close()
    }

    @Test func aPinThatNamesNoUpstreamIsRefused() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""b""#) })
        try await RunningGateway.run([("a", .ollama, 1), ("b", .ollama, upstream.port)]) {
            $0.routing.allowPin = true
        } _: { gateway in
            func ask(_ name: String) async throws -> RawReply {
                try await gateway.client.postJSON(
                    "/webllm/api/infer", #"{"prompt":"x"}"#, headers: [("X-Gateway-Upstream", name)])
            }
            #expect(try await ask("b").headers["x-gateway-attempts"] == "1")
            let refused = try await ask("c")
            #expect(refused.status == 400)
            #expect(refused.body.contains("X-Gateway-Upstream names no upstream"))
        }
        await upstream.close()
    }

    /// A reply that stays open after its last line holds no transfer for ever.
    @Test func aReplyThatDoesNotEndAfterItsEndIsClosed() async throws {
        let closed = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""b""#) + Scripts.done)
                await connection.untilClosed()
                closed.open()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            #expect(try await gateway.infer("x").status == 200)
            await closed.wait()
        }
        await upstream.close()
    }

    @Test(arguments: ["9223372036854775807", "-5", "1e300", "2147483648"])
    func aCountOfTokensThatNoServerCouldMeanIsIgnored(_ count: String) async throws {
        let estimate = WebLLMText.estimatedTokens("one two three four")
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await connection.reply(
                    body: Scripts.token(#""one two three four""#)
                        + #"{"message":{"content":""},"done":true,"prompt_eval_count":\#(count),"eval_count":\#(count)}"#
                )
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            for _ in 0..<3 { #expect(try await gateway.infer("x").has(#""tokens_generated":\#(estimate),"#)) }
        }
        await upstream.close()
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
