import Support
import Testing

@testable import CurlMulti

/// A name has several addresses, and some of them do not answer.
@Suite(.timeLimit(.minutes(1)))
struct AddressRaceTests {
    private static func milliseconds(_ count: Int) -> Int64 { Duration.milliseconds(count).nanoseconds }

    // MARK: The value

    /// Those of the first family that curl had not opened were forgotten when it opened one of the other.
    @Test func whatWasNotOpenedStaysToBeTried() {
        var race = AddressRace(["a4", "b4", "c6"], now: 0)
        race.open("a4", socket: 1, now: 0)
        race.open("c6", socket: 2, now: Self.milliseconds(200))
        #expect(race.untried == ["b4"])
        #expect(race.waiting.map(\.address) == ["a4", "c6"])
    }

    @Test func eachHasAnEqualPartOfTheTimeAndEnoughOfIt() {
        let end = Self.milliseconds(2000)
        var race = AddressRace(["a", "b", "c"], now: 0)
        race.open("a", socket: 1, now: 0)
        #expect(race.nextAt(end: Self.milliseconds(3000)) == Self.milliseconds(1000))
        #expect(race.nextAt(end: Self.milliseconds(600)) == Self.milliseconds(300))
        race.open("b", socket: 2, now: Self.milliseconds(200))
        #expect(race.nextAt(end: end) == Self.milliseconds(1100))
        race.open("c", socket: 3, now: Self.milliseconds(400))
        #expect(race.nextAt(end: end) == nil, "there is no other")
    }

    @Test func oneThatTookTheConnectionKeepsTheTime() {
        var race = AddressRace(["a", "b"], now: 0)
        race.open("a", socket: 1, now: 0)
        race.settle()
        #expect(race.nextAt(end: Self.milliseconds(2000)) == nil)
    }

    @Test func aRefusalCountsOnceAndWhereOthersAreLeft() {
        var race = AddressRace(["a", "b"], now: 0)
        race.open("a", socket: 1, now: 0)
        let told = [race.refuse(7), race.refuse(1), race.refuse(1)]
        #expect(told == [false, true, false], "another transfer's, its own, and that again")
        // The closed one's number is free again.
        race.open("b", socket: 1, now: 0)
        #expect(race.waiting.map(\.address) == ["b"])
        let last = race.refuse(1)
        #expect(!last, "none is left")
    }

    @Test func onlyThoseThatLetTheWinnerWaitAreSilent() {
        var race = AddressRace(["a", "b", "c", "d"], now: 0)
        for (socket, address) in zip(Int32(1)..., ["a", "b", "c", "d"]) { race.open(address, socket: socket, now: 0) }
        _ = race.refuse(1)
        #expect(race.silent(before: "c") == ["b"], "not the one that refused, nor the one that was asked later")
        #expect(race.silent(before: "b") == [])
        #expect(race.silent(before: "a connection from before") == [])
    }

    // MARK: With curl

    private static let timers = TransferTimers(connect: .seconds(2))

    /// Answers each request on a connection of its own.
    private static func answering() async throws -> FakeUpstream {
        try await FakeUpstream.start { connection in
            _ = try await connection.request()
            try await connection.reply("200 OK", "Connection: close\r\n", body: "x")
        }
    }

    private static func engine(_ addresses: [String]) throws -> CurlEngine {
        var configuration = CurlEngineConfiguration()
        configuration.lookUp = { _ in addresses }
        return try CurlEngine(configuration)
    }

    /// After 200 ms curl opened `::1`, and the good one was never tried, however often it was asked for.
    @Test(arguments: [
        ["127.0.0.2", "127.0.0.1", "::1"], ["127.0.0.2", "::1", "127.0.0.1"], ["::1", "127.0.0.2", "127.0.0.1"],
    ])
    func aNameOfBothFamiliesIsReached(_ addresses: [String]) async throws {
        let upstream = try await Self.answering()
        let silent4 = try await FullListener.start(host: "127.0.0.2", port: upstream.port)
        let silent6 = try await FullListener.start(host: "::1", port: upstream.port)
        let engine = try Self.engine(addresses)
        for _ in 0..<2 {
            let (_, recorder) = engine.get(upstream.port, host: "name.test", timers: Self.timers)
            #expect(await recorder.end().failure == nil)
        }
        engine.shutdown()
        await upstream.close()
        await silent4.close()
        await silent6.close()
    }

    /// It cost every new connection the 200 ms after which curl tries the other family.
    @Test func anAddressThatIsSilentIsWaitedForOnce() async throws {
        let upstream = try await Self.answering()
        let silent = try await FullListener.start(host: "::1", port: upstream.port)
        let engine = try Self.engine(["::1", "127.0.0.1"])
        let (_, recorder) = engine.get(upstream.port, host: "name.test", timers: Self.timers)
        #expect(await recorder.end().failure == nil)
        #expect(await Self.leastTime(engine, upstream.port) < .milliseconds(200))
        engine.shutdown()
        await upstream.close()
        await silent.close()
    }

    /// It cost every new connection 200 ms at least: curl had the next one ready and did not ask for the call to open it.
    @Test(arguments: [
        ["127.0.0.2", "127.0.0.1"], ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"],
    ])
    func addressesThatRefuseAreNotWaitedFor(_ addresses: [String]) async throws {
        let upstream = try await Self.answering()
        let engine = try Self.engine(addresses)
        #expect(await Self.leastTime(engine, upstream.port) < .milliseconds(200))
        engine.shutdown()
        await upstream.close()
    }

    /// The first one is silent, and curl has the second of the other family ready.
    @Test func oneThatRefusesBesideASilentOneIsNotWaitedFor() async throws {
        let upstream = try await Self.answering()
        let silent = try await FullListener.start(host: "::1", port: upstream.port)
        let engine = try Self.engine(["::1", "127.0.0.2", "127.0.0.1"])
        let started = ContinuousClock.now
        let (_, recorder) = engine.get(
            upstream.port, host: "name.test", timers: TransferTimers(connect: .seconds(20)))
        #expect(await recorder.end().failure == nil)
        #expect(.now - started < .seconds(5), "the silent one's part of the time")
        engine.shutdown()
        await upstream.close()
        await silent.close()
    }

    @Test func whereAllRefuseTheTransferEnds() async throws {
        // Nobody else has its port at these addresses.
        let upstream = try await Self.answering()
        let engine = try Self.engine(["127.0.0.2", "127.0.0.3", "::1", "127.0.0.4"])
        let (_, recorder) = engine.get(upstream.port, host: "name.test", timers: Self.timers)
        #expect(await recorder.end().failure?.reason == .connect)
        engine.shutdown()
        await upstream.close()
    }

    /// Of a few requests on connections of their own: a machine that stands still for a moment slows some, and a wait all.
    private static func leastTime(_ engine: CurlEngine, _ port: Int) async -> Duration {
        var least = Duration.seconds(3600)
        for _ in 0..<5 {
            let started = ContinuousClock.now
            let (_, recorder) = engine.get(port, host: "name.test", timers: timers)
            #expect(await recorder.end().failure == nil)
            least = min(least, .now - started)
        }
        return least
    }
}
