import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// Rows of the adversarial catalogue that concern bodies and upstreams, through the whole gateway. Tests/CASES.md says
/// where each row is.
@Suite(.timeLimit(.minutes(2)))
struct CatalogueTests {
    struct Body: Sendable, CustomTestStringConvertible {
        var id: String
        var bytes: [UInt8]
        var status: Int
        var contentType = "application/json"
        var testDescription: String { id }

        init(_ id: String, _ text: String, _ status: Int, contentType: String = "application/json") {
            self.init(id, bytes: Array(text.utf8), status)
            self.contentType = contentType
        }

        init(_ id: String, bytes: [UInt8], _ status: Int) {
            self.id = id
            self.bytes = bytes
            self.status = status
        }

        /// Bytes in place of the prompt.
        static func prompt(_ id: String, _ bytes: [UInt8], _ status: Int) -> Body {
            Body(id, bytes: Array(#"{"prompt":""#.utf8) + bytes + Array(#""}"#.utf8), status)
        }
    }

    static let bodies: [Body] = [
        .prompt("J12", [0xC0, 0xAF], 400), .prompt("J13", [0xED, 0xA0, 0x80], 400),
        Body("J17", #"{"prompt":"a\u0000b"}"#, 200), Body("J18", #"{"prompt":"x","model_id":"a\u0000"}"#, 400),
        .prompt("J19", [0x01], 400), .prompt("J19 line end", [0x0A], 400),
        Body("J19 unknown key", bytes: Array(#"{"prompt":"x","y":""#.utf8) + [0x01] + Array(#""}"#.utf8), 400),
        Body("J20", #"{"prompt":"x","prompt":"y"}"#, 400),
        Body("J20 escaped", #"{"prompt":"x","\u0070rompt":"y"}"#, 400),
        Body("J22", "{\"prompt\":\"x\",\"\u{E9}\":1,\"e\u{301}\":2}", 200),
        Body("J23", #"{"prompt":"x","a":NaN}"#, 400), Body("J24", #"{"prompt":"x","a":Infinity}"#, 400),
        Body("J25", #"{"prompt":"x","a":1e400}"#, 400), Body("J26", #"{"prompt":"x","b":1e99999}"#, 400),
        Body("J28", #"{"prompt":"x","b":\#(String(repeating: "9", count: 5000))}"#, 400),
        Body("J34", String(repeating: "[", count: 100_000), 400),
        Body("J35", String(repeating: #"{"a":"#, count: 600), 400),
        Body("J36", "{\"prompt\":\"x\"" + (0..<200_000).map { ",\"k\($0)\":0" }.joined() + "}", 200),
        Body("J36 too large", "{\"prompt\":\"x\"" + (0..<600_000).map { ",\"k\($0)\":0" }.joined() + "}", 413),
        Body("J40", #"{"prompt":"x"}"#, 415, contentType: "text/plain"),
        Body("J40 form", #"{"prompt":"x"}"#, 415, contentType: "application/x-www-form-urlencoded"),
        Body("J41", #"{"prompt":"x","stream":"false"}"#, 400),
        Body("mode", #"{"prompt":"x","mode":"\#(String(repeating: "é", count: 100))"}"#, 200),
        Body("mode too long", #"{"prompt":"x","mode":"\#(String(repeating: "m", count: 101))"}"#, 400),
        Body("J41 flag", #"{"prompt":"x","temperature":true}"#, 400),
        Body("J41 model", #"{"prompt":"x","model_id":1}"#, 400),
    ]

    @Test(arguments: bodies)
    func bodyIs(_ body: Body) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let head =
                "POST /webllm/api/infer HTTP/1.1\r\nHost: a\r\nContent-Type: \(body.contentType)\r\n"
                + "Content-Length: \(body.bytes.count)\r\n\r\n"
            let reply = try await gateway.client.connect { connection in
                try? await connection.send(bytes: Array(head.utf8) + body.bytes)
                return try await connection.reply()
            }
            #expect(reply.status == body.status, "\(reply)")
            let asked = upstream.state.requests.count { $0.line.hasPrefix("POST") }
            #expect(asked == (body.status == 200 ? 1 : 0))
            #expect(try await gateway.infer("still there").status == 200)
        }
        await upstream.close()
    }

    /// J49: stored and shown as it was sent.
    @Test func aPromptStaysLiteral() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                try await connection.reply(body: #"{"response":"'; DROP TABLE history;--"}"#)
            })
        try await RunningGateway.run([("u", .query, upstream.port)]) { gateway in
            _ = try await gateway.infer("'; DROP TABLE history;--")
            #expect(upstream.state.requests.contains { $0.body.contains(#""query":"'; DROP TABLE history;--""#) })
            let history = try await gateway.client.request("GET", "/webllm/api/history")
            #expect(history.has("'; DROP TABLE history;--"))
        }
        await upstream.close()
    }

    struct Fault: Sendable, CustomTestStringConvertible {
        var id: String
        /// What follows the request; nil resets. The connection is closed then.
        var bytes: String?
        /// Whether the reply counts as an answer after all.
        var isAnswer = false
        var testDescription: String { id }

        init(_ id: String, _ bytes: String?, isAnswer: Bool = false) {
            self.id = id
            self.bytes = bytes
            self.isAnswer = isAnswer
        }
    }

    private static let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    private static let whole = Scripts.token(#""first""#) + Scripts.done

    private static func chunk(_ text: String) -> String {
        "\(String(text.utf8.count, radix: 16))\r\n\(text)\r\n"
    }

    /// Each on the first of two upstreams: a plain reply comes from the second, whatever the first did.
    static let faults: [Fault] = [
        Fault("U04", ""), Fault("U05", nil),
        Fault("U11", chunked + chunk(String(repeating: "x", count: 9 << 20))),
        Fault("U19", chunked + chunk(Scripts.token(#""half""#)) + "0\r\n\r\n"),
        Fault("U20", chunked + chunk(whole + "rubbish") + "0\r\n\r\n", isAnswer: true),
        Fault("U22", chunked + "5\r\nhel"), Fault("U23", chunked + chunk(Scripts.token(#""half""#))),
        Fault("U24 zz", chunked + "zz\r\nhello\r\n0\r\n\r\n"), Fault("U24 0x5", chunked + "0x5\r\nhello\r\n0\r\n\r\n"),
        Fault("U24 17 digits", chunked + "11111111111111111\r\nx"), Fault("U24 -5", chunked + "-5\r\nhello\r\n"),
        Fault(
            "U28 length and chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Fault("U28 two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 3\r\n\r\nabc"),
        Fault("U29", "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n"),
        Fault("U29 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nabc"),
        Fault("U30", "HTTP/1.1 200 OK\r\n\r\n" + Scripts.token(#""half""#)),
        Fault("U33", "HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"),
        Fault("U33 099", "HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n"),
        Fault("U33 101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw"),
        Fault("U34", String(repeating: "HTTP/1.1 100 Continue\r\n\r\n", count: 20_000)),
        Fault(
            "U34 103",
            String(repeating: "HTTP/1.1 103 Early Hints\r\n\r\n", count: 100) + chunked + chunk(whole) + "0\r\n\r\n",
            isAnswer: true),
        Fault("U39", "HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
        Fault("U41", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\u{1F}\u{8B}x"),
        Fault("U42", chunked + chunk(#"{"error":"x"}"# + "\n") + "0\r\n\r\n"),
        Fault("U50", chunked + chunk(String(repeating: "[", count: 1_000_000) + "\n") + "0\r\n\r\n"),
        Fault(
            "X34", chunked + chunk(Scripts.token(#""{\"done\":true}\n""#) + Scripts.done) + "0\r\n\r\n", isAnswer: true),
    ]

    @Test(arguments: faults)
    func upstreamDoes(_ fault: Fault) async throws {
        let first = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                if let bytes = fault.bytes {
                    try await connection.send(bytes)
                } else {
                    try await connection.reset()
                }
                throw CancellationError()
            })
        let second = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""second""#) })
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == 200)
            #expect(reply.headers["x-gateway-upstream"] == (fault.isAnswer ? "first" : "second"), "\(reply)")
            #expect(first.state.requests.count { $0.line.hasPrefix("POST") } == 1)
            #expect(!reply.has("raw") && !reply.has("half"))
        }
        await first.close()
        await second.close()
    }

    /// U57: three slow upstreams do not add up to more than the total.
    @Test func theTotalSpansAllAttempts() async throws {
        let silent = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in await connection.untilClosed() })
        let upstreams = (0..<3).map { ("u\($0)", UpstreamKind.ollama, silent.port) }
        try await RunningGateway.run(upstreams) {
            $0.server.totalTimeout = .seconds(3)
            $0.webllm.fallbackMessage = ""
            for index in 0..<3 { $0.upstreams[index].timeouts.firstToken = .seconds(2) }
        } _: { gateway in
            let reply = try await gateway.infer("x")
            #expect(reply.status == 504)
            #expect(silent.state.requests.count { $0.line.hasPrefix("POST") } == 2)
        }
        await silent.close()
    }
}
