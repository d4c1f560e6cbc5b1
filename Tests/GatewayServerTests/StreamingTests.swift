import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// Streams, clients that leave, slots and the queue.
@Suite(.timeLimit(.minutes(1)))
struct StreamingTests {
    private static let streamRequest = RawClient.text(
        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
        body: #"{"prompt":"x","stream":true}"#)
    private static let plainRequest = RawClient.text(
        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")], body: #"{"prompt":"x"}"#)

    @Test func piecesArriveAsTheyAreMade() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#"" Hello""#))
                await gate.wait()
                // A line cut inside a character.
                let line = Array(Scripts.token(#"" wörld ""#).utf8)
                let cut = line.firstIndex(of: 0xC3)! + 1
                for part in [line[..<cut], line[cut...]] {
                    try await connection.send("\(String(part.count, radix: 16))\r\n")
                    try await connection.send(bytes: Array(part))
                    try await connection.send("\r\n")
                }
                try await connection.chunk(#"{"message":{"content":""},"done":true,"eval_count":42}"# + "\n")
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(Self.streamRequest)
                let first = try await connection.read(through: "\"}\n\n")
                #expect(first.contains("event: token\ndata: {\"text\":\" Hello\"}"))
                #expect(first.contains("X-Gateway-Upstream: u\r\n"))
                #expect(first.contains("Content-Type: text/event-stream\r\n"))
                gate.open()
                let rest = try await connection.read(through: "0\r\n\r\n")
                #expect(rest.contains("data: {\"text\":\" wörld \"}"))
                #expect(rest.contains("event: done\n"))
                #expect(rest.contains(#""text":"Hello wörld","tokens_generated":42"#))
            }
        }
        await upstream.close()
    }

    /// After a halt many pieces come at once: a write for each would make the way back the longer.
    @Test func piecesThatCameAtOnceGoInOneChunk() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await gate.wait()
                try await connection.chunk(Scripts.token(#""b""#) + Scripts.token(#""c""#) + Scripts.token(#""d""#))
                try await connection.chunk(Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(Self.streamRequest)
                _ = try await connection.read(through: "\"}\n\n\r\n")
                gate.open()
                let size = try await connection.read(through: "\r\n").dropLast()
                let chunk = try await connection.read(through: "\r\n")
                #expect(Int(size, radix: 16) == chunk.utf8.count - 2)
                let pieces = ["b", "c", "d"].map { "event: token\ndata: {\"text\":\"\($0)\"}\n\n" }
                #expect(chunk == pieces.joined() + "\r\n")
                #expect(try await connection.read(through: "0\r\n\r\n").contains(#""text":"abcd""#))
            }
        }
        await upstream.close()
    }

    /// Also where the whole stream is the fallback message.
    @Test(arguments: ["text/event-stream", "application/x-ndjson"], [true, false])
    func aStreamIsNeitherKeptNorHeldBackOnItsWay(_ type: String, _ isAnswered: Bool) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                if isAnswered {
                    try await Scripts.answer(connection, #""x""#)
                } else {
                    try await connection.reply("500 Internal Server Error", body: "{}")
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            let reply = try await gateway.client.postJSON(
                "/webllm/api/infer", #"{"prompt":"x","stream":true}"#, headers: [("Accept", type)])
            #expect(reply.status == 200)
            #expect(reply.isWhole)
            #expect(reply.headers["x-gateway-upstream"] == (isAnswered ? "u" : nil))
            #expect(reply.headers["content-type"] == type)
            #expect(reply.headers["cache-control"] == "no-cache")
            #expect(reply.headers["x-accel-buffering"] == "no")
        }
        await upstream.close()
    }

    /// The answer is whole before its transfer is over: some servers keep the reply open.
    @Test func connectingIsTimedForAnAnswerToo() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#) + Scripts.done)
                await gate.wait()
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            #expect(try await gateway.infer("x").status == 200)
            let kept = try #require(gateway.server.gateway.history.recent(1).first)
            #expect(kept.outcome == .ok)
            #expect(kept.connect > .zero && kept.connect < kept.duration)
            gate.open()
        }
        await upstream.close()
    }

    @Test(arguments: [false, true])
    func aClientThatLeavesStopsTheGeneration(_ streams: Bool) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await connection.untilClosed()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let before = upstream.state.closed
            try await gateway.client.connect { connection in
                try await connection.send(streams ? Self.streamRequest : Self.plainRequest)
                await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            }
            await upstream.until { $0.closed > before }
        }
        await upstream.close()
    }

    @Test func aQueuedClientThatLeavesIsNeverDispatched() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                await gate.wait()
                try await Scripts.answer(connection, #""\#(request.body.contains("second") ? "2" : "1")""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
        } _: { gateway in
            async let first = gateway.infer("first")
            await upstream.until { $0.requests.contains { $0.body.contains("first") } }
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                        body: #"{"prompt":"second"}"#))
                while gateway.server.gateway.upstreamStatuses()[0].queued == 0 { await Task.yield() }
            }
            while gateway.server.gateway.upstreamStatuses()[0].queued > 0 { await Task.yield() }
            gate.open()
            #expect(try await first.body.contains(#""text":"1""#))
            #expect(try await gateway.infer("third").status == 200)
            #expect(!upstream.state.requests.contains { $0.body.contains("second") })
        }
        await upstream.close()
    }

    @Test func aFullQueueAnswers503WithRetryAfter() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""x""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
            $0.upstreams[0].maxQueue = 0
        } _: { gateway in
            async let first = gateway.infer("first")
            await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            let refused = try await gateway.infer("second")
            #expect(refused.status == 503)
            #expect(Int(refused.headers["retry-after"] ?? "").map { $0 > 0 } == true)
            gate.open()
            #expect(try await first.status == 200)
        }
        await upstream.close()
    }

    @Test func whoWaitsTooLongForASlotIsRefused() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""x""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
            $0.upstreams[0].queueTimeout = .milliseconds(50)
        } _: { gateway in
            async let first = gateway.infer("first")
            await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            let refused = try await gateway.infer("second")
            #expect(refused.status == 503)
            #expect(gateway.server.gateway.limits[.queueTime] == 1)
            gate.open()
            #expect(try await first.status == 200)
        }
        await upstream.close()
    }

    @Test(arguments: [(true, "second"), (false, "first")])
    func aClientChoosesItsUpstreamWhereItMay(_ allowed: Bool, _ name: String) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("first", .ollama, upstream.port), ("second", .ollama, upstream.port)]) {
            $0.routing.allowPin = allowed
        } _: { gateway in
            let reply = try await gateway.client.postJSON(
                "/webllm/api/infer", #"{"prompt":"x"}"#, headers: [("X-Gateway-Upstream", "second")])
            #expect(reply.headers["x-gateway-upstream"] == name)
        }
        await upstream.close()
    }

    @Test func aBatchRunsAtOnceWithinTheSlotsAndKeepsItsOrder() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                let word = request.body.split(separator: "item-")[1].prefix { $0.isNumber }
                try await Scripts.answer(connection, #""answer-\#(word)""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 3
        } _: { gateway in
            let prompts = (0..<20).map { #""item-\#($0)""# }.joined(separator: ",")
            let reply = try await gateway.client.postJSON("/webllm/api/infer/batch", #"{"prompts":[\#(prompts)]}"#)
            #expect(reply.status == 200)
            let answers = reply.body.split(separator: #""text":"answer-"#).dropFirst().map {
                Int($0.prefix { $0.isNumber })
            }
            #expect(answers == (0..<20).map { $0 })
            #expect(reply.body.contains(#""successful":20"#))
            #expect(gateway.server.gateway.upstreamStatuses()[0].inFlight == 0)
        }
        await upstream.close()
    }

    private static func batch(_ count: Int) -> String {
        #"{"prompts":[\#((0..<count).map { "\"\($0)\"" }.joined(separator: ","))]}"#
    }

    @Test func ofABatchOneItemAtATimeWaitsForASlot() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""x""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let slots = gateway.server.gateway.upstreamStatuses()[0].slots
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<slots { group.addTask { _ = try await gateway.infer("first") } }
                await upstream.until { $0.requests.count { $0.line.hasPrefix("POST") } == slots }
                async let batch = gateway.client.postJSON("/webllm/api/infer/batch", Self.batch(20))
                while gateway.server.gateway.upstreamStatuses()[0].queued == 0 { await Task.yield() }
                _ = try await gateway.client.request("GET", "/healthz")
                #expect(gateway.server.gateway.upstreamStatuses()[0].queued == 1)
                gate.open()
                #expect(try await batch.body.contains(#""successful":20"#))
            }
        }
        await upstream.close()
    }

    @Test func afterTheTotalTimeABatchAsksNobody() async throws {
        let upstream = try await FakeUpstream.start(Scripts.ollama { connection, _ in await connection.untilClosed() })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.totalTimeout = .milliseconds(300)
            $0.upstreams[0].maxInFlight = 2
            $0.webllm.fallbackMessage = ""
        } _: { gateway in
            let reply = try await gateway.client.postJSON("/webllm/api/infer/batch", Self.batch(20))
            #expect(reply.status == 200)
            #expect(reply.body.ranges(of: #""error":"No model answered in time""#).count == 20)
            #expect(upstream.state.requests.count { $0.line.hasPrefix("POST") } <= 2)
            #expect(gateway.server.gateway.upstreamStatuses()[0].inFlight == 0)
        }
        await upstream.close()
    }

    @Test(arguments: [("", false), ("be kind", true)])
    func anEmptySystemPromptIsNoMessage(_ prompt: String, _ isSent: Bool) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.webllm.systemPrompt = prompt
        } _: { gateway in
            _ = try await gateway.infer("hello")
            let sent = try #require(upstream.state.requests.last { $0.line.hasPrefix("POST") }).body
            #expect(sent.contains(#""role":"system""#) == isSent)
            #expect(sent.contains(#"{"role":"user","content":"hello"}"#))
        }
        await upstream.close()
    }

    @Test(arguments: [([0], "ok"), ([0, 1], "ok"), ([1, 1], "fallback")])
    func aBatchIsASuccessWhereOneItemIs(_ failing: [Int], _ outcome: String) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                if request.body.contains("item-1") {
                    try await connection.reply("500 No", body: "{}")
                } else {
                    try await Scripts.answer(connection, #""x""#)
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let prompts = failing.map { "\"item-\($0)\"" }.joined(separator: ",")
            let reply = try await gateway.client.postJSON("/webllm/api/infer/batch", #"{"prompts":[\#(prompts)]}"#)
            #expect(reply.status == 200)
            #expect((reply.headers["x-gateway-upstream"] == "u") == (outcome == "ok"))
            let metrics = try await gateway.admin.request("GET", "/metrics").body
            #expect(metrics.contains(#"requests_total{route="batch",outcome="\#(outcome)",upstream="u"} 1"#))
        }
        await upstream.close()
    }

    /// Neither counts as a request that a model answered.
    @Test func whatAsksNoModelIsNoAnswer() async throws {
        try await RunningGateway.run([("u", .ollama, 1)]) { gateway in
            let reply = try await gateway.client.postJSON("/webllm/api/infer/batch", #"{"prompts":["",5]}"#)
            #expect(reply.status == 200 && reply.has(#""successful":0"#))
            #expect(try await gateway.client.request("OPTIONS", "/webllm/api/infer").status == 204)
            let metrics = try await gateway.admin.request("GET", "/metrics").body
            #expect(metrics.contains(#"requests_total{route="batch",outcome="refused",upstream=""} 1"#))
            #expect(metrics.contains(#"requests_total{route="options",outcome="ok",upstream=""} 1"#))
            #expect(!metrics.contains(#"route="infer""#))
        }
    }

    /// Of a browser's pages only the gateway's own, also where a proxy in between put another Host.
    @Test(arguments: [
        ("Origin: https://app.test", 403), ("Origin: https://app.test\r\nSec-Fetch-Site: same-site", 403),
        ("Origin: https://app.test\r\nSec-Fetch-Site: same-origin", 200), ("Origin: http://a", 200), ("X: y", 200),
        ("Sec-Fetch-Site: cross-site", 403), ("Sec-Fetch-Site: none", 200),
    ])
    func aPageOfAnotherSiteClearsNoHistory(_ fields: String, _ status: Int) async throws {
        try await RunningGateway.run([]) { gateway in
            let reply = try await gateway.client.exchange(
                "POST /webllm/api/clear HTTP/1.1\r\nHost: a\r\n\(fields)\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            #expect(reply.hasPrefix("HTTP/1.1 \(status) "))
        }
    }

    @Test func historyAndMetricsTellWhatHappened() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""one two three""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            for _ in 0..<3 { _ = try await gateway.infer("x") }
            let metrics = try await gateway.client.request("GET", "/webllm/api/metrics").body
            #expect(metrics.contains(#""total_inferences":3,"total_tokens":9"#))
            let history = try await gateway.client.request("GET", "/webllm/api/history?limit=2").body
            #expect(history.hasPrefix(#"{"count":2,"#))
            #expect(history.contains(#""text":"one two three","tokens_generated":3"#))
            #expect(try await gateway.client.request("GET", "/webllm/api/history?limit=-3").status == 400)
            for (limit, count) in [("%201%20", 1), ("+2", 2), ("9999999999999999999999", 3), ("1x", 3)] {
                let body = try await gateway.client.request("GET", "/webllm/api/history?limit=\(limit)").body
                #expect(body.contains(#""count":\#(count)"#), "\(limit): \(body)")
            }
            let tooSmall = "/webllm/api/history?limit=-9999999999999999999999"
            #expect(try await gateway.client.request("GET", tooSmall).status == 400)
            #expect(try await gateway.client.request("GET", "/webllm/api/history?limit=0").body.contains(#""count":0"#))
            #expect(try await gateway.client.request("POST", "/webllm/api/clear").status == 200)
            #expect(try await gateway.client.request("GET", "/webllm/api/history").body.contains(#""count":0"#))
        }
        await upstream.close()
    }

    @Test func storedSettingsAreTheDefaultsOfLaterRequests() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let settings = #"{"model_type":"a/b","temperature":0,"max_tokens":5,"top_k":3}"#
            #expect(try await gateway.client.postJSON("/webllm/api/config/models", settings).status == 200)
            _ = try await gateway.client.postJSON("/webllm/api/infer", #"{"prompt":"x","model_id":"a/b","top_p":0.5}"#)
            let sent = try #require(upstream.state.requests.last { $0.line.hasPrefix("POST") }).body
            #expect(sent.contains(#""options":{"temperature":0,"top_p":0.5,"top_k":3,"num_predict":5}"#))
            #expect(try await gateway.client.request("GET", "/webllm/api/config/models/a%2Fb").status == 200)
            // One character with the slash in front of it, but not one name.
            let combining = "{\"model_type\":\"\u{301}x\",\"top_k\":3}"
            #expect(try await gateway.client.postJSON("/webllm/api/config/models", combining).status == 200)
            #expect(try await gateway.client.request("GET", "/webllm/api/config/models/%CC%81x").status == 200)
        }
        await upstream.close()
    }

    @Test func drainLetsAStreamEndAndRefusesNewConnections() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await gate.wait()
                try await connection.chunk(Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(Self.streamRequest)
                _ = try await connection.read(through: "\"a\"}\n\n")
                async let drained: Void = gateway.server.drain()
                while !gateway.server.gateway.isDraining { await Task.yield() }
                gate.open()
                let rest = try await connection.readToEnd()
                #expect(rest.contains("event: done"))
                await drained
            }
            await #expect(throws: (any Error).self) { try await gateway.infer("x") }
        }
        await upstream.close()
    }

    @Test func aDrainThatIsOverEndsStreamsWithAnError() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await connection.untilClosed()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.drainTimeout = .zero
        } _: { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(Self.streamRequest)
                _ = try await connection.read(through: "\"a\"}\n\n")
                async let drained: Void = gateway.server.drain()
                let rest = try await connection.readToEnd()
                #expect(rest.contains(#"event: error\#ndata: {"error":"The gateway is stopping""#))
                #expect(rest.hasSuffix("0\r\n\r\n"))
                await drained
            }
        }
        await upstream.close()
    }
}
