import CurlMulti
import Support
import Testing

/// What libcurl makes of replies that are not as they should be. None may crash, hang or be taken for another fault.
@Suite(.timeLimit(.minutes(1)))
struct DamagedReplyTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var name: String
        /// What the upstream sends before it closes; nil resets instead.
        var bytes: String?
        /// nil: curl sees nothing wrong, and the body's own end must tell.
        var reason: TransferFailure.Reason?
        var testDescription: String { name }
    }

    static let cases: [Case] = [
        Case(name: "closed without a byte", bytes: "", reason: .noReply),
        Case(name: "reset after the request", bytes: nil, reason: .noReply),
        Case(name: "cut inside a chunk", bytes: chunked + "5\r\nhel", reason: .cut),
        Case(name: "cut before the last chunk", bytes: chunked + "5\r\nhello\r\n", reason: .cut),
        Case(name: "chunk size that is no number", bytes: chunked + "zz\r\nhello\r\n0\r\n\r\n", reason: .cut),
        Case(name: "chunk size of 17 digits", bytes: chunked + "11111111111111111\r\nx", reason: .cut),
        Case(
            name: "cut inside Content-Length", bytes: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", reason: .cut),
        Case(
            name: "negative Content-Length", bytes: "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
            reason: .protocolError),
        Case(
            name: "two lengths", bytes: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 3\r\n\r\nabc",
            reason: nil),
        Case(name: "delimited by its end", bytes: "HTTP/1.1 200 OK\r\n\r\nabc", reason: nil),
        Case(name: "status 999", bytes: "HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n", reason: nil),
        Case(name: "no HTTP at all", bytes: "SSH-2.0-OpenSSH_9.2\r\n", reason: .protocolError),
        Case(
            name: "redirect to a file",
            bytes: "HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", reason: nil),
        Case(
            name: "gzip unasked", bytes: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            reason: nil),
        Case(
            name: "head of 100 KiB",
            bytes: "HTTP/1.1 200 OK\r\n"
                + String(repeating: "X-A: \(String(repeating: "a", count: 1000))\r\n", count: 100),
            reason: .headTooLarge),
        Case(
            name: "20 000 interim heads", bytes: String(repeating: "HTTP/1.1 100 Continue\r\n\r\n", count: 20_000),
            reason: .headTooLarge),
    ]

    private static let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    @Test(arguments: cases)
    func isToldByItsReason(_ damaged: Case) async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            if let bytes = damaged.bytes {
                try await connection.send(bytes)
            } else {
                try await connection.reset()
            }
        }
        let engine = try CurlEngine()
        let (_, recorder) = engine.post(upstream.port, "{}")
        #expect(await recorder.end().failure?.reason == damaged.reason)
        #expect(upstream.state.requests.count == 1)
        engine.shutdown()
        await upstream.close()
    }

    /// libcurl would send the POST again by itself when a reused connection dies before the reply: a generation would
    /// run twice. What becomes of the replay's own connection says nothing of the request that was sent.
    @Test(arguments: [false, true]) func aPostIsNeverReplayed(_ thatWasItsEnd: Bool) async throws {
        let mayReset = Gate()
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply(body: "first")
            _ = try await connection.request()
            await mayReset.wait()
            try await connection.reset()
        }
        let engine = try CurlEngine()
        let (_, first) = engine.post(upstream.port, "1")
        #expect(await first.end().failure == nil)
        let (_, second) = engine.post(upstream.port, "2")
        await upstream.until { $0.requests.count == 2 }
        if thatWasItsEnd { await upstream.close() }
        mayReset.open()
        let reason = await second.end().failure?.reason
        #expect(reason == .noReply)
        #expect(upstream.state.requests.map(\.body) == ["1", "2"])
        engine.shutdown()
        await upstream.close()
    }

    /// 100 MB to a receiver that acknowledges nothing: the transfer pauses with one window delivered.
    @Test func aReceiverThatDoesNotReadPausesTheTransfer() async throws {
        let piece = [UInt8](repeating: 65, count: 1 << 20)
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nContent-Length: \(100 << 20)\r\n\r\n")
            for _ in 0..<100 { try await connection.send(bytes: piece) }
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let recorder = TransferRecorder(keepsBody: false)
        let (transfer, _) = engine.run(.example(.get, upstream.port), recorder: recorder)
        await recorder.until { $0.bodyBytes >= 256 << 10 }
        // Another transfer goes its whole way meanwhile: the loop is not held up.
        let other = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply(body: "x")
        }
        let (_, quick) = engine.get(other.port)
        #expect(await quick.end().failure == nil)
        #expect(recorder.seen.bodyBytes <= 256 << 10 + 16 << 10)
        // Acknowledged, it runs to its end.
        let total = 100 << 20
        var acknowledged = 0
        while acknowledged < total {
            let received = recorder.seen.bodyBytes
            transfer.acknowledge(received - acknowledged)
            acknowledged = received
            await recorder.until { $0.bodyBytes > received || $0.bodyBytes == total }
        }
        #expect(await recorder.end().failure == nil)
        engine.shutdown()
        await upstream.close()
        await other.close()
    }
}
