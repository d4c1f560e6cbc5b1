import Dispatch
import Support
import Testing

@testable import CurlMulti

/// A cancel ends a transfer in whatever phase it is, with exactly one end, and closes the upstream's connection.
@Suite(.timeLimit(.minutes(1)))
struct CancelTests {
    @Test func whileResolving() async throws {
        let names = HangingNames()
        let engine = try CurlEngine(names.configuration)
        let (transfer, recorder) = engine.get(9, host: "a-host-that-takes-its-time.invalid")
        await names.wasAsked()
        transfer.cancel()
        #expect(await recorder.end().failure?.reason == .cancelled)
        names.answer()
        engine.shutdown()
        #expect(recorder.seen.ends.count == 1)
    }

    @Test func whileConnecting() async throws {
        let dead = try await FullListener.start()
        let engine = try CurlEngine()
        let (transfer, recorder) = engine.get(dead.port)
        while engine.statistics.activeTransfers == 0 { await Task.yield() }
        transfer.cancel()
        #expect(await recorder.end().failure?.reason == .cancelled)
        engine.shutdown()
        #expect(recorder.seen.ends.count == 1)
        await dead.close()
    }

    @Test func whileWaitingForTheHead() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let (transfer, recorder) = engine.get(upstream.port)
        await upstream.until { $0.requests.count == 1 }
        transfer.cancel()
        #expect(await recorder.end().failure?.reason == .cancelled)
        await upstream.until { $0.closed == 1 }
        engine.shutdown()
        await upstream.close()
    }

    @Test func whileStreaming() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try await connection.chunk("token")
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let (transfer, recorder) = engine.get(upstream.port)
        await recorder.until { $0.bodyBytes == 5 }
        transfer.cancel()
        #expect(await recorder.end().failure?.reason == .cancelled)
        await upstream.until { $0.closed == 1 }
        engine.shutdown()
        await upstream.close()
    }

    @Test func whilePaused() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            try? await connection.send(bytes: [UInt8](repeating: 65, count: 10_000_000))
            await connection.untilClosed()
        }
        var configuration = CurlEngineConfiguration()
        configuration.window = 64 << 10
        let engine = try CurlEngine(configuration)
        let (transfer, recorder) = engine.get(upstream.port)
        await recorder.until { $0.bodyBytes >= 64 << 10 }
        transfer.cancel()
        #expect(await recorder.end().failure?.reason == .cancelled)
        await upstream.until { $0.closed == 1 }
        engine.shutdown()
        await upstream.close()
    }

    @Test func shutdownEndsEveryTransfer() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let recorders = (0..<20).map { _ in engine.get(upstream.port).1 }
        await upstream.until { $0.requests.count == 20 }
        engine.shutdown()
        for recorder in recorders { #expect(recorder.seen.ends.map(\.failure?.reason) == [.cancelled]) }
        let (_, late) = engine.get(upstream.port)
        #expect(await late.end().failure?.reason == .cancelled)
        await upstream.close()
    }

    /// The loop begins a few in each turn: those that still wait behind a shutdown end too.
    @Test func shutdownEndsTransfersThatHaveNotBegun() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply(body: "x")
            await connection.untilClosed()
        }
        // The loop stands still in a delivery, so that what is posted meanwhile comes to it in one piece.
        let (held, release) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        let first = TransferRecorder(onBody: { _ in
            held.signal()
            release.wait()
        })
        let loop = try LoopThread(.init())
        let request = TransferRequest.example(.get, upstream.port)
        loop.mailbox.post(.start(0, request, first, first))
        await blocking { held.wait() }
        let recorders = (0..<100).map { _ in TransferRecorder() }
        loop.mailbox.post(.shutdown)
        for (id, recorder) in zip(UInt64(1)..., recorders) {
            loop.mailbox.post(.start(id, request, recorder, recorder))
        }
        release.signal()
        await blocking { loop.join() }
        for recorder in recorders { #expect(recorder.seen.ends.map(\.failure?.reason) == [.cancelled]) }
        await upstream.close()
    }
}

/// Does what blocks on a thread of its own, so that no thread of the concurrency pool stands still.
private func blocking(_ work: @escaping @Sendable () -> Void) async {
    await withCheckedContinuation { continuation in
        DispatchQueue.global().async {
            work()
            continuation.resume()
        }
    }
}
