import CurlMulti
import Foundation
import Glibc
import Support
import Synchronization
import Testing

/// What a transfer does in the ordinary case.
@Suite(.timeLimit(.minutes(1)))
struct TransferTests {
    @Test func postsTheBodyAndDeliversHeadBodyEnd() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply("200 OK", "Content-Type: text/x\r\nRetry-After: 7\r\n", body: "hello")
        }
        let engine = try CurlEngine()
        let (_, recorder) = engine.post(upstream.port, #"{"a":1}"#)
        let end = await recorder.end()
        #expect(end.failure == nil)
        #expect(recorder.seen.head == ResponseHead(status: 200, retryAfter: "7"))
        #expect(recorder.seen.body == Array("hello".utf8))
        let request = try #require(upstream.state.requests.first)
        #expect(request.line == "POST /x HTTP/1.1")
        #expect(request.body == #"{"a":1}"#)
        #expect(request.headers["x-test"] == "yes")
        #expect(request.headers["expect"] == nil)
        engine.shutdown()
        await upstream.close()
    }

    @Test func aRefusedConnectionIsToldInWords() async throws {
        let upstream = try await FakeUpstream.start { _ in }
        await upstream.close()
        let engine = try CurlEngine()
        let failure = try #require(await engine.get(upstream.port).1.end().failure)
        #expect(failure.reason == .connect)
        #expect(try #require(failure.detail).contains("Failed to connect to 127.0.0.1 port \(upstream.port)"))
        engine.shutdown()
    }

    /// A handle that served another target before must not go there once more.
    @Test func aTargetThatCurlCannotReadReachesNobody() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        let engine = try CurlEngine()
        #expect(await engine.get(upstream.port).1.end().failure == nil)
        let target = TransferTarget(isTLS: false, host: "127.0.0.1", port: upstream.port, path: "/\u{1}")
        let request = TransferRequest(method: .get, target: target, headers: try #require(HeaderList([])))
        #expect(try #require(await engine.run(request).1.end().failure).detail?.contains("URL") == true)
        #expect(await engine.get(upstream.port).1.end().failure == nil)
        #expect(upstream.state.requests.map(\.line) == ["GET /x HTTP/1.1", "GET /x HTTP/1.1"])
        engine.shutdown()
        await upstream.close()
    }

    @Test func connectionsAreReused() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        let engine = try CurlEngine()
        for _ in 0..<5 { #expect(await engine.get(upstream.port).1.end().failure == nil) }
        #expect(upstream.state.opened == 1)
        engine.shutdown()
        await upstream.close()
    }

    /// What an upstream sends on an idle connection must not become the answer to the next request.
    @Test func bytesThatNobodyAskedForAnswerNobody() async throws {
        let isIdle = (0..<20).map { _ in Gate() }
        let upstream = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                try await connection.reply(body: request.body)
                await isIdle[Int(request.body)!].wait()
                try? await connection.reply(body: request.body)
            }
        }
        let engine = try CurlEngine()
        for round in isIdle.indices {
            let (_, recorder) = engine.post(upstream.port, "\(round)")
            #expect(await recorder.end().failure == nil)
            #expect(String(decoding: recorder.seen.body, as: UTF8.self) == "\(round)")
            isIdle[round].open()
            await upstream.until { $0.closed == round + 1 }
        }
        engine.shutdown()
        await upstream.close()
    }

    /// curl may read the head, and body until the window is full, in the turn in which it sends the request on a connection
    /// that was idle: it then never wants the socket watched, which is no idle one all the same.
    @Test func aTransferThatPausesInItsFirstTurnLosesNothing() async throws {
        let long = (0..<40_000).map { UInt8(truncatingIfNeeded: $0 / 64) }
        var configuration = CurlEngineConfiguration()
        configuration.window = 1
        let upstream = try await EagerUpstream(configuration) { $0 == "POST" ? long : [1] }
        for _ in 0..<20 {
            // One that leaves its connection idle, then one that pauses.
            try #require(await upstream.engine.get(upstream.port).1.end().failure == nil)
            let (transfer, recorder) = upstream.engine.post(upstream.port, "")
            var received = 0
            while received < long.count, recorder.seen.ends.isEmpty {
                await recorder.until { [received] in $0.bodyBytes > received || !$0.ends.isEmpty }
                let seen = recorder.seen.bodyBytes
                transfer.acknowledge(seen - received)
                received = seen
            }
            try #require(await recorder.end().failure == nil)
            try #require(recorder.seen.body == long)
        }
        await upstream.close()
    }

    /// It may not have read the body, and would take it for the begin of the next request.
    @Test(arguments: [("200 OK", 1), ("503 Busy", 3)])
    func aConnectionThatRefusedABodyIsNotUsedAgain(_ status: String, _ connections: Int) async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(status, body: "x") }
        }
        let engine = try CurlEngine()
        for _ in 0..<3 { #expect(await engine.post(upstream.port, "body").1.end().failure == nil) }
        #expect(upstream.state.opened == connections)
        engine.shutdown()
        await upstream.close()
    }

    /// S23: a connection that is never idle is replaced all the same, so that a name's new address is seen.
    @Test func aBusyConnectionFollowsItsName() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { _ in ["127.0.0.1"] }
        configuration.maxConnectionAge = .seconds(3)
        let engine = try CurlEngine(configuration)
        var requests = 0
        while upstream.state.opened < 2 {
            let (_, recorder) = engine.get(upstream.port, host: "name.test")
            #expect(await recorder.end().failure == nil)
            requests += 1
        }
        #expect(requests > 2, "it was used again before")
        engine.shutdown()
        await upstream.close()
    }

    @Test func connectionsTooOldForReuseAreClosed() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        var configuration = CurlEngineConfiguration()
        configuration.maxIdleAge = .milliseconds(20)
        let engine = try CurlEngine(configuration)
        for round in 1...2 {
            let (_, recorder) = engine.get(upstream.port)
            #expect(await recorder.end().failure == nil)
            await upstream.until { $0.closed == round }
        }
        #expect(upstream.state.opened == 2)
        engine.shutdown()
        await upstream.close()
    }

    @Test func idleConnectionsThatTheUpstreamEndedAreClosed() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply(body: "x")
            try await connection.endOutput()
            await connection.untilClosed()
        }
        var configuration = CurlEngineConfiguration()
        configuration.maxIdleAge = .milliseconds(200)
        let engine = try CurlEngine(configuration)
        let (_, recorder) = engine.get(upstream.port)
        #expect(await recorder.end().failure == nil)
        await upstream.until { $0.closed == 1 }
        engine.shutdown()
        await upstream.close()
    }

    @Test func interimHeadsAndTrailersAreNotTheHead() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 103 Early Hints\r\nContent-Type: wrong\r\n\r\n")
            try await connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try await connection.chunk("ab")
            try await connection.send("0\r\nContent-Type: trailer\r\n\r\n")
        }
        let engine = try CurlEngine()
        let (_, recorder) = engine.get(upstream.port)
        #expect(await recorder.end().failure == nil)
        #expect(recorder.seen.head == ResponseHead(status: 200))
        #expect(recorder.seen.body == Array("ab".utf8))
        engine.shutdown()
        await upstream.close()
    }

    @Test func namedHostsAreLookedUp() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply(body: "x")
        }
        let engine = try CurlEngine()
        let (_, found) = engine.get(upstream.port, host: "localhost")
        #expect(await found.end().failure == nil)
        let (_, missing) = engine.get(upstream.port, host: "no-such-host.invalid")
        #expect(await missing.end().failure?.reason == .resolve)
        engine.shutdown()
        await upstream.close()
    }

    @Test func loopsAreFilledOneAfterTheOther() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try await connection.chunk("token")
            _ = try await connection.request()  // until it is closed
        }
        var configuration = CurlEngineConfiguration()
        configuration.loops = 2
        configuration.transfersPerLoop = 2
        let engine = try CurlEngine(configuration)
        let threads = Mutex<[pthread_t]>([])
        func stream() async -> (Transfer, TransferRecorder) {
            let recorder = TransferRecorder { _ in threads.withLock { $0.append(pthread_self()) } }
            let transfer = engine.run(.example(.get, upstream.port), recorder: recorder).0
            await recorder.until { $0.bodyBytes > 0 }
            return (transfer, recorder)
        }

        var streams: [(Transfer, TransferRecorder)] = []
        for _ in 0..<5 { streams.append(await stream()) }
        let first = threads.withLock { $0[0] }
        #expect(threads.withLock { $0.map { $0 == first } } == [true, true, false, false, true])

        streams[2].0.cancel()
        _ = await streams[2].1.end()
        _ = await stream()
        #expect(threads.withLock { $0[5] } != first, "the one with the fewest")
        for number in [0, 1, 4] {
            streams[number].0.cancel()
            _ = await streams[number].1.end()
        }
        for _ in 0..<2 { _ = await stream() }
        #expect(threads.withLock { $0[6...].allSatisfy { $0 == first } }, "the first has room again")
        engine.shutdown()
        await upstream.close()
    }

    @Test func headerValuesCannotCarryLineBreaks() {
        #expect(HeaderList([("Authorization", "a\r\nX: b")]) == nil)
        #expect(HeaderList([("A\n", "b")]) == nil)
        #expect(HeaderList([("A", "b\0")]) == nil)
        #expect(HeaderList([("A", "")]) != nil)
    }

    @Test func twoThousandStreamsRunOnOneLoop() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in 0..<5 { try await connection.chunk("token") }
            try await connection.send("0\r\n\r\n")
        }
        let engine = try CurlEngine()
        let recorders = (0..<2000).map { _ in engine.get(upstream.port).1 }
        for recorder in recorders {
            #expect(await recorder.end().failure == nil)
            #expect(recorder.seen.bodyBytes == 25)
        }
        engine.shutdown()
        await upstream.close()
    }
}

/// Answers each request before the engine's thread goes on from sending it: both have one processor to run on, and the
/// engine's thread is the lesser one.
private struct EagerUpstream {
    let port: Int
    let engine: CurlEngine
    private let ended = Gate()

    /// - Parameter body: what a method is answered with.
    init(_ configuration: CurlEngineConfiguration, body: @escaping @Sendable (Substring) -> [UInt8]) async throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(INADDR_LOOPBACK).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) == 0 && listen(listener, 1) == 0 && getsockname(listener, $0, &length) == 0
            }
        }
        try #require(isListening)
        port = Int(UInt16(bigEndian: address.sin_port))
        let processor = currentProcessor()
        engine = try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                Self.stay(on: processor)
                setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 5)
                continuation.resume(with: Result { try CurlEngine(configuration) })  // its thread inherits both
            }
        }
        Thread.detachNewThread { [ended] in
            Self.stay(on: processor)
            let client = accept(listener, nil, nil)
            var request = [UInt8](repeating: 0, count: 4096)
            while case let count = recv(client, &request, request.count, 0), count > 0 {
                let body = body(String(decoding: request[..<count], as: UTF8.self).prefix { $0 != " " })
                let reply = Array("HTTP/1.1 200 OK\r\nContent-Length: \(body.count)\r\n\r\n".utf8) + body
                _ = reply.withUnsafeBytes { send(client, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            }
            Glibc.close(client)
            Glibc.close(listener)
            ended.open()
        }
    }

    /// The calling thread, and those it starts.
    private static func stay(on processor: Int32) {
        var set = cpu_set_t()
        withUnsafeMutableBytes(of: &set) { $0[Int(processor) / 8] = 1 << (processor % 8) }
        setAffinity(0, MemoryLayout<cpu_set_t>.size, &set)
    }

    func close() async {
        engine.shutdown()
        await ended.wait()
    }
}

// GNU extensions that the Glibc module leaves out.
@_silgen_name("sched_getcpu") private func currentProcessor() -> Int32
@_silgen_name("sched_setaffinity") @discardableResult
private func setAffinity(_ thread: pid_t, _ size: Int, _ set: UnsafePointer<cpu_set_t>) -> Int32
