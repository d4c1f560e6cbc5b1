import CurlMulti
import GatewayCore
import GatewayWire
import Logging
import NIOCore
import Synchronization

/// What all requests share: the snapshot of the configuration, the upstreams and their state, the stores, the logs.
package final class Gateway: Sendable {
    let engine: CurlEngine
    let history: HistoryStore
    let logger: Logger
    let limits = LimitCounters()
    let metrics = Metrics()
    let loader = ModelLoader()
    private let logSink: LogSink
    /// That of the start: a log has one.
    private let logFormat: LogConfiguration.Format
    private let current: Mutex<Snapshot>
    private let table: Mutex<UpstreamTable>
    private let waiting = Mutex<[WaiterID: Generation]>([:])
    private let modelSettings = Mutex<[[UInt8]: ModelSettings]>([:])
    private let nextWaiter = Atomic<UInt64>(0)
    private let draining = Atomic<Bool>(false)
    private let connections = Atomic<Int>(0)
    private let adminConnections = Atomic<Int>(0)
    /// Of request bodies in memory, of all connections.
    let bodyBytes = Atomic<Int>(0)
    private let running = Atomic<Int>(0)
    private let connectionsByAddress = Mutex<[ClientID: Int]>([:])
    /// What the server that runs this gateway can be asked to do; nil before it runs and after it stopped.
    var operations: (any GatewayOperations)? {
        operationsBox.withLock { $0 }
    }
    private let operationsBox = Mutex<(any GatewayOperations)?>(nil)
    let started = MonotonicTime.now

    /// Connections of operators at once; they have no part in those of clients.
    static let maxAdminConnections = 64

    /// Stored settings are kept for at most so many models: clients name them.
    static let maxModelSettings = 1000

    package init(
        _ configuration: GatewayConfiguration, logger: Logger, logSink: LogSink
    ) throws(GatewayError) {
        self.logger = logger
        self.logSink = logSink
        logFormat = configuration.log.format
        let table = UpstreamTable(
            upstreams: configuration.upstreams, routing: configuration.routing, models: configuration.models)
        current = Mutex(try Snapshot(configuration, ids: table.statuses(now: .now).map(\.id)))
        self.table = Mutex(table)
        history = try HistoryStore(configuration, logger: logger)
        var engineConfiguration = CurlEngineConfiguration()
        let loops = configuration.server.curlLoops
        engineConfiguration.loops = loops == 0 ? min(System.coreCount, ServerConfiguration.maxCurlLoops) : loops
        do {
            engine = try CurlEngine(engineConfiguration)
        } catch {
            throw GatewayError(error.description)
        }
    }

    func setOperations(_ operations: (any GatewayOperations)?) { operationsBox.withLock { $0 = operations } }

    // MARK: Configuration

    var snapshot: Snapshot { current.withLock { $0 } }

    package var configuration: GatewayConfiguration { snapshot.configuration }

    /// Takes a validated configuration over; running requests keep theirs.
    func apply(_ configuration: GatewayConfiguration) throws(GatewayError) -> Snapshot {
        for upstream in configuration.upstreams { _ = try UpstreamEndpoint(upstream) }
        // Both at once: who is given an upstream that is new finds it in the snapshot.
        let (snapshot, grants) = try table.withLock { table throws(GatewayError) in
            let (ids, grants) = table.configure(
                upstreams: configuration.upstreams, routing: configuration.routing, models: configuration.models,
                now: .now)
            let snapshot = try Snapshot(configuration, ids: ids)
            current.withLock { $0 = snapshot }
            return (snapshot, grants)
        }
        grant(grants)
        dismissStranded()
        return snapshot
    }

    // MARK: Choice and admission: compute under the lock, act after it

    func makeWaiterID() -> WaiterID {
        WaiterID(rawValue: nextWaiter.add(1, ordering: .relaxed).newValue)
    }

    func hasAttemptLeft(_ request: SelectionRequest) -> Bool {
        table.withLock { $0.hasAttemptLeft(request, now: .now) }
    }

    func select(_ request: SelectionRequest, for generation: Generation) -> Selection {
        let selection = table.withLock { table in
            let selection = table.select(request, now: .now)
            if case .wait = selection { waiting.withLock { $0[request.waiter] = generation } }
            return selection
        }
        switch selection {
        case .wait(_, _, let displaced?):
            limits.note(.queue)
            let retryAfter = table.withLock { $0.retryAfter(ofQueueOf: request.waiter) }
            waiting.withLock { $0.removeValue(forKey: displaced) }?.displace(retryAfter: retryAfter)
        case .refuse: limits.note(.queue)
        case .exhausted(.retryBudget): limits.note(.retryBudget)
        case .attempt, .wait, .exhausted: break
        }
        return selection
    }

    /// - Returns: seconds until it may be worth to come back; nil where it is not in the queue any more, and what took it
    ///   out is on its way to it.
    @discardableResult
    func leaveQueue(_ waiter: WaiterID) -> Int? {
        table.withLock { table in
            guard let retryAfter = table.cancelWait(waiter) else { return nil }
            waiting.withLock { $0[waiter] = nil }
            return retryAfter
        }
    }

    func settle(_ upstream: UpstreamID, client: ClientID, _ report: AttemptReport) {
        let jitter = report.verdict == .failure ? Double.random(in: -1...1) : 0
        let (grants, transition) = table.withLock {
            $0.settle(upstream, client: client, report, jitter: jitter, now: .now)
        }
        grant(grants)
        if let transition { tell(transition, upstream, reason: report.failure?.label) }
    }

    private func grant(_ grants: [Grant]) {
        for grant in grants {
            let generation = waiting.withLock { $0.removeValue(forKey: grant.waiter) }
            generation?.grant(grant.choice)
        }
    }

    private func dismissStranded() {
        for waiter in table.withLock({ $0.removeStranded(now: .now) }) {
            waiting.withLock { $0.removeValue(forKey: waiter) }?.strand()
        }
    }

    /// Rests and breakers end with time alone: those who wait are looked at again.
    func wakeQueue() {
        guard waiting.withLock({ !$0.isEmpty }) else { return }
        grant(table.withLock { $0.wake(now: .now) })
    }

    /// Items of one batch that run at once.
    var batchWidth: Int { table.withLock { $0.totalSlots(now: .now) } }

    /// A dry run for one model.
    func plan(_ modelID: String) -> Plan {
        let request = SelectionRequest(waiter: WaiterID(rawValue: 0), modelID: modelID)
        return table.withLock { Plan(request, $0, now: .now) }
    }

    /// What would become of a request now.
    struct Plan: Sendable {
        /// Best first.
        let candidates: [Candidate]
        /// Who is asked where nobody is available.
        let lastResort: UpstreamID?
        /// Where it would wait.
        let usable: UpstreamID?
        let isQueueFull: Bool

        init(_ request: SelectionRequest, _ table: UpstreamTable, now: MonotonicTime) {
            candidates = table.plan(request, now: now)
            lastResort = table.lastResort(request)
            usable = table.firstUsable(request, now: now)
            isQueueFull = usable.map { table.isQueueFull($0) } ?? false
        }
    }

    var retriesLeft: Int { table.withLock { $0.retriesLeft(now: .now) } }

    // MARK: Models

    func isCold(_ id: UpstreamID, model: String?) -> Bool { table.withLock { $0.isCold(id, model: model) } }

    func isAvailableElsewhere(_ request: SelectionRequest, than id: UpstreamID) -> Bool {
        table.withLock { $0.isAvailableElsewhere(request, than: id, now: .now) }
    }

    func isLoadedElsewhere(_ request: SelectionRequest, than id: UpstreamID) -> Bool {
        table.withLock { $0.isLoadedElsewhere(request, than: id, now: .now) }
    }

    func setInstalled(_ id: UpstreamID, _ models: [String]) { table.withLock { $0.setInstalled(id, models) } }

    func setLoaded(_ id: UpstreamID, _ models: LoadedModels, asked: MonotonicTime) {
        table.withLock { $0.setLoaded(id, models, asked: asked) }
    }

    func noteLoaded(_ id: UpstreamID, _ model: String) { table.withLock { $0.noteLoaded(id, model, now: .now) } }

    // MARK: Health

    func probeFinished(_ id: UpstreamID, success: Bool, reason: String, detail: String?) -> UpstreamTransition? {
        let (transition, grants) = table.withLock { $0.probeFinished(id, success: success, now: .now) }
        grant(grants)
        metrics.probe(name(of: id), success: success)
        if let transition { tell(transition, id, reason: reason, detail: detail) }
        return transition
    }

    private func tell(_ transition: UpstreamTransition, _ id: UpstreamID, reason: String?, detail: String? = nil) {
        var metadata: Logger.Metadata = ["upstream": .string(name(of: id))]
        metrics.transition(name(of: id), transition)
        switch transition {
        case .probedUp: logger.info("upstream is up", metadata: metadata)
        case .probedDown:
            metadata["reason"] = .string(reason ?? "")
            if let detail { metadata["detail"] = .string(detail) }
            logger.warning("upstream is down", metadata: metadata)
        case .breakerOpened(let until):
            metadata["reason"] = .string(reason ?? "")
            metadata["seconds"] = .stringConvertible(Int((until - .now).milliseconds / 1000))
            logger.warning("breaker opened", metadata: metadata)
        case .breakerClosed: logger.info("breaker closed", metadata: metadata)
        }
    }

    /// One that is no longer configured has its name still: requests may end there.
    private func name(of id: UpstreamID) -> String { table.withLock { $0.name(of: id) } }

    func healthSummary(_ statuses: [UpstreamStatus]) -> HealthSummary {
        HealthSummary(statuses, isHistoryDegraded: history.status.state == .degraded)
    }

    package func upstreamStatuses() -> [UpstreamStatus] { table.withLock { $0.statuses(now: .now) } }

    /// - Returns: nil where no upstream has the name.
    func setMode(_ name: String, _ mode: OperatorMode) -> UpstreamID? {
        guard let (id, grants) = table.withLock({ $0.setMode(name, mode, now: .now) }) else { return nil }
        grant(grants)
        dismissStranded()
        logger.info(
            "operator changed an upstream", metadata: ["upstream": .string(name), "mode": "\(mode.rawValue)"])
        return id
    }

    func mode(_ id: UpstreamID) -> OperatorMode { table.withLock { $0.mode(id) } }

    // MARK: Model settings of `config/models`

    func settings(for model: String) -> ModelSettings? {
        modelSettings.withLock { $0.isEmpty ? nil : $0[Array(model.utf8)] }
    }

    /// - Returns: false where no more models can have settings.
    func store(_ settings: ModelSettings) -> Bool {
        modelSettings.withLock { stored in
            let key = Array(settings.modelType.utf8)
            guard stored[key] != nil || stored.count < Self.maxModelSettings else { return false }
            stored[key] = settings
            return true
        }
    }

    // MARK: Connections and life cycle

    /// Prompts on their way to an answer.
    var runningCount: Int { running.load(ordering: .relaxed) }

    func noteRunning(_ change: Int) { running.add(change, ordering: .relaxed) }

    var isDraining: Bool { draining.load(ordering: .relaxed) }

    func startDraining() { draining.store(true, ordering: .relaxed) }

    /// Whether a load balancer should send requests here.
    var isReady: Bool { !isDraining && upstreamStatuses().contains(where: \.isAvailable) }

    /// - Returns: whether the connection may be served: of clients no more than `max_connections` at once or than there are
    ///   open files for, and of one address no more than `max_connections_per_address`.
    func connectionOpened(_ client: ClientID, of audience: Routes.Audience) -> Bool {
        guard audience == .clients else {
            if adminConnections.add(1, ordering: .relaxed).newValue <= Self.maxAdminConnections { return true }
            adminConnections.subtract(1, ordering: .relaxed)
            limits.note(.adminConnections)
            return false
        }
        let server = configuration.server
        guard connections.add(1, ordering: .relaxed).newValue <= OpenFiles.clientRoom(for: server) else {
            connections.subtract(1, ordering: .relaxed)
            limits.note(.connections)
            return false
        }
        let ofAddress = connectionsByAddress.withLock { counts in
            counts[client, default: 0] += 1
            return counts[client, default: 0]
        }
        guard ofAddress <= server.maxConnectionsPerAddress else {
            connectionClosed(client, of: .clients)
            limits.note(.connectionsPerAddress)
            return false
        }
        return true
    }

    func connectionClosed(_ client: ClientID, of audience: Routes.Audience) {
        guard audience == .clients else {
            adminConnections.subtract(1, ordering: .relaxed)
            return
        }
        connections.subtract(1, ordering: .relaxed)
        connectionsByAddress.withLock { counts in
            if let count = counts[client] { counts[client] = count > 1 ? count - 1 : nil }
        }
    }

    /// For a request body.
    /// - Returns: false where there is no room for so many bytes more.
    func reserve(_ bytes: Int, of limit: Int) -> Bool {
        if bodyBytes.add(bytes, ordering: .relaxed).newValue <= limit { return true }
        release(bytes)
        limits.note(.bodyMemory)
        return false
    }

    func release(_ bytes: Int) {
        if bytes > 0 { bodyBytes.subtract(bytes, ordering: .relaxed) }
    }

    /// Of clients.
    package var openConnections: Int { connections.load(ordering: .relaxed) }

    // MARK: Logs

    var droppedLogLines: Int { logSink.droppedLines }

    /// Whether some were within the last five minutes.
    var dropsLogLines: Bool { logSink.lastDrop.map { .now - $0 < .seconds(300) } ?? false }

    /// A request is over: counted, and told in the access log.
    func finished(_ record: AccessRecord, _ configuration: LogConfiguration) {
        metrics.request(record)
        guard configuration.access else { return }
        logSink.write(.info, "request", logFormat) { record.write(&$0) }
    }

    /// - Parameters:
    ///   - detail: libcurl's words for it.
    ///   - timer: the value of the timer that ended the attempt.
    func logFailure(
        _ failure: AttemptFailure, _ detail: String?, upstream: UpstreamConfiguration, requestID: String,
        elapsed: Duration, timer: Duration?, _ decision: FallbackDecision
    ) {
        var metadata: Logger.Metadata = [
            "upstream": .string(upstream.name), "failure": .string(failure.label),
            "elapsed_ms": .stringConvertible(Int(elapsed.milliseconds)), "request_id": .string(requestID),
        ]
        if let timer { metadata["timer"] = .string(DurationText.format(timer)) }
        if let detail { metadata["detail"] = .string(detail) }
        logger.log(level: decision.isConfigurationFault ? .warning : .info, "attempt failed", metadata: metadata)
    }

    /// A timer that no upstream has to answer for has ended a request.
    /// - Parameters:
    ///   - name: its key in gateway.conf, without `_timeout`.
    ///   - limit: its value.
    func logTimer(_ name: String, of limit: Duration, _ elapsed: Duration, requestID: String?) {
        var metadata: Logger.Metadata = [
            "timer": .string(name), "limit": .string(DurationText.format(limit)),
            "elapsed_ms": .stringConvertible(Int(elapsed.milliseconds)),
        ]
        if let requestID { metadata["request_id"] = .string(requestID) }
        logger.info("request timed out", metadata: metadata)
    }
}

/// What the running server does for operators.
protocol GatewayOperations: Sendable {
    /// Reads the configuration again and takes it over, or keeps the old one.
    /// - Returns: settings that take effect only at a restart.
    func reload() throws -> [String]
    /// Ends what runs at an upstream.
    func interrupt(_ upstream: UpstreamID)
    /// The requests that run now, the oldest first, at most `limit` of them, and how many there are.
    func running(_ limit: Int, _ done: @escaping @Sendable (_ requests: [RunningRequest], _ total: Int) -> Void)
    /// Ends a running request; the answer is whether it ran.
    func cancel(_ id: UInt64, _ done: @escaping @Sendable (Bool) -> Void)
}
