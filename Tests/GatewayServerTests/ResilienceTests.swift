import CurlMulti
import GatewayCore
import NIOCore
import NIOPosix
import Support
import Synchronization
import Testing

@testable import GatewayServer

/// Bad days: broken nodes, cold models, operators, reloads.
@Suite(.timeLimit(.minutes(1)))
struct ResilienceTests {
    private static let stream = RawClient.text(
        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
        body: #"{"prompt":"x","stream":true}"#)

    /// An Ollama whose list of loaded models the test sets.
    private static func ollama(
        loaded: Mutexed<[String]>, hang: Gate? = nil,
        _ generate: @escaping @Sendable (FakeConnection, RecordedRequest) async throws -> Void
    ) -> FakeUpstream.Script {
        { connection in
            while let request = try await connection.request() {
                if request.line.hasPrefix("GET /api/ps") {
                    let names = loaded.value.map { #"{"name":"\#($0)"}"# }.joined(separator: ",")
                    try await connection.reply(body: #"{"models":[\#(names)]}"#)
                } else if request.line.hasPrefix("GET") {
                    try await connection.reply(body: #"{"version":"1","models":[{"name":"m"}]}"#)
                } else {
                    try await generate(connection, request)
                }
            }
        }
    }

    private func until(_ test: () -> Bool) async { while !test() { await Task.yield() } }

    // MARK: Breaker

    @Test func aBrokenUpstreamIsLeftAloneAndComesBack() async throws {
        let isBroken = Mutexed(true)
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                if isBroken.value {
                    try await connection.reply("500 Internal Server Error", body: #"{"error":"no"}"#)
                } else {
                    try await Scripts.answer(connection, #""first""#)
                }
            })
        let second = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""second""#) })
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            $0.upstreams[0].breaker.open = .seconds(2)
        } _: { (gateway: RunningGateway) async throws in
            for _ in 0..<8 {
                let reply = try await gateway.infer("x")
                #expect(reply.has("second"), "\(reply)")
            }
            let asked = first.state.requests.count { $0.line.hasPrefix("POST") }
            #expect(asked == 5, "the breaker opens after five failures in a row")
            #expect(gateway.status("first").breaker == .open)
            isBroken.value = false
            await until { gateway.status("first").probesIn == nil }
            let probe = try await gateway.infer("x")
            #expect(probe.has("first"), "a request is the probe")
            #expect(gateway.status("first").breaker == .closed)
        }
        await first.close()
        await second.close()
    }

    @Test func theOnlyUpstreamIsNeverEjected() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await connection.reply("500 Internal Server Error", body: "{}") })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            for _ in 0..<9 { _ = try await gateway.infer("x") }
            #expect(upstream.state.requests.count { $0.line.hasPrefix("POST") } == 9)
        }
        await upstream.close()
    }

    // MARK: Cold models

    @Test func theGatewayLoadsAColdModelOnceForEverybody() async throws {
        let loaded = Mutexed<[String]>([])
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: loaded) { connection, request in
                if request.body.contains(#""messages":[]"#) {
                    await gate.wait()
                    loaded.value = ["m"]
                    try await connection.reply(body: #"{"model":"m","done":true,"done_reason":"load"}"#)
                } else {
                    try await Scripts.answer(connection, #""warm""#)
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            // Far below what the load takes: it must not fire meanwhile.
            $0.upstreams[0].timeouts.firstToken = .milliseconds(200)
        } _: { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").loaded == .models([]) }
            // The one who asks first leaves; the load goes on for the others.
            try await gateway.client.connect { connection in
                try await connection.send(Self.stream)
                await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            }
            async let one = gateway.infer("x")
            async let two = gateway.infer("x")
            await until { gateway.status("u").inFlight == 2 }
            gate.open()
            #expect(try await one.has("warm"))
            #expect(try await two.has("warm"))
            let loads = upstream.state.requests.count { $0.body.contains(#""messages":[]"#) }
            #expect(loads == 1)
            #expect(gateway.status("u").failuresInRow == 0)
        }
        await upstream.close()
    }

    @Test func whoComesJustAfterALoadBeginsNoOther() async throws {
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, _ in
                try await connection.reply(body: #"{"done":true,"done_reason":"load"}"#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (running: RunningGateway) async throws in
            await until { running.status("u").loaded == .models([]) }
            let gateway = running.server.gateway
            let (id, endpoint) = try #require(gateway.snapshot.endpoints.first)
            let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
            try await eventLoop.submit {
                let loop = LoopContext(eventLoop: eventLoop, gateway: gateway)
                let job = Generation.Job(
                    chat: ChatRequest(messages: [], sampling: SamplingParameters()), modelID: "m",
                    client: ClientID(rawValue: 0), accepted: .now, requestID: "r", clientAddress: "unix",
                    route: "infer")
                // It looked while the load was under way, and asks when that has ended.
                let late = Generation(
                    gateway: gateway, snapshot: gateway.snapshot, loop: NIOLoopBound(loop, eventLoop: eventLoop),
                    job: job)
                gateway.noteLoaded(id, "ready")
                for model in ["ready", "cold"] {
                    gateway.loader.load(model, on: id, endpoint, gateway, loop: loop, for: late)
                }
            }.get()
            await until { !gateway.isCold(id, model: "cold") }
            let loads = upstream.state.requests.filter { $0.line.hasPrefix("POST") }
            #expect(loads.count == 1 && loads[0].body.contains("cold"), "\(loads)")
        }
        await upstream.close()
    }

    @Test func aModelThatAnotherHasLoadedIsNotWaitedForSoLong() async throws {
        let hold = Gate()
        let cold = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, _ in
                await hold.wait()
                await connection.untilClosed()
            })
        let warm = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed(["m"])) { connection, _ in try await Scripts.answer(connection, #""warm""#) })
        try await RunningGateway.run([("cold", .ollama, cold.port), ("warm", .ollama, warm.port)]) {
            $0.upstreams[0].timeouts.firstToken = .milliseconds(100)
        } _: { (gateway: RunningGateway) async throws in
            await until {
                gateway.status("cold").loaded == .models([]) && gateway.status("warm").loaded == .models(["m"])
            }
            #expect(try await gateway.infer("x").has("warm"))
            #expect(gateway.status("cold").failuresInRow == 0, "a load is no failure")
            hold.open()
        }
        await cold.close()
        await warm.close()
    }

    @Test func aServerThatKnowsNoLoadRequestIsAskedAllTheSame() async throws {
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, request in
                if request.body.contains(#""messages":[]"#) {
                    try await connection.reply("400 Bad Request", body: #"{"error":"messages must not be empty"}"#)
                } else {
                    try await Scripts.answer(connection, #""answer""#)
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").loaded == .models([]) }
            #expect(try await gateway.infer("x").has("answer"))
            #expect(gateway.status("u").failuresInRow == 0)
        }
        await upstream.close()
    }

    /// Who comes late waits no longer than the first did, where another upstream could answer.
    @Test func aLoadThatHangsIsWaitedForOnce() async throws {
        let hangs = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, _ in await connection.untilClosed() })
        let other = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: #"{"response":"other"}"#) }
        }
        try await RunningGateway.run([("hangs", .ollama, hangs.port), ("other", .query, other.port)]) {
            $0.upstreams[0].timeouts.firstTokenCold = .seconds(3)
        } _: { (gateway: RunningGateway) async throws in
            await until { gateway.status("hangs").loaded == .models([]) && gateway.status("other").isAvailable }
            var times: [Duration] = []
            for _ in 1...2 {
                let started = ContinuousClock.now
                #expect(try await gateway.infer("x").has("other"))
                times.append(ContinuousClock.now - started)
            }
            #expect(times[0] >= .seconds(3) && times[1] < times[0] / 2, "\(times)")
            #expect(gateway.status("hangs").failuresInRow == 1, "it is the load's failure, not theirs")
        }
        await hangs.close()
        await other.close()
    }

    /// To end the load would abort it, and the next request would begin anew.
    @Test func aLoadGoesOnWhenThePatienceOfThoseWhoWaitIsOver() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, request in
                if request.body.contains(#""messages":[]"#) {
                    await gate.wait()
                    try await connection.reply(body: #"{"done":true,"done_reason":"load"}"#)
                } else {
                    try await Scripts.answer(connection, #""warm""#)
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].timeouts.firstTokenCold = .seconds(2)
            $0.webllm.fallbackMessage = ""
        } _: { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").loaded == .models([]) }
            for _ in 0..<2 { #expect(try await gateway.infer("x").status == 504) }
            #expect(gateway.status("u").failuresInRow == 1, "one load, one failure")
            async let third = gateway.infer("x")
            await until { gateway.status("u").inFlight == 1 }
            gate.open()
            #expect(try await third.has("warm"))
            #expect(upstream.state.requests.count { $0.body.contains(#""messages":[]"#) } == 1)
        }
        await upstream.close()
    }

    @Test func modelsThatAReloadConfiguresAreLoaded() async throws {
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, _ in
                try await connection.reply(body: #"{"done":true,"done_reason":"load"}"#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").loaded == .models([]) }
            try gateway.reload { $0.upstreams[0].warm.models = ["late"] }
            await upstream.until { $0.requests.contains { $0.body.contains(#""model":"late","messages":[]"#) } }
        }
        await upstream.close()
    }

    @Test(arguments: ["404 Not Found", "405 Method Not Allowed", "403 Forbidden"])
    func aServerWithoutAHealthPathIsAskedForItsModels(_ status: String) async throws {
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if request.line.hasPrefix("GET /health") {
                    try await connection.reply(status, body: "")
                } else {
                    try await connection.reply(body: #"{"data":[{"id":"m","owned_by":"llamacpp"}]}"#)
                }
            }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").installed == ["m"] }
            #expect(gateway.status("u").isAvailable)
        }
        await upstream.close()
    }

    @Test func configuredModelsAreLoadedAtTheStart() async throws {
        let upstream = try await FakeUpstream.start(
            Self.ollama(loaded: Mutexed([])) { connection, _ in
                try await connection.reply(body: #"{"done":true,"done_reason":"load"}"#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].warm.models = ["a", "b"]
            $0.upstreams[0].warm.keepAlive = "7d"
        } _: { _ in
            await upstream.until { $0.requests.count { $0.line.hasPrefix("POST") } == 2 }
            let bodies = upstream.state.requests.map(\.body).filter { !$0.isEmpty }.sorted()
            #expect(bodies[0] == #"{"model":"a","messages":[],"stream":false,"keep_alive":"604800000ms"}"#)
        }
        await upstream.close()
    }

    // MARK: Waiting

    @Test func aWaitingStreamIsKeptAliveAndSaysItsPlace() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""late""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
            $0.server.heartbeat = .milliseconds(60)
        } _: { (gateway: RunningGateway) async throws in
            async let first = gateway.infer("x")
            await until { gateway.status("u").inFlight == 1 }
            try await gateway.client.connect { connection in
                try await connection.send(Self.stream)
                let head = try await connection.read(through: ": waiting\n\n")
                #expect(head.contains("X-Queue-Position: 1\r\n"))
                gate.open()
                let rest = try await connection.read(through: "0\r\n\r\n")
                #expect(rest.contains(#"data: {"text":"late"}"#))
                #expect(rest.contains("event: done"))
            }
            #expect(try await first.status == 200)
        }
        await upstream.close()
    }

    @Test func aWaitingNDJSONStreamIsKeptAliveByEmptyPieces() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await Scripts.answer(connection, #""late""#)
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.heartbeat = .milliseconds(60)
        } _: { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer",
                        headers: [("Content-Type", "application/json"), ("Accept", "application/x-ndjson")],
                        body: #"{"prompt":"x","stream":true}"#))
                let head = try await connection.read(through: #"{"type":"token","text":""}"# + "\n")
                #expect(!head.contains("X-Gateway-"), "nobody knows yet who will answer")
                gate.open()
                let rest = try await connection.read(through: "0\r\n\r\n")
                #expect(rest.contains(#"{"type":"token","text":"late"}"#))
            }
        }
        await upstream.close()
    }

    @Test func theFallbackMessageReachesAStreamThatWasKeptAlive() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await connection.reset()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.heartbeat = .milliseconds(60)
            $0.webllm.fallbackMessage = "sorry"
        } _: { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(Self.stream)
                _ = try await connection.read(through: ": waiting\n\n")
                gate.open()
                let rest = try await connection.read(through: "0\r\n\r\n")
                #expect(rest.contains(#"event: token"# + "\n" + #"data: {"text":"sorry"}"#))
            }
        }
        await upstream.close()
    }

    // MARK: Operators

    @Test func drainAndDisableAndEnable() async throws {
        let gate = Gate()
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await gate.wait()
                await connection.untilClosed()
            })
        let second = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""second""#) })
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            (gateway: RunningGateway) async throws in
            let admin = gateway.admin
            let plain = Task { try await gateway.infer("x") }
            await first.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            let client = gateway.client
            let stream = Task {
                try await client.connect { connection in
                    try await connection.send(Self.stream)
                    return try await connection.read(through: "0\r\n\r\n")
                }
            }
            await first.until { $0.requests.count { $0.line.hasPrefix("POST") } == 2 }
            #expect(try await admin.postJSON("/admin/upstreams/first/drain", "{}").status == 200)
            #expect(try await gateway.infer("x").has("second"))
            #expect(gateway.status("first").inFlight == 2, "what runs goes on")
            #expect(try await admin.postJSON("/admin/upstreams/first/disable", "{}").status == 200)
            #expect(try await plain.value.has("second"), "a plain reply moves on")
            let told = try await stream.value
            #expect(told.contains("event: error") || told.contains("second"), "a stream never ends silently")
            #expect(gateway.status("first").failuresInRow == 0)
            #expect(try await admin.postJSON("/admin/upstreams/first/enable", "{}").status == 200)
            #expect(gateway.status("first").isAvailable)
            #expect(try await admin.postJSON("/admin/upstreams/nobody/drain", "{}").status == 404)
            #expect(try await admin.postJSON("/admin/upstreams/first/erase", "{}").status == 404)
            #expect(try await admin.request("GET", "/admin/upstreams/first/drain").status == 405)
            #expect(
                try await admin.request("POST", "/admin/upstreams/first/drain", body: "{}").status == 415,
                "what a form could send is not taken")
            gate.open()
        }
        await first.close()
        await second.close()
    }

    @Test func explainSaysWhoIsAskedAndWhyNot() async throws {
        try await RunningGateway.run([("a", .ollama, 1), ("b", .query, 2)]) { (gateway: RunningGateway) async throws in
            _ = gateway.server.gateway.setMode("a", .draining)
            let reply = try await gateway.admin.request("GET", "/admin/explain?model=x")
            #expect(reply.has(#""upstream":"a","model":"m","score":0.0,"skipped":"draining""#))
            let status = try await gateway.admin.request("GET", "/admin/status").body
            #expect(
                status.contains(#""name":"a","kind":"ollama","mode":"draining","available":false,"reason":"draining""#))
        }
    }

    /// Nobody is up: in the configured order, whatever the policy.
    @Test func explainNamesWhoIsAskedWhereNobodyIsAvailable() async throws {
        try await RunningGateway.run([("a", .ollama, 1), ("b", .openai, 2)]) {
            $0.routing.policy = .fastest
        } _: { (gateway: RunningGateway) async throws in
            await until { ["a", "b"].allSatisfy { gateway.status($0).probe == .down } }
            let reply = try await gateway.admin.request("GET", "/admin/explain?model=x")
            #expect(reply.has("nothing is available: tries a all the same"))
        }
    }

    /// It is down, and its one slot is still held.
    @Test func explainSaysThatARequestWaitsForAFullUpstreamThatIsDown() async throws {
        let isDown = Mutexed(false)
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if !request.line.hasPrefix("GET") {
                    await connection.untilClosed()
                } else if isDown.value {
                    try await connection.reply("500 Broken", body: "")
                } else {
                    try await connection.reply(body: #"{"version":"1","models":[{"name":"m"}]}"#)
                }
            }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 1
            $0.upstreams[0].health.interval = .milliseconds(100)
            $0.upstreams[0].health.fall = 1
        } _: { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(Self.stream)
                await until { gateway.status("u").inFlight == 1 }
                isDown.value = true
                await until { gateway.status("u").probe == .down }
                let reply = try await gateway.admin.request("GET", "/admin/explain?model=x")
                #expect(reply.has("waits for a slot at u"))
            }
        }
        await upstream.close()
    }

    @Test(arguments: [
        ("localhost", 200), ("127.0.0.1:8001", 200), ("[::1]:8001", 200), ("LOCALHOST", 200), ("gate.lan", 200),
        ("localhost.evil.test", 421), ("127.0.0.1.nip.io", 421), ("localhost.", 421), ("evil", 421),
    ])
    func onlyKnownNamesReachTheAdminListener(_ host: String, _ status: Int) async throws {
        try await RunningGateway.run([]) {
            $0.admin.allowedHosts = ["gate.lan"]
        } _: { (gateway: RunningGateway) async throws in
            let reply = try await gateway.admin.exchange(
                "GET /admin/status HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n\r\n")
            #expect(reply.hasPrefix("HTTP/1.1 \(status) "))
        }
    }

    @Test(arguments: ["null", "https://evil", "http://localhost:1", "http://localhost.evil.test"])
    func requestsOfOtherSitesAreRefused(_ origin: String) async throws {
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            let reply = try await gateway.admin.exchange(
                "POST /admin/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: \(origin)\r\nContent-Type: application/json\r\n"
                    + "Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            #expect(reply.hasPrefix("HTTP/1.1 403 "))
        }
    }

    // MARK: Reload

    @Test func aReloadTakesTheNewUpstreamAndLetsTheOldOnesStreamEnd() async throws {
        let gate = Gate()
        let old = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await gate.wait()
                try await connection.chunk(Scripts.token(#""b""#) + Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        let new = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""new""#) })
        try await RunningGateway.run([("old", .ollama, old.port)]) { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(Self.stream)
                _ = try await connection.read(through: "\"a\"}\n\n")
                try gateway.reload { configuration in
                    configuration.upstreams[0].name = "new"
                    configuration.upstreams[0].url.port = new.port
                }
                #expect(try await gateway.infer("x").has(#""text":"new""#))
                #expect(gateway.server.gateway.upstreamStatuses().map(\.name) == ["new"])
                gate.open()
                let rest = try await connection.read(through: "0\r\n\r\n")
                #expect(rest.contains(#""text":"ab""#))
            }
        }
        await old.close()
        await new.close()
    }

    @Test func aProbeThatAReloadEndsSaysNothing() async throws {
        let hanging = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            await connection.untilClosed()
        }
        let whole = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, hanging.port)]) { (gateway: RunningGateway) async throws in
            await hanging.until { !$0.requests.isEmpty }
            try gateway.reload { $0.upstreams[0].url.port = whole.port }
            await hanging.until { $0.closed == 1 }
            await until { gateway.status("u").probe != .unknown }
            #expect(gateway.status("u").probe == .up)
            let metrics = try await gateway.admin.request("GET", "/metrics").body
            #expect(metrics.contains(#"probes_total{upstream="u",result="failed"} 0"#))
        }
        await hanging.close()
        await whole.close()
    }

    /// It came before the reload, and takes its slot after it: it goes where its own configuration says.
    @Test func aRequestOfAnEarlierConfigurationSaysNothingOfTheNewServer() async throws {
        let gate = Gate()
        let old = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                await gate.wait()
                try await connection.reply("500 No", body: "{}")
            })
        let new = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""new""#) })
        try await RunningGateway.run([("u", .ollama, old.port)]) {
            $0.upstreams[0].maxInFlight = 1
        } _: { (gateway: RunningGateway) async throws in
            async let first = gateway.infer("x")
            await old.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
            async let second = gateway.infer("y")
            await until { gateway.status("u").queued == 1 }
            try gateway.reload { $0.upstreams[0].url.port = new.port }
            gate.open()
            _ = try await (first, second)
            #expect(old.state.requests.count { $0.line.hasPrefix("POST") } == 2)
            #expect(gateway.status("u").failuresInRow == 0)
            #expect(gateway.status("u").lastFailure == nil)
            #expect(gateway.status("u").inFlight == 0)
            #expect(try await gateway.infer("z").has("new"))
        }
        await old.close()
        await new.close()
    }

    /// Hosted servers have lists that are larger than what a transfer may hold for a receiver that is slow.
    @Test func aLongListOfModelsIsReadToItsEnd() async throws {
        let names = (0..<20_000).map { #"{"id":"a-model-with-a-long-name-\#($0)"}"# }
        let list = #"{"data":[\#(names.joined(separator: ","))]}"#
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if request.line.contains("/health") {
                    try await connection.reply("404 Not Found", body: "{}")
                } else {
                    try await connection.reply(body: list)
                }
            }
        }
        try await RunningGateway.run([("u", .openai, upstream.port)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").probe != .unknown }
            #expect(gateway.status("u").probe == .up)
            await until { gateway.status("u").installed.count == 20_000 }
        }
        await upstream.close()
    }

    @Test func aHundredReloadsUnderLoadFailNoRequest() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.upstreams[0].maxInFlight = 100
        } _: { (gateway: RunningGateway) async throws in
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        var failed = 0
                        for _ in 0..<25 where try await gateway.infer("x").has(#""text":"x""#) == false {
                            failed += 1
                        }
                        return failed
                    }
                }
                for round in 0..<100 {
                    try gateway.reload { $0.upstreams[0].maxQueue = round }
                    await Task.yield()
                }
                for try await failed in group { #expect(failed == 0) }
            }
        }
        await upstream.close()
    }

    // MARK: Life cycle

    @Test func readinessFollowsTheUpstreams() async throws {
        try await RunningGateway.run([("u", .ollama, 1)]) { (gateway: RunningGateway) async throws in
            await until { gateway.status("u").probe == .down }
            #expect(try await gateway.client.request("GET", "/readyz").status == 503)
            #expect(try await gateway.client.request("GET", "/healthz").status == 200)
        }
    }
}
