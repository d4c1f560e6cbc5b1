import Foundation
import GRDB
import GatewayCore
import GatewayWire
import Logging
import NIOCore
import Synchronization
import Testing

@testable import GatewayServer

/// A store with a database in a folder of its own.
private final class TestHistory {
    let folder: String
    var path: String { folder + "/history.sqlite" }
    private(set) var configuration = GatewayConfiguration()
    private(set) var store: HistoryStore

    init(_ change: (inout HistoryConfiguration) -> Void = { _ in }) throws {
        folder = NSTemporaryDirectory() + "webllm-history-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        configuration.upstreams = [
            UpstreamConfiguration(name: "a", kind: .ollama, url: UpstreamURL(host: "127.0.0.1", port: 1))
        ]
        configuration.history.path = folder + "/history.sqlite"
        change(&configuration.history)
        store = try HistoryStore(configuration, logger: Self.quiet)
    }

    static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    func reopen(_ change: (inout GatewayConfiguration) -> Void = { _ in }) throws {
        store.close()
        change(&configuration)
        store = try HistoryStore(configuration, logger: Self.quiet)
    }

    /// Waits until what was recorded is written, or could not be.
    func requests(_ change: (inout HistoryFilter) -> Void = { _ in }) async throws -> [StoredRequest] {
        var filter = HistoryFilter()
        change(&filter)
        return try await withCheckedThrowingContinuation { continuation in
            store.requests(filter) { continuation.resume(with: $0) }
        }
    }

    deinit {
        store.close()
        try? FileManager.default.removeItem(atPath: folder)
    }
}

/// A finished request as an exchange would record it.
private func finished(
    _ text: String, outcome: RequestOutcome = .ok, upstream: String? = "a", model: String = "m",
    mode: String = "client_side",
    client: String = "127.0.0.1", tokens: Int = 2
) -> StoredRequest {
    var trace = GenerationTrace()
    if let upstream {
        var attempt = GenerationTrace.Attempt(upstream: upstream, reason: .best, candidates: [], start: .zero)
        attempt.label = outcome == .ok ? "ok" : "connect"
        trace.attempts = [attempt]
    }
    let result = GenerationResult(
        end: outcome == .ok ? .answered(TokenUsage(promptTokens: 7, completionTokens: tokens)) : .failed, text: text,
        trace: trace, isCommitted: false)
    var random = SystemRandomNumberGenerator()
    var webllm = WebLLMConfiguration()
    if outcome == .upstreamsFailed { webllm.fallbackMessage = "" }
    let report = InferReport(
        requestID: RequestIdentifier.make(using: &random), result: result, mode: mode, modelID: model, webllm: webllm)
    let access = AccessRecord(
        requestID: "", client: client, route: "infer", method: "POST", status: report.status, outcome: outcome,
        duration: .milliseconds(120), trace: trace, tokens: tokens)
    return StoredRequest(report, access, isStream: false, policy: .priority)
}

@Suite struct HistoryTests {
    @Test func whatWasRecordedIsThereAfterARestart() async throws {
        let history = try TestHistory()
        history.store.record(finished("one \u{0} \"two\"\n", model: "\u{e9}", mode: "123", client: "2001:db8::1"))
        history.store.record(finished("answer", outcome: .upstreamsFailed))
        let before = history.store.totals()
        try history.reopen()
        #expect(history.store.totals().totals == before.totals)
        #expect(before.totals.inferences == 2 && before.totals.tokens == 2 && before.totals.clientSide == 1)
        #expect(history.store.totals().rows == 2)
        let requests = try await history.requests()
        #expect(requests.map(\.outcome) == [.upstreamsFailed, .ok])
        let first = requests[1]
        #expect(first.text == "one \u{0} \"two\"")
        #expect(first.model.utf8.elementsEqual("\u{e9}".utf8) && first.mode == "123" && first.client == "2001:db8::1")
        #expect(
            first.upstream == "a" && first.tokensIn == 7 && first.tokensOut == 2 && first.duration == .milliseconds(120)
        )
        #expect(first.requestID.count == 36 && first.requestID == history.store.recent(2)[0].requestID)
        #expect(requests[0].client == "127.0.0.1" && requests[0].attempts == "a:connect" && requests[0].why != nil)
    }

    /// As a disk's fault may leave it.
    @Test func attemptsThatAreNoListAreShownAllTheSame() {
        var request = finished("x")
        request.attempts = ":,a,:ok"
        var writer = JSONWriter()
        request.write(&writer, isWhole: true)
        #expect(String(buffer: writer.buffer).contains(#""upstream":"a""#))
    }

    @Test func filtersAreParametersAndNotSQL() async throws {
        let history = try TestHistory()
        for index in 0..<30 {
            let outcome: RequestOutcome = index % 3 == 0 ? .fallback : .ok
            history.store.record(
                finished(
                    "t\(index)", outcome: outcome, upstream: index % 2 == 0 ? "a" : "other", model: "m\(index % 5)"))
        }
        #expect(try await history.requests { $0.upstream = "a" }.count == 15)
        #expect(try await history.requests { $0.upstream = "other" }.count == 15)
        #expect(try await history.requests { $0.model = "m3" }.count == 6)
        #expect(try await history.requests { $0.onlyErrors = true }.count == 10)
        #expect(try await history.requests { $0.outcome = .fallback }.count == 10)
        for hostile in ["' OR 1=1--", "%", "_", "a' --", "\u{0}"] {
            #expect(try await history.requests { $0.upstream = hostile }.isEmpty)
            #expect(try await history.requests { $0.model = hostile }.isEmpty)
            #expect(try await history.requests { $0.requestID = hostile }.isEmpty)
        }
        // Paging is stable while rows are added.
        let all = try await history.requests()
        let page = try await history.requests { $0.limit = 10 }
        history.store.record(finished("new"))
        let next = try await history.requests {
            $0.limit = 10
            $0.before = page.last?.id
        }
        #expect((page + next).map(\.id) == all.prefix(20).map(\.id))
        #expect(all.map(\.id) == all.map(\.id).sorted(by: >) && all.count == 30)
    }

    @Test func aFullQueueCostsRowsAndCountsThemButNotTheTotals() throws {
        let history = try TestHistory { $0.path = "/proc/no-such-folder/history.sqlite" }
        for _ in 0..<HistoryStore.maxPending + 5 { history.store.record(finished("x")) }
        let status = history.store.status
        #expect(status.state == .degraded && status.reason != nil)
        #expect(status.dropped == 5 && status.pending == HistoryStore.maxPending)
        #expect(history.store.totals().totals.inferences == HistoryStore.maxPending + 5)
        #expect(history.store.recent(100).count == 100)
    }

    /// The damaged file lies beside a new one, which has what comes from now on.
    private func expectReplaced(_ history: TestHistory) async throws {
        history.store.record(finished("kept"))
        #expect(try await history.requests().map(\.text) == ["kept"])
        #expect(history.store.status.state == .ok)
        let names = try FileManager.default.contentsOfDirectory(atPath: history.folder)
        #expect(names.contains { $0.hasPrefix("history.sqlite.damaged-") })
    }

    @Test func aDamagedFileIsMovedAside() async throws {
        let history = try TestHistory()
        history.store.record(finished("lost"))
        history.store.close()
        try Data(repeating: 0x41, count: 32 << 10).write(to: URL(fileURLWithPath: history.path))
        try history.reopen()
        try await expectReplaced(history)
    }

    /// A disk's fault need not be one that SQLite sees.
    @Test(arguments: [
        "UPDATE request SET policy = x'00'", "UPDATE request SET duration = 9e18", "UPDATE request SET status = 'x'",
        "UPDATE request SET id = -5", "UPDATE request SET why = x'ff'", "UPDATE total SET tokens = -1",
        "UPDATE total SET rows = 9223372036854775807", "ALTER TABLE total RENAME COLUMN inferences TO inference",
        "ALTER TABLE request RENAME COLUMN route TO rout",
    ]) func aValueThatCannotBeIsDamage(_ sql: String) async throws {
        let history = try TestHistory()
        history.store.record(finished("lost"))
        history.store.close()
        let database = try DatabaseQueue(path: history.path)
        try await database.write { db in try db.execute(sql: sql) }
        try database.close()
        try history.reopen()
        try await expectReplaced(history)
    }

    /// Found while the gateway runs, where nobody looks at the start: the file is replaced, and the process goes on.
    @Test func damageInAnOldRowIsFoundByWhoReadsIt() async throws {
        let history = try TestHistory()
        for _ in 0..<HistoryStore.recentCount + 1 { history.store.record(finished("x")) }
        history.store.close()
        let database = try DatabaseQueue(path: history.path)
        try await database.write { db in
            try db.execute(sql: "UPDATE request SET policy = x'00' WHERE id = (SELECT min(id) FROM request)")
        }
        try database.close()
        try history.reopen()
        #expect(history.store.totals().rows == HistoryStore.recentCount + 1)
        await #expect(throws: DatabaseError.self) { try await history.requests { $0.limit = 500 } }
        history.store.record(finished("kept"))
        while true {
            if let found = try? await history.requests(), found.map(\.text) == ["kept"] { break }
        }
    }

    @Test func namesOfAnEarlierConfigurationAreFound() async throws {
        let history = try TestHistory()
        history.store.record(finished("1"))
        history.store.record(finished("2", upstream: "b"))
        try history.reopen { $0.upstreams[0].name = "b" }
        history.store.record(finished("3", upstream: "b"))
        #expect(try await history.requests { $0.upstream = "a" }.map(\.text) == ["1"])
        #expect(try await history.requests { $0.upstream = "b" }.map(\.text) == ["3", "2"])
        try history.reopen { $0.webllm.defaultModel = "m" }
        history.store.record(finished("4"))
        #expect(try await history.requests { $0.model = "m" }.count == 4)
        try history.reopen { $0.webllm.defaultModel = "n" }
        #expect(try await history.requests { $0.model = "m" }.count == 4)
    }

    @Test func aClearReachesAFileThatIsNotUsedAnyMore() async throws {
        let history = try TestHistory()
        history.store.record(finished("secret"))
        try history.reopen { $0.history.maxRows = 0 }
        history.store.clear()
        history.store.close()
        let data = try Data(contentsOf: URL(fileURLWithPath: history.path))
        #expect(data.range(of: Data("secret".utf8)) == nil)
        try history.reopen { $0.history.maxRows = 10 }
        #expect(try await history.requests().isEmpty)
    }

    @Test func timesGoBackWithAClockThatIsSetBack() throws {
        let history = try TestHistory()
        var ids: [Int64] = []
        for seconds in [3600, 0, 1] as [Int64] {
            var request = finished("x")
            request.id = 1_000_000_000_000_000 + seconds * 1_000_000
            ids.append(request.id)
            history.store.record(request)
        }
        var close = finished("x")
        close.id = ids[2] - 5
        history.store.record(close)
        let recent = history.store.recent(afterFirst: 0, limit: 10)
        #expect(recent.entries.map(\.id) == ids + [ids[2] + 1], "a moment back is the jitter of two threads")
        #expect(recent.finished == 4)
        #expect(history.store.recent(afterFirst: 3, limit: 10).entries.map(\.id) == [ids[2] + 1])
        #expect(history.store.recent(afterFirst: 4, limit: 10).entries.isEmpty)
    }

    @Test func aNewerSchemaIsRefusedAndLeftAsItIs() throws {
        let history = try TestHistory()
        history.store.record(finished("x"))
        history.store.close()
        let pool = try DatabaseQueue(path: history.path)
        try pool.write { db in try db.execute(sql: "INSERT INTO grdb_migrations VALUES ('99')") }
        try pool.close()
        let before = try Data(contentsOf: URL(fileURLWithPath: history.path))
        #expect(throws: GatewayError.self) { try history.reopen() }
        #expect(try Data(contentsOf: URL(fileURLWithPath: history.path)) == before)
    }

    @Test func aFileThatIsDeletedIsMadeAnew() async throws {
        let history = try TestHistory()
        history.store.record(finished("before"))
        _ = try await history.requests()
        try FileManager.default.removeItem(atPath: history.path)
        history.store.record(finished("after"))
        #expect(try await history.requests().map(\.text) == ["after"])
        #expect(FileManager.default.fileExists(atPath: history.path))
    }

    @Test func aLockDelaysRowsAndNotRequests() async throws {
        let history = try TestHistory()
        history.store.record(finished("first"))
        _ = try await history.requests()
        var unsafe = Configuration()
        unsafe.allowsUnsafeTransactions = true
        let other = try DatabaseQueue(path: history.path, configuration: unsafe)
        try other.inDatabase { db in try db.execute(sql: "BEGIN IMMEDIATE") }
        history.store.record(finished("second"))
        let started = MonotonicTime.now
        #expect(history.store.totals().totals.inferences == 2)
        #expect(MonotonicTime.now - started < .milliseconds(500))
        // The lock outlasts the store's patience with it.
        #expect(try await history.requests().map(\.text) == ["first"])
        #expect(history.store.status.state == .degraded)
        #expect(history.store.status.reason == "another process has locked it")
        try other.inDatabase { db in try db.execute(sql: "ROLLBACK") }
        #expect(try await history.requests().map(\.text) == ["second", "first"])
        #expect(history.store.status.state == .ok && history.store.status.dropped == 0)
    }

    /// What is to be deleted is shown to nobody, also while it cannot be deleted yet.
    @Test func whatAClearHasYetToDeleteIsNotRead() async throws {
        let history = try TestHistory()
        history.store.record(finished("secret"))
        _ = try await history.requests()
        var unsafe = Configuration()
        unsafe.allowsUnsafeTransactions = true
        let other = try DatabaseQueue(path: history.path, configuration: unsafe)
        try other.inDatabase { db in try db.execute(sql: "BEGIN IMMEDIATE") }
        history.store.clear()
        await #expect(throws: GatewayError.self) { try await history.requests() }
        try other.inDatabase { db in try db.execute(sql: "ROLLBACK") }
        #expect(try await history.requests().isEmpty)
    }

    @Test func anotherProgramsDatabaseIsLeftAsItIs() throws {
        let history = try TestHistory()
        history.store.close()
        for suffix in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: history.path + suffix) }
        let theirs = try DatabaseQueue(path: history.path)
        try theirs.write { db in try db.execute(sql: "CREATE TABLE users (name TEXT)") }
        try theirs.close()
        let before = try Data(contentsOf: URL(fileURLWithPath: history.path))
        try history.reopen()
        history.store.record(finished("x"))
        #expect(history.store.status.reason == "it is another program's database, and left as it is")
        history.store.close()
        #expect(try Data(contentsOf: URL(fileURLWithPath: history.path)) == before)
    }

    @Test func theNewestAreBoundedInBytesAndInTime() throws {
        var recent = RecentRequests()
        let long = String(repeating: "x", count: RecentRequests.maxBytes / 3)
        for id in 1...5 {
            var request = finished(long)
            request.id = Int64(id)
            recent.append(Shared(request), atMost: 100)
        }
        #expect(recent.entries.map(\.id) == [3, 4, 5])
        var huge = finished(long + long + long + long)
        huge.id = 6
        recent.append(Shared(huge), atMost: 100)
        #expect(recent.entries.map(\.id) == [6], "the newest is always there")
        for id in 7...207 {
            var request = finished("x")
            request.id = Int64(id)
            recent.append(Shared(request), atMost: 100)
        }
        #expect(recent.entries.count == 100, "more than twice as many")
        recent.remove(olderThan: 200, keeping: 100)
        #expect(recent.entries.map(\.id) == Array(200...207))
        recent.remove(olderThan: 0, keeping: 3)
        #expect(recent.entries.map(\.id) == [205, 206, 207])
    }

    @Test func tooManyAndTooOldRowsAreSwept() async throws {
        let history = try TestHistory()
        for index in 0..<50 { history.store.record(finished("t\(index)")) }
        let requests = try await history.requests()
        history.store.close()
        let database = try HistoryDatabase(path: history.path, known: [])
        #expect(try database.sweep(olderThan: 0, keeping: 45, limit: 3) == 3)
        #expect(try database.sweep(olderThan: 0, keeping: 45, limit: 3) == 2)
        #expect(try database.sweep(olderThan: 0, keeping: 45, limit: 3) == 0)
        #expect(try database.sweep(olderThan: requests[9].id, keeping: 45, limit: 100) == 35)
        #expect(try database.totals().rows == 10)
        #expect(try database.totals().totals.inferences == 50)
        #expect(try database.requests(HistoryFilter()).map(\.id) == requests.prefix(10).map(\.id))
        database.close()
    }

    @Test func clearForgetsWhatIsWrittenAndWhatWaits() async throws {
        let history = try TestHistory()
        history.store.record(finished("old"))
        _ = try await history.requests()
        history.store.record(finished("waiting"))
        history.store.clear()
        #expect(history.store.totals() == (RequestTotals(), 0))
        history.store.record(finished("new"))
        #expect(try await history.requests().map(\.text) == ["new"])
        try history.reopen()
        #expect(history.store.totals().totals.inferences == 1)
    }

    @Test func whatWasClearedLeavesTheFiles() async throws {
        let history = try TestHistory()
        let text = Data("forget me".utf8)
        for _ in 0..<100 { history.store.record(finished(String(repeating: "forget me ", count: 1000))) }
        _ = try await history.requests()
        func files() throws -> [Data] {
            try ["", "-wal"].map { suffix in
                let path = history.path + suffix
                // Foundation loses 4 KiB for each empty file that it reads.
                let size = try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
                return size == 0 ? Data() : try Data(contentsOf: URL(fileURLWithPath: path))
            }
        }
        #expect(try files().contains { $0.range(of: text) != nil })
        history.store.clear()
        #expect(try await history.requests().isEmpty)
        #expect(try files().allSatisfy { $0.range(of: text) == nil })
        #expect(try files().map(\.count).reduce(0, +) < 200_000, "a megabyte of texts was in them")
        history.store.record(finished("new"))
        #expect(try await history.requests().map(\.text) == ["new"])
    }

    @Test func textsAreKeptOnlyWhereTheyMayBe() async throws {
        let history = try TestHistory { $0.storeText = false }
        history.store.record(finished("secret"))
        #expect(try await history.requests()[0].text == nil)
        #expect(history.store.recent(1)[0].text == nil)
        history.store.close()
        #expect(try Data(contentsOf: URL(fileURLWithPath: history.path)).range(of: Data("secret".utf8)) == nil)
    }

    @Test(arguments: [
        ("limit=0", "limit must be 1 to 500"), ("limit=x", "limit must be 1 to 500"), ("before=-1", "before must be"),
        ("since=yesterday", "since must be a duration"), ("since=2026-13-01T00:00:00", "since must be"),
        ("route=chat", "route must be"), ("outcome=bad", "outcome must be one of ok"), ("errors=yes", "errors must be"),
        ("colour=red", "colour is not known; accepted: limit"),
    ])
    func aWrongFilterSaysWhatIsAccepted(_ query: String, _ message: String) {
        #expect {
            _ = try HistoryFilter(query: query[...], now: Timestamp(microseconds: 0))
        } throws: { error in
            (error as? RequestRefusal)?.status == 400 && (error as? RequestRefusal)?.message.hasPrefix(message) == true
        }
    }

    @Test func sinceIsADurationOrAMoment() throws {
        let now = Timestamp(microseconds: 1_700_000_000_000_000)
        #expect(try HistoryFilter(query: "since=30m", now: now).since == now.microseconds - 1_800_000_000)
        #expect(try HistoryFilter(query: "since=2023-11-14T22:13:20", now: now).since == now.microseconds)
        #expect(try HistoryFilter(query: "since=2023-11-14T22:13:20.5Z", now: now).since == now.microseconds + 500_000)
    }
}

@Suite struct PackedColumnTests {
    @Test(arguments: ["127.0.0.1", "255.255.255.255", "0.0.0.0", "1.2.3", "01.2.3.4", "::1", "unix", ""])
    func addressesComeBackAsTheyWere(_ text: String) {
        #expect(AddressText.unpack(AddressText.pack(text)?.databaseValue ?? text.databaseValue) == text)
    }

    @Test(arguments: [
        "709e9b74-21a1-4881-a82a-6ed0bc97bd1d", "709E9B74-21A1-4881-A82A-6ED0BC97BD1D", "x", "",
        "709e9b7421a14881a82a6ed0bc97bd1d",
    ])
    func requestIDsComeBackAsTheyWere(_ text: String) {
        #expect(UUIDBytes.unpack(UUIDBytes.value(text).databaseValue) == text)
    }
}
