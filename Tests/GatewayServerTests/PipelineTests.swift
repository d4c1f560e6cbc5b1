import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// Several requests on one connection, sent without waiting for answers.
@Suite(.timeLimit(.minutes(2)))
struct PipelineTests {
    private static let infer = RawClient.text(
        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")], body: #"{"prompt":"x"}"#)

    /// Returns when the gateway's one event loop has seen what other connections sent before.
    private static func pass(_ gateway: RunningGateway) async throws {
        for _ in 0..<5 { _ = try await gateway.client.request("GET", "/healthz") }
    }

    @Test func tenThousandPipelinedRequestsAreAnsweredUpToTheLimit() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            let answers = try await gateway.client.connect { connection in
                try await connection.send(String(repeating: RawClient.text("GET", "/webllm/api/models"), count: 10_000))
                return try await connection.readToEnd()
            }
            #expect(answers.split(separator: "HTTP/1.1 200 OK").count == 1000)
        }
    }

    /// They wait until the first is answered, and are then answered at once; what is too much is refused.
    @Test(arguments: [(120, 120), (20_000, 128)])
    func requestsBehindASlowOneAreAnsweredUpToABound(_ count: Int, _ answered: Int) async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""slow""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.threads = 1
        } _: { gateway in
            let first = RawClient.text(
                "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                body: #"{"prompt":"x"}"#)
            let last = RawClient.text("GET", "/healthz", headers: [("Connection", "close")])
            let answers = try await gateway.client.connect { connection in
                try await connection.send(
                    first + String(repeating: "GET / HTTP/1.1\r\nHost:a\r\n\r\n", count: count) + last)
                // On the one event loop what has come before these is read before they are answered.
                for _ in 0..<5 { _ = try await gateway.client.request("GET", "/healthz") }
                gate.open()
                return try await connection.readToEnd()
            }
            #expect(answers.ranges(of: "HTTP/1.1 404 ").count == answered)
            #expect(answers.hasSuffix(#"{"status":"ok"}"#) == (count == answered))
            #expect(answers.contains("HTTP/1.1 429 ") == (count > answered))
        }
        await upstream.close()
    }

    /// One request is not many, in however many chunks its body comes.
    @Test func aBodyOfManyChunksBehindASlowRequestIsTaken() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                await gate.wait()
                try await Scripts.answer(connection, request.body.contains("yy") ? #""second""# : #""first""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.threads = 1
        } _: { gateway in
            let body = #"{"prompt":""# + String(repeating: "y", count: 600) + #""}"#
            let chunks = body.map { "1\r\n\($0)\r\n" }.joined() + "0\r\n\r\n"
            let head = RawClient.text(
                "POST", "/webllm/api/infer",
                headers: [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")])
            let replies = try await gateway.client.connect { connection in
                try await connection.send(Self.infer + head + chunks)
                try await Self.pass(gateway)
                gate.open()
                return [try await connection.reply(), try await connection.reply()]
            }
            #expect(replies.map(\.status) == [200, 200] && replies[1].has("second"), "\(replies)")
        }
        await upstream.close()
    }

    /// What is wrong is answered in its turn.
    @Test func aFaultBehindValidRequestsLeavesThemTheirAnswers() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""slow""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let first = RawClient.text(
                "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                body: #"{"prompt":"x"}"#)
            let answers = try await gateway.client.exchange(
                first + RawClient.text("GET", "/healthz") + "\u{1}garbage\r\n\r\n")
            #expect(answers.split(separator: "HTTP/1.1 ").map { $0.prefix(3) } == ["200", "200", "400"])
        }
        await upstream.close()
    }

    /// Each answer is long: those that the client has yet to take are not made ahead.
    @Test func answersAreMadeAsTheClientTakesThem() async throws {
        let count = 100
        try await RunningGateway.run([]) {
            $0.server.threads = 1
        } _: { gateway in
            let answers = try await gateway.client.connect { connection in
                try await connection.send(String(repeating: RawClient.text("GET", "/openapi.json"), count: count))
                try await Self.pass(gateway)
                let made = try await gateway.admin.request("GET", "/metrics").body.split(separator: "\n")
                    .first { $0.hasPrefix(#"webllm_gateway_requests_total{route="openapi","#) }
                #expect(try #require(made?.split(separator: " ").last.flatMap { Int($0) }) < count, "13 MB")
                var answers: [RawReply] = []
                for _ in 0..<count { answers.append(try await connection.reply()) }
                return answers
            }
            #expect(Set(answers.map(\.body)).count == 1)
            #expect(answers.allSatisfy { $0.status == 200 && $0.isWhole })
        }
    }

    /// The client has closed its end, and the second answer cannot be written. (Where the gateway is faster, all are
    /// answered before.)
    @Test func whatAConnectionStartedEndsWithIt() async throws {
        let upstream = try await FakeUpstream.start(Scripts.ollama { connection, _ in await connection.untilClosed() })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.threads = 1
        } _: { gateway in
            let two = String(repeating: RawClient.text("GET", "/healthz"), count: 2)
            for _ in 0..<10 {
                try await gateway.client.connect { try await $0.send(two + Self.infer) }
                try await gateway.admin.connect { try await $0.send(two + RawClient.text("GET", "/admin/events")) }
            }
            try await Self.pass(gateway)
            while gateway.server.gateway.runningCount > 0 { await Task.yield() }
            // Those that are left of the dashboards' feeds, and this one, send once a second.
            try await gateway.admin.connect { connection in
                try await connection.send(RawClient.text("GET", "/admin/events"))
                for _ in 0..<2 { _ = try await connection.read(through: "event: tick") }
            }
        }
        await upstream.close()
    }

    /// More of what cannot be understood comes while the answer before it is under way.
    @Test func aStreamGoesOnAsGarbageFollowsItsRequest() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""begin""#))
                await gate.wait()
                try await connection.chunk(Scripts.token(#""end""#) + Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.threads = 1
        } _: { gateway in
            let answers = try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                        body: #"{"prompt":"x","stream":true}"#))
                var answers = try await connection.read(through: "begin")
                for _ in 0..<3 {
                    try await connection.send("\u{1}garbage\r\n\r\n")
                    try await Self.pass(gateway)
                }
                gate.open()
                answers += try await connection.readToEnd()
                return answers
            }
            #expect(answers.contains(#"{"text":"end"}"#) && answers.contains("event: done"))
            #expect(answers.split(separator: "HTTP/1.1 ").map { $0.prefix(3) } == ["200", "400"])
        }
        await upstream.close()
    }

    /// Some clients send a line end after a body. It begins no request whose head could be late.
    @Test(arguments: ["\r\n", "\r", "\n"])
    func aLineEndAfterARequestIsNoRequest(_ lineEnd: String) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""one""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.headTimeout = .seconds(1)
        } _: { gateway in
            let statuses = try await gateway.client.connect { connection in
                try await connection.send(Self.infer + lineEnd)
                let first = try await connection.reply().status
                // The time of a head that had begun with the answer's end would be over.
                _ = try await gateway.client.exchange("GET / HT")
                try await connection.send(lineEnd)
                // A head that is late, begun after it.
                let late = try await gateway.client.exchange("GET / HT")
                try await connection.send(RawClient.text("GET", "/healthz"))
                return [first, Int(late.dropFirst(9).prefix(3)), try await connection.reply().status]
            }
            #expect(statuses == [200, 408, 200])
        }
        await upstream.close()
    }

    @Test func aClientOfHTTP10IsToldThatItsConnectionStays() async throws {
        try await RunningGateway.run([]) { gateway in
            try await gateway.client.connect { connection in
                let request = "GET /healthz HTTP/1.0\r\nHost: a\r\n"
                try await connection.send(request + "Connection: keep-alive\r\n\r\n")
                #expect(try await connection.reply().headers["connection"] == "keep-alive")
                try await connection.send(request + "\r\n")
                let last = try await connection.readToEnd()
                #expect(last.contains("\r\nConnection: close\r\n") && last.hasSuffix(#"{"status":"ok"}"#))
            }
        }
    }
}
