import CurlMulti
import Support
import Testing

/// Each timer ends its own phase, under its own name.
@Suite(.timeLimit(.minutes(1)))
struct TimerTests {
    private static let short = Duration.milliseconds(60)

    @Test func firstByte() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let started = ContinuousClock.now
        let (_, recorder) = engine.get(upstream.port, timers: TransferTimers(firstByte: Self.short))
        #expect(await recorder.end().failure?.reason == .firstByteTimer)
        #expect(.now - started >= Self.short)
        await upstream.until { $0.closed == 1 }
        engine.shutdown()
        await upstream.close()
    }

    @Test func idleStartsAnewWithEachByte() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            try await connection.send("some")
            await connection.untilClosed()
        }
        let engine = try CurlEngine()
        let (_, recorder) = engine.get(
            upstream.port, timers: TransferTimers(firstByte: .seconds(30), idle: Self.short))
        #expect(await recorder.end().failure?.reason == .idleTimer)
        #expect(recorder.seen.bodyBytes == 4)
        engine.shutdown()
        await upstream.close()
    }

    @Test func totalRunsThroughEveryPhase() async throws {
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while (try? await connection.chunk("x")) != nil { await Task.yield() }
        }
        let engine = try CurlEngine()
        let (_, recorder) = engine.get(
            upstream.port, timers: TransferTimers(idle: .seconds(30), total: Self.short))
        #expect(await recorder.end().failure?.reason == .totalTimer)
        engine.shutdown()
        await upstream.close()
    }

    /// The sockets that curl gave up have numbers that the next ones get: those must be watched all the same.
    @Test(arguments: [false, true]) func connectEndsAndHindersNoLaterTransfer(isTLS: Bool) async throws {
        let dead = try await FullListener.start()
        let silent = try await FakeUpstream.start { connection in await connection.untilClosed() }
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        let engine = try CurlEngine()
        let port = isTLS ? silent.port : dead.port
        for _ in 0..<3 {
            let given = (0..<5).map { _ in
                engine.get(port, isTLS: isTLS, timers: TransferTimers(connect: Self.short)).1
            }
            for recorder in given { #expect(await recorder.end().failure?.reason == .connectTimer) }
            let later = (0..<10).map { _ in engine.get(upstream.port, timers: TransferTimers(total: .seconds(10))).1 }
            for recorder in later { #expect(await recorder.end().failure == nil) }
        }
        engine.shutdown()
        await upstream.close()
        await silent.close()
        await dead.close()
    }

    @Test func connectCoversALookUpThatHangs() async throws {
        let names = HangingNames()
        let engine = try CurlEngine(names.configuration)
        let (_, recorder) = engine.get(
            9, host: "a-name-nobody-has.invalid", timers: TransferTimers(connect: Self.short))
        #expect(await recorder.end().failure?.reason == .connectTimer)
        names.answer()
        engine.shutdown()
    }

    @Test(arguments: [TransferTimers(connect: .seconds(2)), TransferTimers(total: .seconds(2))])
    func aNamesSecondAddressIsTriedWhereTheFirstIsSilent(_ timers: TransferTimers) async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        let silent = try await FullListener.start(host: "127.0.0.2", port: upstream.port)
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { _ in ["127.0.0.2", "127.0.0.1"] }
        let engine = try CurlEngine(configuration)
        let recorders = (0..<10).map { _ in engine.get(upstream.port, host: "name.test", timers: timers).1 }
        for recorder in recorders { #expect(await recorder.end().failure == nil) }
        engine.shutdown()
        await upstream.close()
        await silent.close()
    }

    /// curl goes on by itself from the first, which refuses; from the second, which is silent, we do.
    @Test func ofThreeAddressesTheOneThatAnswersIsFound() async throws {
        let upstream = try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: "x") }
        }
        let silent = try await FullListener.start(host: "127.0.0.3", port: upstream.port)
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { _ in ["127.0.0.2", "127.0.0.3", "127.0.0.1"] }
        let engine = try CurlEngine(configuration)
        let (_, recorder) = engine.get(
            upstream.port, host: "name.test", timers: TransferTimers(connect: .seconds(3)))
        #expect(await recorder.end().failure == nil)
        engine.shutdown()
        await upstream.close()
        await silent.close()
    }

    /// It is there, and only slow to shake hands.
    @Test func anAddressThatTookTheConnectionKeepsTheWholeTime() async throws {
        let slow = try await FakeUpstream.start { connection in await connection.untilClosed() }
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { _ in ["127.0.0.1", "127.0.0.2"] }
        let engine = try CurlEngine(configuration)
        let (_, recorder) = engine.get(
            slow.port, host: "name.test", isTLS: true, timers: TransferTimers(connect: .milliseconds(800)))
        #expect(await recorder.end().failure?.reason == .connectTimer, "the second address refuses")
        #expect(slow.state.opened == 1)
        engine.shutdown()
        await slow.close()
    }

    /// While the receiver holds a whole window, silence is of its own making.
    @Test func idleIsFrozenWhilePaused() async throws {
        let size = 200_000
        let upstream = try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.send("HTTP/1.1 200 OK\r\nContent-Length: \(size)\r\n\r\n")
            try await connection.send(bytes: [UInt8](repeating: 65, count: size))
            await connection.untilClosed()
        }
        var configuration = CurlEngineConfiguration()
        configuration.window = 32 << 10
        let engine = try CurlEngine(configuration)
        let (transfer, recorder) = engine.get(upstream.port, timers: TransferTimers(idle: Self.short))
        await recorder.until { $0.bodyBytes >= 32 << 10 }
        // A second transfer with a longer timer is the clock: when its timer has fired, the first one's would have.
        let silent = try await FakeUpstream.start { await $0.untilClosed() }
        let (_, clock) = engine.get(silent.port, timers: TransferTimers(total: Self.short * 3))
        _ = await clock.end()
        #expect(recorder.seen.ends.isEmpty)
        var acknowledged = 0
        while recorder.seen.ends.isEmpty {
            let received = recorder.seen.bodyBytes
            transfer.acknowledge(received - acknowledged)
            acknowledged = received
            let before = received
            await recorder.until { $0.bodyBytes > before || !$0.ends.isEmpty }
            if recorder.seen.bodyBytes == size { break }
        }
        #expect(recorder.seen.bodyBytes == size)
        engine.shutdown()
        await upstream.close()
        await silent.close()
    }
}
