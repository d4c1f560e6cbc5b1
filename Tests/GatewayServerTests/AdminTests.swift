import Crypto
import Foundation
import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// The admin listener: who may use it, and what it tells of requests that run and that ran.
@Suite(.timeLimit(.minutes(1)))
struct AdminTests {
    private static func object(_ reply: RawReply) throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(reply.body.utf8)) as? [String: Any])
    }

    // MARK: Access

    @Test(arguments: [
        ("Bearer s3cret", 200), ("bearer s3cret", 200), ("Bearer s3cre", 401), ("Bearer s3cretx", 401),
        ("Bearer ", 401),
        ("Basic s3cret", 401), ("s3cret", 401), (nil, 401),
    ])
    func whereATokenIsConfiguredNothingIsToldWithoutIt(_ authorization: String?, _ status: Int) async throws {
        let headers = authorization.map { [("Authorization", $0)] } ?? []
        try await RunningGateway.run([("a", .ollama, 1)]) {
            $0.admin.tokenDigest = Array(SHA256.hash(data: Data("s3cret".utf8)))
        } _: { (gateway: RunningGateway) async throws in
            for path in ["/admin/status", "/admin/requests", "/admin/running", "/admin/series", "/metrics"] {
                let reply = try await gateway.admin.request("GET", path, headers: headers)
                #expect(reply.status == status, "\(path)")
                if status == 401 { #expect(reply.headers["www-authenticate"] == "Bearer") }
            }
            let change = try await gateway.admin.postJSON("/admin/upstreams/a/drain", "{}", headers: headers)
            #expect(change.status == status)
            for path in ["/healthz", "/dashboard", "/dashboard.js"] {
                #expect(try await gateway.admin.request("GET", path, headers: headers).status == 200, "\(path)")
            }
        }
    }

    /// F72, X16, X20: a token counts in its header alone, and who has none is not asked for a body.
    @Test func aTokenElsewhereIsNone() async throws {
        let head = "POST /admin/upstreams/a/drain HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        try await RunningGateway.run([("a", .ollama, 1)]) {
            $0.admin.tokenDigest = Array(SHA256.hash(data: Data("s3cret".utf8)))
        } _: { (gateway: RunningGateway) async throws in
            for request in [
                head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer s3cret\r\n\r\n",
                head + "Cookie: token=s3cret\r\nContent-Length: 2\r\n\r\n{}",
                head.replacing("drain", with: "drain?token=s3cret") + "Content-Length: 2\r\n\r\n{}",
                head + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
            ] {
                let reply = try await gateway.admin.connect { connection in
                    try await connection.send(request)
                    return try await connection.reply()
                }
                #expect(reply.status == 401, "\(request)")
            }
            #expect(gateway.status("a").mode == .enabled)
        }
    }

    @Test func whoMayNotAskIsNotAskedForABody() async throws {
        try await RunningGateway.run([("a", .ollama, 1)]) { (gateway: RunningGateway) async throws in
            for (status, headers) in [(421, "Host: evil\r\n"), (403, "Host: test\r\nOrigin: http://evil\r\n")] {
                let answer = try await gateway.admin.exchange(
                    "POST /admin/reload HTTP/1.1\r\n\(headers)Content-Type: application/json\r\n"
                        + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
                #expect(answer.hasPrefix("HTTP/1.1 \(status) "), "\(answer)")
            }
        }
    }

    @Test func aConfiguredOriginMayAsk() async throws {
        try await RunningGateway.run([]) {
            $0.admin.allowedOrigins = ["https://ops.example"]
        } _: { (gateway: RunningGateway) async throws in
            for (origin, status) in [("https://ops.example", 200), ("https://ops.example.evil", 403), ("null", 403)] {
                let reply = try await gateway.admin.request("GET", "/admin/status", headers: [("Origin", origin)])
                #expect(reply.status == status, "\(origin)")
            }
        }
    }

    /// A link on another site's page may lead to the dashboard; its scripts and forms change nothing.
    @Test func anotherSitesPageMayLinkAndNotPost() async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let site = ("Sec-Fetch-Site", "cross-site")
            #expect(try await gateway.admin.request("GET", "/dashboard", headers: [site]).status == 200)
            #expect(try await gateway.admin.postJSON("/admin/reload", "{}", headers: [site]).status == 403)
            let own = [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://test")]
            #expect(try await gateway.admin.postJSON("/admin/reload", "{}", headers: own).status == 200)
        }
    }

    @Test func repliesForbidFramesScriptsAndStorage() async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            for path in ["/admin/status", "/admin/nothing", "/dashboard"] {
                let headers = try await gateway.admin.request("GET", path).headers
                let policy = try #require(headers["content-security-policy"])
                #expect(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "\(path)")
                #expect(headers["x-content-type-options"] == "nosniff", "\(path)")
                #expect(headers["referrer-policy"] == "no-referrer", "\(path)")
            }
        }
    }

    @Test func nothingIsChangedByAGET() async throws {
        try await RunningGateway.run([("a", .ollama, 1)]) { (gateway: RunningGateway) async throws in
            for path in ["/admin/reload", "/admin/upstreams/a/drain", "/admin/running/1/cancel"] {
                #expect(try await gateway.admin.request("GET", path).status == 405, "\(path)")
            }
            #expect(gateway.status("a").mode == .enabled)
        }
    }

    // MARK: The past

    @Test func everyRequestIsToldWithItsPlan() async throws {
        let broken = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await connection.reply("500 No", body: "{}") })
        let whole = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""b""#) })
        try await RunningGateway.run([("broken", .ollama, broken.port), ("whole", .ollama, whole.port)]) {
            (gateway: RunningGateway) async throws in
            let id = try #require(try await gateway.infer("x").headers["x-request-id"])
            let all = try Self.object(await gateway.admin.request("GET", "/admin/requests"))
            let listed = try #require((all["requests"] as? [[String: Any]])?.first)
            #expect(listed["request_id"] as? String == id)
            #expect(listed["upstream"] as? String == "whole")
            #expect(listed["plan"] == nil, "a list has no plans")
            let key = try #require(listed["id"] as? Int)
            let one = try Self.object(await gateway.admin.request("GET", "/admin/requests/\(key)"))
            #expect(one["outcome"] as? String == "ok")
            #expect(
                (one["attempts"] as? [[String: String]])
                    == [
                        ["upstream": "broken", "result": "status_500"], ["upstream": "whole", "result": "ok"],
                    ])
            let plan = try #require(one["plan"] as? [String: Any])
            let attempts = try #require(plan["attempts"] as? [[String: Any]])
            #expect(attempts.map { $0["upstream"] as? String } == ["broken", "whole"])
            #expect((one["why"] as? String)?.contains("it answered with status 500") == true)
        }
        await broken.close()
        await whole.close()
    }

    @Test(arguments: [
        ("limit=0", "limit must be 1 to 500"), ("limit=x", "limit must be 1 to 500"),
        ("since=yesterday", "since must be a duration"), ("outcome=bad", "outcome must be one of ok, fallback"),
        ("errors=1", "errors must be true or false"), ("route=x", "route must be infer or batch"),
        ("before=-1", "before must be the id of a request"), ("upstraem=a", "upstraem is not known; accepted: limit"),
    ])
    func aFilterThatIsNotUnderstoodIsRefused(_ query: String, _ message: String) async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let reply = try await gateway.admin.request("GET", "/admin/requests?\(query)")
            #expect(reply.status == 400)
            #expect((try Self.object(reply)["error"] as? String)?.hasPrefix(message) == true, "\(reply.body)")
        }
    }

    /// A filter that is lost would tell everything.
    @Test(arguments: ["upstream=%00", "model=%zz", "request_id=%ff", "since=%"])
    func aFilterThatCannotBeDecodedIsRefused(_ query: String) async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let reply = try await gateway.admin.request("GET", "/admin/requests?\(query)")
            #expect(reply.status == 400)
            let name = query.prefix { $0 != "=" }
            #expect(reply.has("\(name) holds an invalid percent-encoding"), "\(reply.body)")
        }
    }

    @Test func aModelThatCannotBeDecodedIsRefused() async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let explain = try await gateway.admin.request("GET", "/admin/explain?model=%00")
            #expect(explain.status == 400 && explain.has("model holds an invalid percent-encoding"))
            for query in ["models?recommended=%00", "models/info?model=%00", "history?limit=%00"] {
                let reply = try await gateway.client.request("GET", "/webllm/api/\(query)")
                #expect(reply.status == 400 && reply.has("holds an invalid percent-encoding"), "\(query)")
            }
        }
    }

    // MARK: The present

    @Test func aRunningRequestIsShownAndCanBeCancelled() async throws {
        let gone = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a b c""#))
                await connection.untilClosed()
                gone.open()
            })
        try await RunningGateway.run([("a", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            let client = gateway.client
            let started = Gate()
            let answer = Task {
                try await client.connect { connection in
                    try await connection.send(
                        RawClient.text(
                            "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                            body: #"{"prompt":"x","stream":true}"#))
                    let first = try await connection.read(through: "a b c")
                    started.open()
                    return try await first + connection.read(through: "0\r\n\r\n")
                }
            }
            await started.wait()
            let running = try Self.object(await gateway.admin.request("GET", "/admin/running"))
            #expect(running["total"] as? Int == 1)
            let one = try #require((running["running"] as? [[String: Any]])?.first)
            #expect(one["phase"] as? String == "generating")
            #expect(one["upstream"] as? String == "a")
            #expect(one["pieces"] as? Int == 1)
            let id = try #require(one["id"] as? String)
            #expect(try await gateway.admin.postJSON("/admin/running/\(id)/cancel", "{}").status == 200)
            let told = try await answer.value
            #expect(told.contains("event: error") && told.contains("An operator ended this request"))
            await gone.wait()
            #expect(try await gateway.admin.postJSON("/admin/running/\(id)/cancel", "{}").status == 404)
            let past = try await gateway.admin.request("GET", "/admin/requests?outcome=cancelled")
            #expect(try Self.object(past)["count"] as? Int == 1)
        }
        await upstream.close()
    }

    @Test func aRequestIDMayBeANumber() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""b""#) })
        try await RunningGateway.run([("a", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            _ = try await gateway.client.postJSON(
                "/webllm/api/infer", #"{"prompt":"x"}"#, headers: [("X-Request-Id", "12345")])
            let one = try Self.object(await gateway.admin.request("GET", "/admin/requests/12345"))
            #expect(one["request_id"] as? String == "12345")
            #expect(try await gateway.admin.request("GET", "/admin/requests/12346").status == 404)
        }
        await upstream.close()
    }

    @Test func aFeedEndsWhenItsTokenIsReplaced() async throws {
        try await RunningGateway.run([]) {
            $0.admin.tokenDigest = Array(SHA256.hash(data: Data("old".utf8)))
        } _: { (gateway: RunningGateway) async throws in
            let headers = [("Authorization", "Bearer old")]
            try await gateway.admin.connect { connection in
                try await connection.send(RawClient.text("GET", "/admin/events", headers: headers))
                _ = try await connection.read(through: "event: start")
                try gateway.reload { $0.admin.tokenDigest = Array(SHA256.hash(data: Data("new".utf8))) }
                #expect(try await connection.read(through: "\r\n0\r\n\r\n").hasSuffix("\r\n0\r\n\r\n"))
            }
            #expect(try await gateway.admin.request("GET", "/admin/events", headers: headers).status == 401)
        }
    }

    @Test func theFeedStartsWithEverythingAndGoesOnWithWhatIsNew() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""b""#) })
        try await RunningGateway.run([("a", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            _ = try await gateway.infer("before")
            let admin = gateway.admin
            let client = gateway.client
            let (start, tick) = try await admin.connect { connection in
                try await connection.send(RawClient.text("GET", "/admin/events"))
                let start = try await connection.read(through: "\n\n")
                _ = try await client.postJSON("/webllm/api/infer", #"{"prompt":"after"}"#)
                var tick = ""
                repeat { tick = try await connection.read(through: "\n\n") } while !tick.contains(#""finished":1"#)
                return (start, tick)
            }
            #expect(start.contains("Content-Type: text/event-stream"))
            #expect(start.contains("event: start\ndata: {"))
            for part in ["status", "running", "alerts", "series", "recent"] {
                #expect(start.contains(#""\#(part)":"#), "\(part)")
            }
            #expect(start.contains(#""requests":[0,"#), "a series of the last hour")
            #expect(tick.contains("event: tick\ndata: {"))
            #expect(tick.contains(#""points":[{"requests":"#))
        }
        await upstream.close()
    }

    @Test func theFeedIsARequestLikeOthers() async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let head = try await gateway.admin.connect { connection in
                try await connection.send(RawClient.text("GET", "/admin/events"))
                return RawReply(head: try await connection.read(through: "\n\n"))
            }
            #expect(head.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'")
            #expect(head.headers["referrer-policy"] == "no-referrer" && head.headers["cache-control"] == "no-store")
            let feeds = Metrics.RequestKey(route: "admin_events", outcome: .ok, upstream: "")
            let metrics = gateway.server.gateway.metrics
            while metrics.snapshot.requests[feeds] == nil { await Task.yield() }
            #expect(metrics.snapshot.requests[feeds] == 1)
        }
    }

    /// It says what a request would meet that came now.
    @Test func explainSaysWhatIsChosen() {
        let now = MonotonicTime(nanoseconds: 0)
        func request(_ id: UInt64) -> SelectionRequest { SelectionRequest(waiter: WaiterID(rawValue: id)) }
        func table(maxQueue: Int = 64) -> UpstreamTable {
            UpstreamTable(
                upstreams: ["a", "b"].map { name in
                    var upstream = UpstreamConfiguration(
                        name: name, kind: .ollama, url: UpstreamURL(host: "127.0.0.1", port: 1))
                    upstream.maxInFlight = name == "a" ? 4 : 1
                    upstream.maxQueue = maxQueue
                    return upstream
                }, routing: RoutingConfiguration())
        }
        func decision(_ table: UpstreamTable) -> String {
            AdminReplies.decision(Gateway.Plan(request(0), table, now: now))
        }
        // One that has just recovered has its share of requests, and another is free.
        var recovered = table()
        let first = UpstreamID(index: 0)
        for success in [true, false, false, false, true, true] {
            _ = recovered.probeFinished(first, success: success, now: now)
        }
        _ = recovered.select(request(1), now: now)
        #expect(decision(recovered) == "asks b first")
        _ = recovered.select(request(2), now: now)
        #expect(decision(recovered) == "asks a first", "b is full")

        var full = table(maxQueue: 1)
        for id in 1...5 { _ = full.select(request(UInt64(id)), now: now) }
        #expect(decision(full) == "waits for a slot at a")
        _ = full.select(request(6), now: now)
        #expect(decision(full) == "is refused: the queue at a is full")
    }

    @Test func anUpstreamThatAnswersNothingIsNotHealthy() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await connection.reply("404 Not Found", body: #"{"error":"model 'm' not found"}"#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            while gateway.status("u").probe != .up { await Task.yield() }
            #expect(try await gateway.client.request("GET", "/webllm/api/health").has(#""status":"healthy""#))
            for _ in 0..<3 { _ = try await gateway.infer("x") }
            #expect(try await gateway.client.request("GET", "/webllm/api/health").has(#""status":"degraded""#))
            let alerts = try await gateway.admin.request("GET", "/admin/alerts")
            #expect(alerts.has("u has failed 3 of 3 requests"), "\(alerts.body)")
        }
        await upstream.close()
    }

    @Test func alertsSayInWordsWhatIsWrong() async throws {
        try await RunningGateway.run([("dead", .ollama, 1), ("b", .ollama, 2)]) {
            (gateway: RunningGateway) async throws in
            _ = gateway.server.gateway.setMode("b", .disabled)
            for _ in 0..<10 { _ = try await gateway.infer("x") }
            let reply = try Self.object(await gateway.admin.request("GET", "/admin/alerts"))
            let alerts = try #require(reply["alerts"] as? [[String: Any]])
            let texts = alerts.compactMap { $0["text"] as? String }
            #expect(
                texts.contains { $0.hasPrefix("dead has failed") && $0.hasSuffix("it refuses connections") }, "\(texts)"
            )
            #expect(texts.contains("b is disabled by an operator"))
            #expect(alerts.first?["severity"] as? String == "critical", "the worst comes first: \(texts)")
        }
    }
}
