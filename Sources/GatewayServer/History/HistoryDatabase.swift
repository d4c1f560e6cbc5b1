import GRDB
import GatewayCore
import GatewayWire
import Glibc

/// The history's SQLite database. Its calls block: the store makes them on a queue of its own.
///
/// Models, upstreams and modes that the configuration knows are kept once in `name` and referred to by number; other
/// values of clients lie in the row itself. Durations are in tenths of a millisecond. So a row takes 80 bytes and its text.
final class HistoryDatabase: Sendable {
    private let connections: any DatabaseWriter
    /// Of the file, to see that it was deleted or replaced; nil in memory.
    private let identity: FileIdentity?
    /// Of its WAL file.
    private let logIdentity: FileIdentity?
    private let path: String?
    /// Numbers of the names that are referred to.
    private let names: [String: Int]

    /// Why a database cannot be used.
    enum Fault: Error, CustomStringConvertible {
        /// It is left as it is.
        case newerSchema
        case notAFile
        case foreign

        var description: String {
            switch self {
            case .newerSchema: "a newer version of the gateway made it"
            case .notAFile: "it is not a regular file"
            case .foreign: "it is another program's database, and left as it is"
            }
        }
    }

    /// Opens the file, or makes it with its folders, and brings its schema up to date.
    /// - Parameters:
    ///   - path: nil keeps the database in memory.
    ///   - known: names to be kept once: a bounded set.
    init(path: String?, known: Set<String>) throws {
        self.path = path
        var configuration = Configuration()
        configuration.label = "history"
        // Beyond it the rows wait in the store's own queue.
        configuration.busyMode = .timeout(1)
        configuration.maximumReaderCount = 2
        configuration.prepareDatabase { db in
            if !db.configuration.readonly { try db.execute(sql: "PRAGMA page_size = 16384") }
            // In WAL mode a crash of the process loses nothing that was committed; one of the system the last moments.
            try db.execute(sql: "PRAGMA synchronous = NORMAL")
            // KiB, a connection's; SQLite's own 2000 are filled in the first seconds, and nothing here is faster by them.
            try db.execute(sql: "PRAGMA cache_size = -256")
            try db.execute(sql: "PRAGMA journal_size_limit = 67108864")
        }
        if let path {
            if FileIdentity(path)?.isRegular == false { throw Fault.notAFile }
            try Self.refuseOthers(path, configuration)
            Self.makeFolders(path)
            Self.makePrivate(path)
            connections = try DatabasePool(path: path, configuration: configuration)
        } else {
            connections = try DatabaseQueue(configuration: configuration)
        }
        try Self.migrator.migrate(connections)
        names = try connections.write { db in
            for name in known {
                try db.execute(sql: "INSERT OR IGNORE INTO name (name) VALUES (?)", arguments: [name])
            }
            let numbers = try Self.storedNames(db)
            return Dictionary(numbers.map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
                .filter { known.contains($0.key) }
        }
        identity = path.flatMap(FileIdentity.init)
        logIdentity = path.flatMap { FileIdentity($0 + "-wal") }
    }

    /// Looks without writing: a file of a newer version, or of another program, stays as it is.
    private static func refuseOthers(_ path: String, _ configuration: Configuration) throws {
        guard FileIdentity(path) != nil else { return }
        var configuration = configuration
        configuration.readonly = true
        do {
            try DatabaseQueue(path: path, configuration: configuration).read { db in
                if try migrator.hasBeenSuperseded(db) { throw Fault.newerSchema }
                let tables = try Set(String.fetchAll(db, sql: "SELECT name FROM sqlite_master WHERE type = 'table'"))
                if !tables.isEmpty, !tables.contains("grdb_migrations") { throw Fault.foreign }
            }
        } catch let error as DatabaseError where error.resultCode == .SQLITE_CANTOPEN {
            return  // an empty WAL file may be all that is missing: the real opening will tell
        }
    }

    /// Answers and addresses are nobody else's: a new file is its owner's alone, and its WAL is as it is.
    private static func makePrivate(_ path: String) {
        let file = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600)
        if file >= 0 { _ = Glibc.close(file) }
    }

    private static func makeFolders(_ path: String) {
        var folder = ""
        for part in path.split(separator: "/").dropLast() {
            folder += (folder.isEmpty && !path.hasPrefix("/") ? "" : "/") + part
            mkdir(folder, 0o700)
        }
    }

    private static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { db in
            try db.execute(
                sql: """
                    CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
                    CREATE TABLE request (
                        id INTEGER PRIMARY KEY, -- microseconds since 1970, UTC
                        -- Columns without a type keep what they are given: a number refers to a name, a text is one.
                        request_id NOT NULL, -- 16 bytes where it is a UUID
                        route INTEGER NOT NULL, client NOT NULL, model NOT NULL, upstream, mode NOT NULL,
                        status INTEGER NOT NULL, outcome INTEGER NOT NULL, error TEXT, stream INTEGER NOT NULL,
                        policy INTEGER NOT NULL, tokens_in INTEGER, tokens_out INTEGER NOT NULL,
                        duration INTEGER NOT NULL, queue INTEGER NOT NULL, load INTEGER NOT NULL, connect INTEGER NOT NULL,
                        first_token INTEGER, generate INTEGER, inference INTEGER NOT NULL,
                        attempts TEXT, plan TEXT, why TEXT, text TEXT
                    );
                    CREATE INDEX request_error ON request (outcome) WHERE outcome <> 0;
                    CREATE TABLE total (
                        id INTEGER PRIMARY KEY CHECK (id = 1), rows INTEGER NOT NULL, inferences INTEGER NOT NULL,
                        tokens INTEGER NOT NULL, time INTEGER NOT NULL, -- microseconds
                        client_side INTEGER NOT NULL, server_side INTEGER NOT NULL
                    );
                    INSERT INTO total VALUES (1, 0, 0, 0, 0, 0, 0);
                    """)
        }
        return migrator
    }

    // MARK: Writing

    /// Writes rows and adds to the totals, all or nothing.
    /// - Returns: what the totals have come to.
    func write(
        _ requests: [Shared<StoredRequest>], adding totals: RequestTotals
    ) throws -> (totals: RequestTotals, rows: Int) {
        try connections.write { db in
            let insert = try db.cachedStatement(sql: Self.insertSQL)
            let begin = ContinuousClock.now
            for (number, request) in requests.enumerated() {
                if number % Self.rowsPerTurn == Self.rowsPerTurn - 1 { Self.giveWay(since: begin) }
                do {
                    try row(request.value, id: request.id, insert).insert(db)
                } catch let error as DatabaseError where error.resultCode == .SQLITE_CONSTRAINT {
                    // Another process of the gateway had a request in the same microsecond.
                    try row(request.value, id: request.id + Int64.random(in: 1...1000), insert).insert(db)
                }
            }
            try db.execute(
                sql: """
                    UPDATE total SET rows = rows + ?, inferences = inferences + ?, tokens = tokens + ?, time = time + ?,
                        client_side = client_side + ?, server_side = server_side + ?
                    """,
                arguments: [
                    requests.count, totals.inferences, totals.tokens, totals.time.nanoseconds / 1000, totals.clientSide,
                    totals.serverSide,
                ])
            return try Self.fetchTotals(db)
        }
    }

    /// Linux lets a thread run on to the next tick, 4 ms at 250 Hz, while an event loop waits for the same core. So a write
    /// gives the core up after some rows, a tenth of a millisecond. Not for ever: where others never leave the cores idle,
    /// each time may take milliseconds, and rows have to be written all the same.
    private static func giveWay(since begin: ContinuousClock.Instant) {
        if ContinuousClock.now - begin < longestPatience { sched_yield() }
    }

    private static let rowsPerTurn = 32
    private static let longestPatience = Duration.milliseconds(100)

    private static let insertSQL =
        "INSERT INTO request VALUES (" + Array(repeating: "?", count: 25).joined(separator: ",") + ")"

    private func row(_ request: StoredRequest, id: Int64, _ insert: Statement) -> RowBinder {
        var row = RowBinder(insert)
        func name(_ text: String) {
            if let number = names[text] { row.bind(number) } else { row.bind(text) }
        }
        func tenths(_ duration: Duration?) { row.bind(duration.map { $0.nanoseconds / 100_000 }) }
        row.bind(id)
        if let uuid = UUIDBytes.pack(request.requestID) { row.bind(uuid) } else { row.bind(request.requestID) }
        row.bind(request.route == "batch" ? 1 : 0)
        if let address = AddressText.pack(request.client) { row.bind(address) } else { row.bind(request.client) }
        name(request.model)
        if let upstream = request.upstream { name(upstream) } else { row.bindNull() }
        name(request.mode)
        row.bind(request.status)
        row.bind(Self.outcomes.firstIndex(of: request.outcome) ?? 0)
        row.bind(request.error)
        row.bind(request.isStream ? 1 : 0)
        row.bind(Self.policies.firstIndex(of: request.policy) ?? 0)
        row.bind(request.tokensIn)
        row.bind(request.tokensOut)
        tenths(request.duration)
        tenths(request.queue)
        tenths(request.load)
        tenths(request.connect)
        tenths(request.firstToken)
        tenths(request.generate)
        tenths(request.inference)
        row.bind(request.attempts)
        row.bind(request.plan)
        row.bind(request.why)
        row.bind(request.text)
        return row
    }

    /// The numbers are those of the database: only ever append.
    private static let outcomes: [RequestOutcome] = [
        .ok, .fallback, .refused, .upstreamsFailed, .overloaded, .cutOff, .clientLeft, .drained, .cancelled,
    ]
    private static let policies: [RoutingPolicy] = [.priority, .leastBusy, .fastest, .weighted]

    /// Deletes all rows and begins the totals anew. What was deleted leaves the file and its WAL too, which gives their room
    /// back to the disk. Where another process reads meanwhile, that waits for a later checkpoint, at the latest the last.
    func clear() throws {
        try connections.write { db in
            try db.execute(sql: "DELETE FROM request")
            try db.execute(
                sql: "UPDATE total SET rows = 0, inferences = 0, tokens = 0, time = 0, client_side = 0, server_side = 0"
            )
        }
        try? connections.writeWithoutTransaction { db in try db.execute(sql: "VACUUM") }
        try? checkpoint()
    }

    /// Deletes some of the oldest rows: those that are too old, or too many. Small steps, so that nothing waits for long.
    /// - Parameters:
    ///   - oldest: microseconds since 1970.
    ///   - limit: rows to delete at most.
    /// - Returns: how many were deleted.
    func sweep(olderThan oldest: Int64, keeping maxRows: Int, limit: Int) throws -> Int {
        try connections.write { db in
            let rows = try Int.fetchOne(db, sql: "SELECT rows FROM total") ?? 0
            let tooMany = min(limit, max(0, rows - maxRows))
            try db.execute(
                sql: """
                    DELETE FROM request WHERE id IN (SELECT id FROM request ORDER BY id LIMIT ?)
                    OR id IN (SELECT id FROM request WHERE id < ? ORDER BY id LIMIT ?)
                    """, arguments: [tooMany, oldest, limit])
            let deleted = db.changesCount
            if deleted > 0 { try db.execute(sql: "UPDATE total SET rows = rows - ?", arguments: [deleted]) }
            return deleted
        }
    }

    /// Moves what is in the WAL file to the database.
    func checkpoint() throws {
        guard path != nil else { return }
        _ = try connections.writeWithoutTransaction { db in try db.checkpoint(.truncate) }
    }

    func close() { try? connections.close() }

    /// After the file was replaced, and once it is closed: SQLite would take its WAL file for that of the new file. One
    /// that is not ours any more stays: another process may have begun it.
    func removeLog() {
        guard let path, let logIdentity, FileIdentity(path + "-wal") == logIdentity else { return }
        for suffix in ["-wal", "-shm"] { unlink(path + suffix) }
    }

    /// Bytes of the WAL file where it is larger than `limit` and cannot be emptied, as somebody reads from it; else nil.
    func heldLog(over limit: Int) -> Int? {
        var status = stat()
        guard let path, stat(path + "-wal", &status) == 0, status.st_size > limit,
            let log = try? connections.writeWithoutTransaction({ db in try db.checkpoint(.passive) }),
            log.checkpointedFrameCount < log.walFrameCount
        else { return nil }
        return Int(status.st_size)
    }

    /// Whether the file is still the one that was opened.
    var isInPlace: Bool { path == nil || path.flatMap(FileIdentity.init) == identity }

    // MARK: Reading

    func totals() throws -> (totals: RequestTotals, rows: Int) {
        try connections.read { db in try Self.fetchTotals(db) }
    }

    private static func fetchTotals(_ db: Database) throws -> (totals: RequestTotals, rows: Int) {
        guard let row = try Row.fetchOne(db, sql: "SELECT * FROM total") else { return (RequestTotals(), 0) }
        func total(_ column: String) throws -> Int {
            try StoredColumns(row).number(column, upTo: StoredColumns.maxTotal)
        }
        var totals = RequestTotals()
        totals.inferences = try total("inferences")
        totals.tokens = try total("tokens")
        totals.time = .microseconds(try total("time"))
        totals.clientSide = try total("client_side")
        totals.serverSide = try total("server_side")
        return (totals, try total("rows"))
    }

    /// Newest first.
    func requests(_ filter: HistoryFilter) throws -> [StoredRequest] {
        var conditions: [String] = []
        var values: [(any DatabaseValueConvertible)?] = []
        func add(_ condition: String, _ value: any DatabaseValueConvertible) {
            conditions.append(condition)
            values.append(value)
        }
        if let before = filter.before { add("id < ?", before) }
        if let since = filter.since { add("id >= ?", since) }
        if let id = filter.id { add("id = ?", id) }
        if let requestID = filter.requestID { add("request_id = ?", UUIDBytes.value(requestID)) }
        // A row has the number of a name that was configured when it was written, and the text of any other.
        func addName(_ column: String, _ name: String) {
            conditions.append("(\(column) = ? OR \(column) = (SELECT id FROM name WHERE name = ?))")
            values += [TextColumn.pack(name), name]
        }
        if let upstream = filter.upstream { addName("upstream", upstream) }
        if let model = filter.model { addName("model", model) }
        if let route = filter.route { add("route = ?", route == "batch" ? 1 : 0) }
        if let outcome = filter.outcome { add("outcome = ?", Self.outcomes.firstIndex(of: outcome) ?? -1) }
        if filter.onlyErrors { conditions.append("outcome <> 0") }
        let sql =
            "SELECT * FROM request " + (conditions.isEmpty ? "" : "WHERE " + conditions.joined(separator: " AND "))
            + " ORDER BY id DESC LIMIT ?"
        values.append(filter.limit)
        return try connections.read { db in
            let words = try Self.storedNames(db)
            return try Row.fetchAll(db, sql: sql, arguments: StatementArguments(values)).map { row in
                try Self.request(StoredColumns(row), words)
            }
        }
    }

    private static func storedNames(_ db: Database) throws -> [Int: String] {
        var words: [Int: String] = [:]
        for row in try Row.fetchAll(db, sql: "SELECT id, name FROM name") {
            let columns = StoredColumns(row)
            words[try columns.number("id")] = try columns.text("name") ?? ""
        }
        return words
    }

    /// Microseconds since 1970, in the year 2255.
    private static let maxID = 1 << 53

    private static func request(_ columns: StoredColumns, _ words: [Int: String]) throws -> StoredRequest {
        func word(_ column: String) throws -> String? {
            let value = try columns.value(column)
            switch value.storage {
            case .int64(let number): return words[Int(number)] ?? ""
            default: return TextColumn.unpack(value)
            }
        }
        func time(_ column: String) throws -> Duration? {
            try columns.numberOrNil(column).map { .nanoseconds(Int64($0) * 100_000) }
        }
        let outcome = try columns.number("outcome")
        let policy = try columns.number("policy")
        return StoredRequest(
            id: Int64(try columns.number("id", upTo: maxID)),
            requestID: UUIDBytes.unpack(try columns.value("request_id")),
            route: try columns.number("route") == 1 ? "batch" : "infer",
            client: AddressText.unpack(try columns.value("client")), model: try word("model") ?? "",
            upstream: try word("upstream"), status: try columns.number("status"),
            outcome: outcomes.indices.contains(outcome) ? outcomes[outcome] : .ok, error: try columns.text("error"),
            mode: try word("mode") ?? "", isStream: try columns.number("stream") != 0,
            policy: policies.indices.contains(policy) ? policies[policy] : .priority,
            tokensIn: try columns.numberOrNil("tokens_in"), tokensOut: try columns.number("tokens_out"),
            duration: try time("duration") ?? .zero, queue: try time("queue") ?? .zero,
            load: try time("load") ?? .zero, connect: try time("connect") ?? .zero,
            firstToken: try time("first_token"), generate: try time("generate"),
            inference: try time("inference") ?? .zero, attempts: try columns.text("attempts"),
            plan: try columns.text("plan"), why: try columns.text("why"),
            text: TextColumn.unpack(try columns.value("text")))
    }
}

/// Device and number of a file.
struct FileIdentity: Equatable {
    private let device: UInt64
    private let inode: UInt64
    let isRegular: Bool

    /// Nil where there is no file.
    init?(_ path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
        isRegular = status.st_mode & S_IFMT == S_IFREG
    }
}
