import GatewayCore
import GatewayWire
import NIOCore
import Support
import Testing

@testable import GatewayServer

/// `/metrics` after a load that is known.
@Suite(.timeLimit(.minutes(1)))
struct MetricsTests {
    @Test func aKnownLoadIsCountedExactly() async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                if request.body.contains("fail") {
                    try await connection.reply("500 No", body: "{}")
                } else {
                    try await Scripts.startStream(connection)
                    try await connection.chunk(Scripts.token(#""a b""#))
                    try await connection.chunk(
                        #"{"message":{"content":""},"done":true,"prompt_eval_count":7,"eval_count":3}"# + "\n")
                    try await connection.send("0\r\n\r\n")
                }
            })
        let second = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""b""#) })
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            (gateway: RunningGateway) async throws in
            for _ in 0..<5 { _ = try await gateway.infer("x") }
            for _ in 0..<2 { _ = try await gateway.infer("fail") }
            _ = try await gateway.client.postJSON("/webllm/api/infer", "{}")
            let reply = try await gateway.admin.request("GET", "/metrics")
            #expect(reply.headers["content-type"] == PrometheusWriter.contentType)
            let lines = Set(reply.body.split(separator: "\n").map { String($0) })
            for line in [
                #"webllm_gateway_requests_total{route="infer",outcome="ok",upstream="first"} 5"#,
                #"webllm_gateway_requests_total{route="infer",outcome="ok",upstream="second"} 2"#,
                #"webllm_gateway_requests_total{route="infer",outcome="refused",upstream=""} 1"#,
                #"webllm_gateway_request_duration_seconds_count{route="infer"} 8"#,
                #"webllm_gateway_attempts_total{upstream="first",result="ok"} 5"#,
                #"webllm_gateway_attempts_total{upstream="first",result="status_5xx"} 2"#,
                #"webllm_gateway_fallbacks_total{upstream="first",reason="status_5xx"} 2"#,
                #"webllm_gateway_tokens_total{upstream="first",type="input"} 35"#,
                #"webllm_gateway_tokens_total{upstream="first",type="output"} 15"#,
                #"webllm_gateway_time_to_first_token_seconds_count{upstream="first"} 5"#,
                #"webllm_gateway_upstream_available{upstream="second"} 1"#,
                #"webllm_gateway_breaker_state{upstream="first",state="closed"} 1"#,
            ] { #expect(lines.contains(line), "\(line)") }
            let elsewhere = try await gateway.client.request("GET", "/metrics")
            #expect(elsewhere.status == 404, "operators' figures are not for clients")
        }
        await first.close()
        await second.close()
    }

    @Test func aClientThatLeavesIsCountedWithThePhaseAndTheTimeItTook() async throws {
        let gone = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await connection.untilClosed()
                gone.open()
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                        body: #"{"prompt":"x","stream":true}"#))
                _ = try await connection.read(through: "event: token")
            }
            await gone.wait()
            var text = ""
            repeat {
                text = try await gateway.admin.request("GET", "/metrics").body
            } while !text.contains(#"webllm_gateway_cancel_duration_seconds_count{phase="generating"} 1"# + "\n")
            #expect(text.contains(#"webllm_gateway_cancels_total{phase="generating"} 1"# + "\n"))
            #expect(text.contains(#"webllm_gateway_late_tokens_total{upstream="u"} 0"# + "\n"))
            // It is a request of the last hour's chart, and no error.
            #expect(await gateway.errorsOfOneRequest() == 0)
        }
        await upstream.close()
    }

    /// The chart, the figure beside it and the list below count the same; what the upstream does not count is estimated.
    @Test func eachItemOfABatchIsARequestOfTheLastHour() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if request.body.contains("bad") {
                    try await connection.reply("400 Bad Request", body: "{}")
                } else {
                    try await connection.reply(body: #"{"response":"one two three four"}"#)
                }
            }
        }
        try await RunningGateway.run([("u", .query, upstream.port)]) { (gateway: RunningGateway) async throws in
            let body = #"{"prompts":["good","bad","bad",7]}"#
            #expect(try await gateway.client.postJSON("/webllm/api/infer/batch", body).status == 200)
            let steps = gateway.server.gateway.metrics.withSeries { $0.steps(.now) }
            #expect(steps.map(\.requests).reduce(0, +) == 3 && steps.map(\.errors).reduce(0, +) == 2)
            #expect(gateway.server.gateway.history.totals().totals.inferences == 3)
            let tokens = steps.flatMap { $0.upstreams.values.map(\.tokens) }.reduce(0, +)
            #expect(tokens == WebLLMText.estimatedTokens("one two three four"))
        }
        await upstream.close()
    }

    @Test func labelsAreEscaped() {
        var writer = PrometheusWriter()
        writer.family("a", .gauge, "A.")
        writer.sample(1, [("b", "x\"y\\z\nw")])
        #expect(String(buffer: writer.buffer).hasSuffix(#"a{b="x\"y\\z\nw"} 1"# + "\n"))
    }

    @Test func bucketsAreCumulativeAndBoundsAreInclusive() {
        var histogram = Histogram(bounds: [0.1, 1])
        for milliseconds in [50, 100, 101, 5000] { histogram.record(.milliseconds(milliseconds)) }
        var writer = PrometheusWriter()
        writer.family("h", .histogram, "H.")
        writer.sample(histogram)
        let text = String(buffer: writer.buffer)
        #expect(text.contains("h_bucket{le=\"0.1\"} 2\nh_bucket{le=\"1.0\"} 3\nh_bucket{le=\"+Inf\"} 4\n"))
        #expect(text.hasSuffix("h_sum 5.251\nh_count 4\n"))
    }

    /// A server may answer with any number; labels are few.
    @Test(arguments: [
        (302, "status_other"), (404, "status_4xx"), (499, "status_4xx"), (500, "status_5xx"), (599, "status_5xx"),
        (600, "status_other"), (999, "status_other"),
    ]) func statusesAreCountedByTheirClass(_ status: Int, _ label: String) {
        #expect(AttemptOutcome.failed(.status(status)).metricLabel == label)
    }
}
