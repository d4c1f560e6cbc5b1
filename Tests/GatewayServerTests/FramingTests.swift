import GatewayCore
import Glibc
import Logging
import NIOCore
import NIOEmbedded
import NIOHTTP1
import Support
import Testing

@testable import GatewayServer

/// HTTP/1.1 framing and smuggling, case by case (RFC 9112). Each is sent as raw bytes to a gateway whose one upstream
/// must see nothing of it.
@Suite(.timeLimit(.minutes(2)))
struct FramingTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var id: String
        var bytes: [UInt8]
        /// Statuses of all final answers, in order; the last may be any of several.
        var statuses: [[Int]]
        var testDescription: String { id }

        init(_ id: String, _ text: String, _ statuses: [Int]...) {
            self.id = id
            bytes = Array(text.utf8)
            self.statuses = statuses
        }

        init(_ id: String, bytes: [UInt8], _ statuses: [Int]...) {
            self.id = id
            self.bytes = bytes
            self.statuses = statuses
        }
    }

    private static let post = "POST /webllm/api/infer HTTP/1.1\r\nHost: a\r\n"
    private static let get = "GET /webllm/api/models HTTP/1.1\r\nHost: a\r\n"
    private static let chunked = post + "Transfer-Encoding: chunked\r\n\r\n"
    private static let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"

    private static func length(_ id: String, _ value: String, _ statuses: [Int] = [400]) -> Case {
        Case(id, post + "Content-Length: \(value)\r\n\r\nhello", statuses)
    }

    private static func coding(_ id: String, _ value: String, _ statuses: [Int]) -> Case {
        Case(id, post + "Transfer-Encoding: \(value)\r\n\r\n0\r\n\r\n", statuses)
    }

    /// Refused, and the connection closed: nothing that follows may be taken for a request.
    static let refused: [Case] = [
        Case("F01", post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil, [400]),
        Case("F02", post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + evil, [400]),
        Case("F03", post + "Content-Length: 1\r\nContent-Length: 0\r\n\r\nZ" + evil, [400]),
        Case("F04", post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nZ" + evil, [400]),
        length("F05", "1, 1"), length("F08", "+5"), length("F09", "-5"), length("F10", "0x5"), length("F11", "1_0"),
        length("F12", "1Z"), length("F13", "5 6"), length("F14", "5,"), length("F16", "18446744073709551616"),
        Case("F20", post + "Content-Length : 5\r\n\r\nhello" + evil, [400]),
        Case("F21", post + "Content-Length\t: 5\r\n\r\nhello" + evil, [400]),
        Case("F23", post + "Content-Length 5\r\n\r\nhello" + evil, [400]),
        Case("F24", post + "Content_Length: 5\r\n\r\nhello" + evil, [400]),
        Case("F26", post + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [400, 501]),
        Case("F27", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", [400, 501]),
        coding("F28", ",chunked", [400, 501]), coding("F31", "gzip, chunked", [501]),
        coding("F32", "chunked, gzip", [400, 501]), coding("F40", "\u{0b}chunked", [400, 501]),
        coding("F42", "", [400, 501]),
        Case("F51", chunked + "5 \r\nhello\r\n0\r\n\r\n" + evil, [400]),
        Case("F52", chunked + "10000000000000005\r\nhello" + evil, [400]),
        Case("F55", chunked + "5\nhello\r\n0\r\n\r\n" + evil, [400]),
        Case("F56", chunked + "5\r\nhello\n0\r\n\r\n" + evil, [400]),
        Case("F59", chunked + "0\n\r\n" + evil, [400]),
        Case("F61", chunked + "5\r\rhello\r\n0\r\n\r\n" + evil, [400]),
        Case("F62", chunked + "5\rXhello\r\n0\r\n\r\n" + evil, [400]),
        Case("F63", chunked + "2;\nxx\r\n45\r\n0\r\n\r\n" + evil, [400]),
        Case(
            "F68",
            post + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5;"
                + String(repeating: "a", count: 65536) + "\r\nhello\r\n0\r\n\r\n", [400, 413]),
        Case("F69", chunked + "INVALID!!!\r\n" + evil, [400]),
        Case("F70", chunked + "0\r\nContent-Length: 50\r\n\r\n" + evil, [400]),
        Case("F71", chunked + "0\r\nTransfer-Encoding: chunked\r\n\r\n" + evil, [400]),
        Case("F75", "GET / HTTP/1.1\nHost: a\n\n", [400]),
        Case("F77", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", [400]),
        Case("F78", get + "X: va\rlue\r\n\r\n", [400]),
        Case("F79", get + "X: a\0b\r\n\r\n", [400]), Case("F80", get + "X: a\u{07}b\r\n\r\n", [400]),
        Case("F81", get + "X: a\u{7f}b\r\n\r\n", [400]),
        Case("F83", get + "X: a\r\n b\r\n\r\n", [400]),
        Case("F84", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", [400]),
        Case("F85", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", [400]), Case("F86", get + ": x\r\n\r\n", [400]),
        Case("F87", get + "garbage\r\n\r\n", [400]), Case("F88", get + "X[]: y\r\n\r\n", [400]),
        Case("F95", "GET / HTTP/1.1\r\nHost: a/b?c@d\r\n\r\n", [400]),
        Case("F96", "GET / HTTP/1.1\r\nHost: u:p@a\r\n\r\n", [400]),
        Case("Host :::", "GET / HTTP/1.1\r\nHost: :::\r\n\r\n", [400]),
        Case("Host with a port out of range", "GET / HTTP/1.1\r\nHost: a:99999999\r\n\r\n", [400]),
        Case("Host with a signed port", "GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", [400]),
        Case("Host with brackets around nothing", "GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n", [400]),
        Case("Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", [400]),
        Case("no Host", "GET / HTTP/1.1\r\n\r\n", [400]), Case("two Hosts", get + "Host: b\r\n\r\n", [400]),
        Case("F97", "GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", [400, 421]),
        Case("F100", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
        Case("F101", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
        Case("F102", bytes: Array("GET /".utf8) + [0xFF] + Array(" HTTP/1.1\r\nHost: a\r\n\r\n".utf8), [400]),
        Case("F104", "GET foo HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
        Case("F110", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", [400]),
        Case("F111", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", [400]),
        Case("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", [400]),
        Case("F114", "DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n", [400, 405, 501]),
        Case("F117", "get / HTTP/1.1\r\nHost: a\r\n\r\n", [400, 501]),
        Case("F118", "SLUDGE / HTTP/1.1\r\nHost: a\r\n\r\n", [400, 501]),
        Case("head too large", get + "X: " + String(repeating: "a", count: 20_000) + "\r\n\r\n", [431]),
        Case(
            "header flood", get + String(repeating: "X: \(String(repeating: "a", count: 900))\r\n", count: 200), [431]),
        Case("body too large", post + "Content-Length: 99999999\r\n\r\n", [413]),
        Case("HTTP/1.0 chunked", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [400]),
        Case("F124", get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nRAW" + evil, [200]),
        Case("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + evil, [400, 404, 405]),
        Case(
            "F19", bytes: Array((post + "Content-Length: ").utf8) + [0xD9, 0xA5] + Array("\r\n\r\nhello".utf8), [400]),
        Case("F22", bytes: Array((post + "Content-Length").utf8) + [0x85] + Array(": 5\r\n\r\nhello".utf8), [400]),
        coding("F39", "chunked\t", [400, 501]), coding("F41", "chunked\0", [400, 501]),
        Case("F60", chunked + "0\r\n\n", [400]),
        Case("F76", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", [400]),
        Case("F89", bytes: Array(get.utf8) + [0xEF] + Array("oo: bar\r\n\r\n".utf8), [400]),
        Case("F90", post + "Transfer-\r\nEncoding: chunked\r\n\r\n0\r\n\r\n", [400]),
        Case("F91", "GET / HTTP/1.1\r\nHost: a\r\n\rZGET /evil: HTTP/1.1\r\n\r\n", [400]),
        Case("F103", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", [400]),
        Case("F109", "GET /\r\n\r\n", [400]),
        Case(
            "F126",
            get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + evil,
            [200]),
        Case(
            "F124 with a body",
            post + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello" + evil, [415]),
        Case(
            "F126 with chunks",
            post + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
                + "5\r\nhello\r\n0\r\n\r\n" + evil, [415]),
        Case("F127 with a body", post + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello" + evil, [415]),
        Case("expects something", post + "Expect: more\r\nContent-Length: 1\r\n\r\n", [417]),
    ]

    @Test(arguments: refused)
    func isRefusedAndTheConnectionClosed(_ item: Case) async throws {
        try await check(item, closes: true)
    }

    /// The same verdict however the bytes are cut.
    @Test(arguments: refused.filter { $0.bytes.count < 1000 })
    func isRefusedByteByByte(_ item: Case) async throws {
        try await check(item, closes: true, byteByByte: true)
    }

    /// Understood; further requests on the connection are answered in order.
    static let accepted: [Case] = [
        Case("F45", post + "TRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n" + get + "\r\n", [415], [200]),
        Case("F15", post + "Content-Length: 005\r\n\r\nhello" + get + "\r\n", [415], [200]),
        Case("F53", chunked + "000000000000000000005\r\nhello\r\n0\r\n\r\n" + get + "\r\n", [415], [200]),
        Case("F99", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + get + "\r\n", [204], [200]),
        Case("F119", get + "Content-Length: 10\r\n\r\n1234567890" + evil, [200], [404]),
        Case("F120", post + "Content-Type: application/json\r\n\r\n" + evil, [411], [404]),
        Case("Host with an address", "GET /webllm/api/health HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", [200]),
        Case("Host with an empty port", "GET /webllm/api/health HTTP/1.1\r\nHost: a:\r\n\r\n", [200]),
        Case("F121", get + "\r\n" + evil, [200], [404]),
        Case("F72", chunked + "0\r\nAuthorization: Bearer GOOD\r\n\r\n" + get + "\r\n", [415], [200]),
        Case("F73", chunked + "0\r\nX:POST / HTTP/1.1\r\n\r\n" + get + "\r\n", [415], [200]),
        Case("F108", String(repeating: "\r\n", count: 1000) + get + "\r\n", [200]),
        Case("leading line ends", "\r\n\r\n" + get + "\r\n", [200]),
        Case("TRACE", "TRACE /webllm/api/models HTTP/1.1\r\nHost: a\r\n\r\n", [405]),
    ]

    @Test(arguments: accepted)
    func isAnsweredInOrder(_ item: Case) async throws { try await check(item, closes: false) }

    /// F135: the same answers wherever the bytes are cut.
    @Test(arguments: refused + accepted)
    func theCutChangesNothing(_ item: Case) throws {
        guard item.bytes.count < 1000 else { return }
        let gateway = try Self.offlineGateway()
        let whole = try Self.statuses(of: [item.bytes[...]], gateway)
        #expect(whole.count == item.statuses.count)
        for cut in 1..<item.bytes.count {
            let pieces = [item.bytes[..<cut], item.bytes[cut...]]
            #expect(try Self.statuses(of: pieces, gateway) == whole, "cut at \(cut)")
        }
    }

    /// Its connections have no sockets, and no upstream is asked.
    private static func offlineGateway() throws -> Gateway {
        var configuration = GatewayConfiguration()
        configuration.log.access = false
        return try Gateway(
            configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            logSink: LogSink(descriptor: -1))
    }

    private static func statuses(of pieces: [ArraySlice<UInt8>], _ gateway: Gateway) throws -> [String] {
        let channel = EmbeddedChannel()
        try Listeners.serve(channel, by: gateway)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        for piece in pieces {
            _ = try? channel.writeInbound(ByteBuffer(bytes: piece))
            channel.embeddedEventLoop.run()
        }
        var reply = ""
        while let part = try channel.readOutbound(as: ByteBuffer.self) { reply += String(buffer: part) }
        _ = try? channel.finish(acceptAlreadyClosed: true)
        return reply.matches(of: /HTTP\/1\.1 (\d{3})/).map { String($0.1) }
    }

    /// Others on the event loop do not wait for all that one client sent at once.
    @Test func aThousandRequestsAreServedInTurns() throws {
        let gateway = try Self.offlineGateway()
        let channel = EmbeddedChannel()
        try Listeners.serve(channel, by: gateway)
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        func answers() throws -> Int {
            var count = 0
            while let part = try channel.readOutbound(as: ByteBuffer.self) {
                count += String(buffer: part).ranges(of: "HTTP/1.1 200 OK").count
            }
            return count
        }
        try channel.writeInbound(
            ByteBuffer(string: String(repeating: RawClient.text("GET", "/healthz"), count: 900)))
        #expect(try answers() == 16)
        channel.embeddedEventLoop.run()
        #expect(try answers() == 0, "the loop looks at its sockets first")
        channel.embeddedEventLoop.advanceTime(by: .microseconds(50))
        #expect(try answers() == 16)
        channel.embeddedEventLoop.advanceTime(by: .milliseconds(10))
        #expect(try answers() == 900 - 32)
        for _ in 1...40 {
            try channel.writeInbound(ByteBuffer(string: RawClient.text("GET", "/healthz")))
            #expect(try answers() == 1)
        }
        _ = try? channel.finish(acceptAlreadyClosed: true)
    }

    /// What both nginx and HAProxy refuse must not pass here. Without them on the machine there is nothing to compare.
    /// Foundation's Process reads past a buffer of its own when it starts one, which the address sanitizer stops at.
    @Test(.enabled(if: getenv("WEBLLM_GATEWAY_TESTS_WITHOUT_PROCESSES") == nil))
    func nothingPassesThatBothNginxAndHAProxyRefuse() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "ok") }
        }
        var refusals: [PeerProxy.Kind: Set<String>] = [:]
        for kind in PeerProxy.Kind.allCases {
            guard let proxy = try await PeerProxy.start(kind, upstream: upstream.port) else { continue }
            defer { proxy.stop() }
            let client = RawClient(port: proxy.port)
            for item in Self.accepted {
                let reply = try await client.connect { connection in
                    try? await connection.send(bytes: item.bytes)
                    return try await connection.reply()
                }
                // No answer at all is a refusal too.
                if reply.status == 0 || reply.status >= 400 { refusals[kind, default: []].insert(item.id) }
            }
        }
        if let nginx = refusals[.nginx], let haproxy = refusals[.haproxy] {
            // The gateway knows no TRACE either, and says so without closing.
            #expect(nginx.intersection(haproxy).subtracting(["TRACE"]).isEmpty)
        }
        await upstream.close()
    }

    @Test func afterConnectionCloseNothingIsRead() async throws {
        try await check(Case("F122", Self.get + "Connection: close\r\n\r\n" + Self.evil, [200]), closes: true)
    }

    @Test func theFirstAnswerIsWholeBeforeGarbageIsRefused() async throws {
        try await check(Case("F123", Self.get + "\r\n\0\u{01}garbage", [200], [400]), closes: true)
    }

    @Test func trailingGarbageAfterAChunkedBody() async throws {
        try await check(Case("F74", Self.chunked + "0\r\n\r\n\0", [415], [400]), closes: true)
    }

    /// F134: a request that is cut off anywhere is no request.
    @Test func aRequestThatEndsEarlyReachesNobody() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let json = ("Content-Type", "application/json")
            let body = #"{"prompt":"x"}"#
            let chunked = RawClient.text(
                "POST", "/webllm/api/infer", headers: [json, ("Transfer-Encoding", "chunked")])
            for text in [
                RawClient.text("POST", "/webllm/api/infer", headers: [json], body: body),
                chunked + "\(String(body.utf8.count, radix: 16))\r\n\(body)\r\n0\r\n\r\n",
            ] {
                let whole = Array(text.utf8)
                for cut in 1..<whole.count {
                    try await gateway.client.connect { try await $0.send(bytes: Array(whole[..<cut])) }
                }
            }
            #expect(try await gateway.client.request("GET", "/webllm/api/models").status == 200)
            #expect(!upstream.state.requests.contains { $0.line.hasPrefix("POST") })
        }
        await upstream.close()
    }

    private func check(_ item: Case, closes: Bool, byteByByte: Bool = false) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            try await gateway.client.connect { connection in
                if byteByByte {
                    // A refusal may close the connection before its last byte is sent.
                    for byte in item.bytes { try? await connection.send(bytes: [byte]) }
                } else {
                    try? await connection.send(bytes: item.bytes)
                }
                for statuses in item.statuses {
                    let reply = try await connection.reply()
                    #expect(statuses.contains(reply.status), "\(reply)")
                    #expect(reply.isWhole || reply.status == 204)
                }
                if closes { #expect(try await connection.readToEnd().isEmpty) }
            }
            #expect(upstream.state.requests.allSatisfy { $0.line.hasPrefix("GET /api/") })
            // The gateway serves on.
            let after = try await gateway.client.request("GET", "/webllm/api/models")
            #expect(after.status == 200)
        }
        await upstream.close()
    }

    /// F138, on every route.
    @Test func headAnswersWithoutABody() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            // What some routes answer changes with the first probe.
            while gateway.status("u").probe == .unknown { await Task.yield() }
            for (routes, client) in [(Routes.client, gateway.client), (Routes.admin, gateway.admin)] {
                let gets = (routes.literal.values.flatMap { $0 } + routes.prefixed).filter { $0.method == .GET }
                for path in gets.map({ $0.path.replacing("*", with: "x") }) {
                    let text = RawClient.text("HEAD", path, headers: [("Connection", "close")])
                    let reply = try await client.exchange(text)
                    #expect(reply.firstRange(of: "\r\n\r\n")?.upperBound == reply.endIndex, "\(path): \(reply)")
                    if path == "/admin/events" { continue }  // to GET it has no end
                    let whole = try await client.request("GET", path)
                    #expect(RawReply(head: reply).status == whole.status, "\(path)")
                }
            }
        }
    }

    /// curl --http2 and Java's client send such heads with each request: it is answered in HTTP/1.1.
    @Test(arguments: [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    ])
    func anUpgradeIsNotTakenAndItsRequestAnswered(_ upgrade: String) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let body = #"{"prompt":"hello"}"#
            let head = Self.post + "Content-Type: application/json\r\n" + upgrade
            for framed in [
                "Content-Length: \(body.utf8.count)\r\n\r\n\(body)",
                "Transfer-Encoding: chunked\r\n\r\n\(String(body.utf8.count, radix: 16))\r\n\(body)\r\n0\r\n\r\n",
            ] {
                let answers = try await gateway.client.exchange(head + framed + Self.evil)
                #expect(answers.hasPrefix("HTTP/1.1 200 OK\r\n") && answers.contains("Connection: close"), "\(answers)")
                #expect(answers.matches(of: /HTTP\/1\.1 \d/).count == 1, "\(answers)")
            }
            let asked = upstream.state.requests.filter { $0.line.hasPrefix("POST") }
            #expect(asked.count == 2 && asked.allSatisfy { $0.body.contains("hello") })
        }
        await upstream.close()
    }

    /// F127: who is refused is told at once, and not asked for the body.
    @Test(arguments: [
        (404, "POST /nothing", "Expect: 100-continue\r\nContent-Length: 5\r\n"),
        (404, "POST /nothing", "Content-Length: 1000000\r\n"),
        (405, "PUT /webllm/api/models", "Expect: 100-continue\r\nContent-Length: 5\r\n"),
        (413, "POST /webllm/api/infer", "Expect: 100-continue\r\nContent-Length: 99999999\r\n"),
        (415, "POST /webllm/api/infer", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"),
        (417, "POST /webllm/api/infer", "Expect: 200-ok\r\nContent-Length: 5\r\n"),
    ])
    func whoIsRefusedIsNotAskedForTheBody(_ status: Int, _ line: String, _ headers: String) async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            let answers = try await gateway.client.exchange("\(line) HTTP/1.1\r\nHost: a\r\n\(headers)\r\n")
            #expect(answers.hasPrefix("HTTP/1.1 \(status) "), "\(answers)")
            #expect(answers.contains("Connection: close"))
        }
    }

    @Test func ofARefusedBodyNoMoreIsReadThanALittle() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(
                    Self.chunked + "20000\r\n" + String(repeating: "x", count: 0x1_8000))
                let reply = try await connection.reply()
                #expect(reply.status == 415 && reply.headers["connection"] == "close")
                #expect(try await connection.readToEnd().isEmpty)
            }
        }
    }

    @Test func continueIsSentForABodyThatIsAwaited() async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, #""x""#) })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            try await gateway.client.connect { connection in
                let body = #"{"prompt":"x"}"#
                try await connection.send(
                    Self.post + "Content-Type: application/json\r\nExpect: 100-continue\r\n"
                        + "Content-Length: \(body.utf8.count)\r\n\r\n")
                #expect(try await connection.read(through: "\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n")
                try await connection.send(body)
                let reply = try await connection.reply()
                #expect(reply.status == 200)
            }
        }
        await upstream.close()
    }

    @Test func aHeadThatDoesNotComeIsTimedOut() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) {
            // Long enough for a slow machine to connect and send within it.
            $0.server.headTimeout = .seconds(1)
        } _: { gateway in
            try await gateway.client.connect { connection in
                // The timer of a further head starts at its first byte, so that a slow machine cannot blur it.
                try await connection.send(Self.get + "\r\n")
                let first = try await connection.reply()
                #expect(first.status == 200)
                try await connection.send("GET / HTTP/1.1\r\nHo")
                let second = try await connection.reply()
                #expect(second.status == 408)
                #expect(try await connection.readToEnd().isEmpty)
            }
            #expect(try await gateway.client.exchange("") == "")
        }
    }

    @Test func aHeadThatBeganTogetherWithThePreviousRequestIsTimedOut() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) {
            $0.server.headTimeout = .seconds(1)
        } _: { gateway in
            let body = Self.post + "Content-Length: 5\r\n\r\nhello"
            for (request, status) in [(Self.get + "\r\n", 200), (body, 415)] {
                try await gateway.client.connect { connection in
                    try await connection.send(request + "GET / HTTP/1.1\r\nHo")
                    #expect(try await connection.reply().status == status)
                    #expect(try await connection.reply().status == 408)
                    #expect(try await connection.readToEnd().isEmpty)
                }
            }
        }
    }

    /// The last line end of a head may come alone: it is no begin of another head, which would be timed out.
    @Test(arguments: ["\r\n", "\n"]) func aConnectionWhoseRequestEndedInAPieceOfItsOwnIsKept(_ end: String) async throws
    {
        try await RunningGateway.run([("u", .ollama, 9)]) {
            $0.server.headTimeout = .seconds(3)
        } _: { (gateway: RunningGateway) async throws in
            let client = gateway.client
            let whole = Self.get + "\r\n"
            try await client.connect { connection in
                try await connection.send(String(decoding: whole.utf8.dropLast(end.utf8.count), as: UTF8.self))
                // Time for the piece to be read by itself.
                for _ in 0..<4 { _ = try await client.request("GET", "/healthz") }
                try await connection.send(end)
                #expect(try await connection.reply().status == 200)
                // What is timed out tells that the time has passed.
                let other = try await client.connect { other in
                    try await other.send("GET / HTTP/1.1\r\nHo")
                    return try await other.reply()
                }
                #expect(other.status == 408)
                try await connection.send(whole)
                #expect(try await connection.reply().status == 200)
            }
        }
    }

    @Test(arguments: [true, false])
    func aBodyThatDoesNotComeIsTimedOut(isIdle: Bool) async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) {
            if isIdle {
                $0.server.bodyIdleTimeout = .milliseconds(100)
            } else {
                $0.server.bodyTimeout = .milliseconds(100)
            }
        } _: { gateway in
            try await gateway.client.connect { connection in
                try await connection.send(
                    Self.post + "Content-Type: application/json\r\nContent-Length: 5\r\n\r\n{")
                let reply = try await connection.reply()
                #expect(reply.status == 408 && reply.headers["connection"] == "close")
            }
        }
    }

    @Test func anIdleConnectionIsClosed() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) {
            $0.server.keepAliveTimeout = .milliseconds(100)
        } _: { gateway in
            let start = ContinuousClock.now
            try await gateway.client.connect { connection in
                try await connection.send(Self.get + "\r\n")
                #expect(try await connection.reply().status == 200)
                #expect(try await connection.readToEnd().isEmpty)
            }
            #expect(ContinuousClock.now - start < .seconds(30), "the default is a minute")
        }
    }

    @Test func aRefusalAfterAGoodHeadHasTheRequestsID() async throws {
        try await RunningGateway.run([]) {
            $0.server.maxBody = 2048
            $0.server.bodyIdleTimeout = .milliseconds(100)
        } _: { gateway in
            for length in [2049, 2000] {  // too large; and never sent
                let reply = try await gateway.client.request(
                    "POST", "/webllm/api/infer",
                    headers: [
                        ("Content-Type", "application/json"), ("X-Request-Id", "mine"), ("Content-Length", "\(length)"),
                    ])
                #expect(reply.status == (length > 2048 ? 413 : 408))
                #expect(reply.headers["x-request-id"] == "mine")
            }
        }
    }

    /// The time that a connection lingers after its last reply begins when the client has taken that.
    @Test(arguments: ["close", "keep-alive", "keep-alive, and the gateway drains"])
    func aReplyIsNotCutForAClientThatReadsSlowly(_ connection: String) async throws {
        let size = 15 << 20  // more than the kernel keeps of it
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                for _ in 0..<15 {
                    try await connection.chunk(Scripts.token("\"\(String(repeating: "x", count: size / 15))\""))
                }
                try await connection.chunk(Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.threads = 1
            $0.server.keepAliveTimeout = .seconds(1)
        } _: { gateway in
            let isClosing = connection == "close"
            let drains = connection.hasSuffix("drains")
            let reply = try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer",
                        headers: [("Content-Type", "application/json")] + (isClosing ? [("Connection", "close")] : []),
                        body: #"{"prompt":"x"}"#))
                await upstream.until { $0.requests.contains { $0.line.hasPrefix("POST") } }
                while gateway.server.gateway.runningCount > 0 { await Task.yield() }
                // The clock is an idle connection, whose time begins later than this one's would.
                let isIdle = Gate()
                async let clock = gateway.client.connect { clock in
                    try await clock.send(RawClient.text("GET", "/healthz"))
                    _ = try await clock.reply()
                    isIdle.open()
                    return try await clock.readToEnd()
                }
                await isIdle.wait()
                async let drain: Void = drains ? gateway.server.drain() : ()
                #expect(try await clock.isEmpty)
                let reply = try await connection.reply()
                await drain
                return reply
            }
            #expect(reply.isWhole && reply.body.utf8.count > size)
        }
        await upstream.close()
    }
}
