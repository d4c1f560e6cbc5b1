import Dispatch
import GRDB
import GatewayCore
import GatewayWire
import Logging
import Synchronization

/// Keeps the requests of the past, and their totals.
///
/// Recording only appends to a queue in memory, which a queue of its own writes to the database a few times a second. A disk
/// that is full, locked or broken leaves rows waiting there, then costs rows, which are counted, and never holds up a
/// request; it is tried again until it works.
final class HistoryStore: Sendable {
    /// How the store is, for operators.
    struct Status: Sendable, Equatable {
        enum State: String, Sendable { case ok, degraded, off }
        var state: State
        /// Why it is degraded.
        var reason: String?
        var rows: Int
        /// Rows that are not written yet.
        var pending: Int
        /// Rows that were lost, since the start.
        var dropped: Int
        /// Another process reads the database for so long that its WAL file cannot be emptied, and grows.
        var isLogHeld = false
    }

    private struct State {
        /// The newest entries, oldest first: what the WebLLM API and the dashboard show.
        var recent = RecentRequests()
        var pending: [Shared<StoredRequest>] = []
        var pendingBytes = 0
        /// What the totals in the database lack: what waits, and what is being written.
        var unwritten = RequestTotals()
        var inFlight = (rows: 0, bytes: 0, totals: RequestTotals())
        /// What the database has.
        var written = (rows: 0, totals: RequestTotals())
        var dropped = 0
        var lastID: Int64 = 0
        var isWriteScheduled = false
        var mustClear = false
        /// Counts clears: what was read from the database before one says nothing.
        var clears = 0
        /// While there is one, a write is scheduled or under way.
        var problem: String?
        var isLogHeld = false
        var finished = 0
        var isClosed = false
    }

    private let configuration: HistoryConfiguration
    private let known: Set<String>
    private let logger: Logger
    private let state = Mutex(State())
    /// Nil while it cannot be opened.
    private let database = Mutex<HistoryDatabase?>(nil)
    /// Requests go first: its thread has the niceness 2 on Linux.
    private let queue = DispatchQueue(label: "history", qos: .utility)

    /// Entries kept in memory: as many as the WebLLM API gives.
    static let recentCount = 100
    /// Rows and bytes of text that may wait to be written, those of a write under way included.
    static let maxPending = 20_000
    static let maxPendingBytes = 64 << 20
    /// Twice what SQLite keeps of the log after it was moved to the database.
    private static let maxLogBytes = 128 << 20
    private static let writeInterval = DispatchTimeInterval.milliseconds(200)
    private static let retryInterval = DispatchTimeInterval.seconds(1)
    /// Soon, so that a gateway which is restarted often sweeps too.
    private static let firstSweep = DispatchTimeInterval.seconds(1)
    private static let sweepInterval = DispatchTimeInterval.seconds(60)
    private static let sweepStep = 500
    /// Microseconds.
    private static let clockJitter: Int64 = 1_000_000

    /// - Throws: ``GatewayError`` where the database is of a newer version. Anything else that is wrong with it is told in
    ///   the log, and tried again.
    init(_ configuration: GatewayConfiguration, logger: Logger) throws(GatewayError) {
        self.configuration = configuration.history
        self.logger = logger
        known = Set(
            ["client_side", "server_side", configuration.webllm.defaultModel] + configuration.models.map(\.id)
                + configuration.upstreams.map(\.name))
        guard isOn else { return }
        do {
            try open()
        } catch HistoryDatabase.Fault.newerSchema {
            throw GatewayError(
                "the history at \(configuration.history.path ?? "") was made by a newer version of the gateway; it is left "
                    + "as it is: set [history] path to another file, or run the newer version")
        } catch {
            note(problem: error)
            scheduleWrite(after: Self.retryInterval)
        }
        scheduleSweep(after: Self.firstSweep)
    }

    /// Where it is; nil where it is kept in memory alone.
    var path: String? { configuration.path }

    private var isOn: Bool { configuration.maxRows > 0 }

    // MARK: Recording, from any thread

    func record(_ request: consuming StoredRequest) {
        var request = request
        if !configuration.storeText { request.text = nil }
        let bytes = request.text?.utf8.count ?? 0
        let mustSchedule = state.withLock { state in
            // Where the clock was set back, the times go back with it.
            if request.id > state.lastID - Self.clockJitter { request.id = max(state.lastID + 1, request.id) }
            state.lastID = request.id
            state.unwritten.add(request)
            state.finished += 1
            guard isOn else { return false }
            let entry = Shared(request)
            state.recent.append(entry, atMost: Self.recentCount)
            guard state.pending.count + state.inFlight.rows < Self.maxPending,
                state.pendingBytes + state.inFlight.bytes + bytes <= Self.maxPendingBytes
            else {
                state.dropped += 1
                return false
            }
            state.pending.append(entry)
            state.pendingBytes += bytes
            return state.problem == nil && !state.isWriteScheduled
        }
        if mustSchedule { scheduleWrite(after: Self.writeInterval) }
    }

    /// Forgets everything.
    func clear() {
        state.withLock { state in
            state.recent = RecentRequests()
            state.pending = []
            state.pendingBytes = 0
            state.unwritten = RequestTotals()
            state.inFlight = (0, 0, RequestTotals())
            state.written = (0, RequestTotals())
            state.clears += 1
            state.mustClear = true
        }
        queue.async { self.write() }
    }

    private func write() { if isOn { writePending() } else if mustClear { clearUnused() } }

    /// Where nothing is kept any more, the file of the time before still has its rows. Tried until it works.
    private func clearUnused() {
        guard let path = configuration.path, FileIdentity(path) != nil else {
            state.withLock { $0.mustClear = false }
            return
        }
        do {
            let unused = try HistoryDatabase(path: path, known: [])
            defer { unused.close() }
            try unused.clear()
            state.withLock { $0.mustClear = false }
        } catch {
            note(problem: error)
            scheduleWrite(after: Self.retryInterval)
        }
    }

    /// A clear has been asked for, and the file has its rows yet.
    private var mustClear: Bool { state.withLock { $0.mustClear } }

    // MARK: Reading

    /// The newest entries, oldest first; at most ``recentCount``.
    func recent(_ limit: Int) -> [StoredRequest] {
        state.withLock { $0.recent.entries.suffix(max(0, min(limit, Self.recentCount))).map(\.value) }
    }

    /// The newest entries, at most `limit`, oldest first; how many there have been since the start, and how many clears.
    /// - Parameter count: only those that came after the first so many; nil is for those before the start too.
    func recent(afterFirst count: Int?, limit: Int) -> (entries: [StoredRequest], finished: Int, clears: Int) {
        state.withLock { state in
            let new = count.map { max(0, state.finished - $0) } ?? limit
            return (state.recent.entries.suffix(min(limit, new)).map(\.value), state.finished, state.clears)
        }
    }

    func totals() -> (totals: RequestTotals, rows: Int) {
        state.withLock { ($0.written.totals + $0.inFlight.totals + $0.unwritten, Self.rows($0)) }
    }

    private static func rows(_ state: State) -> Int { state.written.rows + state.inFlight.rows + state.pending.count }

    var status: Status {
        guard isOn else { return Status(state: .off, rows: 0, pending: 0, dropped: 0) }
        return state.withLock { state in
            Status(
                state: state.problem == nil ? .ok : .degraded, reason: state.problem,
                rows: Self.rows(state), pending: state.pending.count + state.inFlight.rows, dropped: state.dropped,
                isLogHeld: state.isLogHeld)
        }
    }

    /// Requests of the past, newest first, the last ones included. Answers on a queue of its own.
    func requests(_ filter: HistoryFilter, _ done: @escaping @Sendable (Result<[StoredRequest], any Error>) -> Void) {
        guard isOn else { return done(.success([])) }
        queue.async {
            self.writePending()
            if self.mustClear { self.writePending() }  // one that came meanwhile
            guard !self.mustClear, let database = self.database.withLock({ $0 }) else {
                return done(.failure(GatewayError("the history cannot be read: \(self.status.reason ?? "")")))
            }
            // Reading has connections of its own, so a long search does not hold up the writing.
            DispatchQueue.global(qos: .utility).async {
                let result = Result { try database.requests(filter) }
                if case .failure(let error as DatabaseError) = result, error.isDamage {
                    self.queue.async { self.replaceDamaged(database) }
                }
                done(result)
            }
        }
    }

    // MARK: The queue's work

    /// Opens the file and reads what it knows of the time before. A damaged one makes room for a new one.
    private func open() throws {
        do {
            try openOnce()
        } catch let error as DatabaseError where error.isDamage {
            try moveAside()
            try openOnce()
        }
    }

    private func openOnce() throws {
        let opened = try HistoryDatabase(path: configuration.path, known: known)
        do {
            try readBack(opened)
        } catch {
            opened.close()
            throw error
        }
        database.withLock { $0 = opened }
    }

    /// Opens the file again: it was deleted or replaced, is damaged, or could not be opened before. A damaged one makes
    /// room for a new one.
    private func reopen(isDamaged: Bool = false) throws {
        let (rows, clears) = state.withLock { ($0.written.rows, $0.clears) }
        let old = database.withLock { database in
            defer { database = nil }
            return database
        }
        old?.close()
        if isDamaged {
            try moveAside()
        } else {
            old?.removeLog()
        }
        try open()
        let lost = state.withLock { state in
            guard state.clears == clears else { return 0 }
            let lost = max(0, rows - state.written.rows)
            state.dropped += lost
            return lost
        }
        guard old != nil, !isDamaged else { return }
        logger.error(
            "history file was deleted or replaced: opened again",
            metadata: ["path": .string(configuration.path ?? ""), "lost": .stringConvertible(lost)])
    }

    private func moveAside() throws {
        if let path = configuration.path { try DamagedFile.moveAside(path, logger: logger) }
    }

    /// Reading and sweeping find damage that writing goes on beside.
    private func replaceDamaged(_ damaged: HistoryDatabase) {
        guard database.withLock({ $0 === damaged }) else { return }
        do {
            try reopen(isDamaged: true)
        } catch {
            note(problem: error)
            scheduleWrite(after: Self.retryInterval)
        }
    }

    /// The totals and the newest entries.
    /// - Throws: where the file is damaged. What cannot be read for another reason is left out.
    private func readBack(_ opened: HistoryDatabase) throws {
        try readTotals(opened)
        let clears = state.withLock { $0.clears }
        var newest = HistoryFilter()
        newest.limit = Self.recentCount
        guard let entries = try readable({ try opened.requests(newest) }) else { return }
        state.withLock { state in
            guard state.clears == clears, !state.mustClear else { return }
            let newer = state.recent.entries
            let known = Set(newer.map(\.id))
            state.recent = RecentRequests()
            for entry in entries.reversed().filter({ !known.contains($0.id) }).map({ Shared($0) }) + newer {
                state.recent.append(entry, atMost: Self.recentCount)
            }
        }
    }

    private func readTotals(_ opened: HistoryDatabase) throws {
        let clears = state.withLock { $0.clears }
        guard let read = try readable({ try opened.totals() }) else { return }
        state.withLock { state in
            guard state.clears == clears, !state.mustClear else { return }
            state.written = (read.rows, read.totals)
        }
    }

    /// - Returns: nil where it cannot be read now.
    private func readable<Value>(_ read: () throws -> Value) throws -> Value? {
        do {
            return try read()
        } catch let error as DatabaseError where error.isDamage {
            throw error
        } catch {
            return nil
        }
    }

    /// At most one write is scheduled at a time.
    private func scheduleWrite(after interval: DispatchTimeInterval) {
        let isScheduled = state.withLock { state in
            defer { state.isWriteScheduled = true }
            return state.isWriteScheduled
        }
        guard !isScheduled else { return }
        queue.asyncAfter(deadline: .now() + interval) {
            self.state.withLock { $0.isWriteScheduled = false }
            if !self.state.withLock({ $0.isClosed }) { self.write() }
        }
    }

    private func writePending() {
        let (batch, totals, mustClear, clears, mustTry) = state.withLock { state in
            defer {
                state.inFlight = (state.pending.count, state.pendingBytes, state.unwritten)
                state.pending = []
                state.pendingBytes = 0
                state.unwritten = RequestTotals()
            }
            let hasWork = !state.pending.isEmpty || state.unwritten != RequestTotals() || state.mustClear
            // What is broken is tried again even if nothing waits.
            let mustTry = !state.isClosed && (hasWork || state.problem != nil)
            return (state.pending, state.unwritten, state.mustClear, state.clears, mustTry)
        }
        guard mustTry else { return }
        do {
            if database.withLock({ $0?.isInPlace }) != true { try reopen() }
            guard let database = database.withLock({ $0 }) else { return }
            if mustClear { try database.clear() }
            noteWritten(try database.write(batch, adding: totals), clears)
            note(heldLog: database.heldLog(over: Self.maxLogBytes))
        } catch {
            if (error as? DatabaseError)?.isDamage == true { try? reopen(isDamaged: true) }
            putBack(batch, totals, clears)
            note(problem: error)
            scheduleWrite(after: Self.retryInterval)
        }
    }

    /// What could not be written waits again, in front of what came since.
    private func putBack(_ batch: [Shared<StoredRequest>], _ totals: RequestTotals, _ clears: Int) {
        state.withLock { state in
            guard state.clears == clears else { return }
            state.unwritten = totals + state.unwritten
            state.pending = batch + state.pending
            state.pendingBytes += state.inFlight.bytes
            state.inFlight = (0, 0, RequestTotals())
        }
    }

    private func scheduleSweep(after interval: DispatchTimeInterval) {
        queue.asyncAfter(deadline: .now() + interval) { [weak self] in self?.sweep() }
    }

    /// A small step; the next follows soon where there is more to delete, after what waits to be written.
    private func sweep() {
        let oldest = Timestamp.now.microseconds - configuration.retention.nanoseconds / 1000
        state.withLock { $0.recent.remove(olderThan: oldest, keeping: configuration.maxRows) }
        var deleted = 0
        if let database = database.withLock({ $0 }) {
            do {
                deleted = try database.sweep(
                    olderThan: oldest, keeping: configuration.maxRows, limit: Self.sweepStep)
                if deleted > 0 { try readTotals(database) }
            } catch let error as DatabaseError where error.isDamage {
                replaceDamaged(database)
            } catch {}  // a disk that is full or locked: the next sweep comes
        }
        scheduleSweep(after: deleted > 0 ? .milliseconds(5) : Self.sweepInterval)
    }

    // MARK: Trouble

    private func note(problem error: any Error) {
        let reason = (error as? DatabaseError)?.reason ?? "\(error)"
        let isNew = state.withLock { state in
            defer { state.problem = reason }
            return state.problem != reason
        }
        guard isNew else { return }
        logger.error(
            "history cannot be written; requests go on without it",
            metadata: ["path": .string(configuration.path ?? ":memory:"), "reason": .string(reason)])
    }

    private func note(heldLog bytes: Int?) {
        let wasHeld = state.withLock { state in
            defer { state.isLogHeld = bytes != nil }
            return state.isLogHeld
        }
        guard let bytes, !wasHeld else { return }
        logger.warning(
            "history's WAL file grows: another process reads the database for long",
            metadata: ["path": .string(configuration.path ?? ""), "bytes": .stringConvertible(bytes)])
    }

    private func noteWritten(_ written: (totals: RequestTotals, rows: Int), _ clears: Int) {
        let (wasBroken, dropped, hasMore) = state.withLock { state in
            if state.clears == clears {
                state.written = (written.rows, written.totals)
                state.inFlight = (0, 0, RequestTotals())
                state.mustClear = false
            }
            defer { state.problem = nil }
            return (state.problem != nil, state.dropped, !state.pending.isEmpty)
        }
        if hasMore { scheduleWrite(after: Self.writeInterval) }
        if wasBroken {
            logger.info("history is written again", metadata: ["dropped": .stringConvertible(dropped)])
        }
    }

    /// Writes what waits and closes the file; blocks for as long as that takes, at most a few seconds.
    func close() {
        queue.sync {
            write()
            let (lost, mustClear) = state.withLock { state in
                state.isClosed = true
                return (state.pending.count, state.mustClear)
            }
            if mustClear {
                logger.error(
                    "history ends before it is cleared: what was to be deleted is there at the next start",
                    metadata: ["path": .string(configuration.path ?? ":memory:")])
            }
            if lost > 0 {
                logger.error("history ends before all is written", metadata: ["lost": .stringConvertible(lost)])
            }
            guard let database = database.withLock({ $0 }) else { return }
            try? database.checkpoint()
            database.close()
            self.database.withLock { $0 = nil }
        }
    }
}
