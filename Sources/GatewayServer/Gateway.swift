import CurlMulti
import GatewayCore
import GatewayWire
import Logging
import NIOCore
import Synchronization

/// What all requests share: the snapshot of the configuration, the upstreams and their state, the stores, the logs.
package final class Gateway: Sendable {
    let configuration: GatewayConfiguration
    let endpoints: [UpstreamEndpoint]
    let models: ModelMap
    let engine: CurlEngine
    let store: any RequestStore
    let logger: Logger
    let webllmLimits: WebLLMLimits
    private let logSink: LogSink
    private let table: Mutex<UpstreamTable>
    private let waiting = Mutex<[WaiterID: Generation]>([:])
    private let modelSettings = Mutex<[[UInt8]: ModelSettings]>([:])
    private let nextWaiter = Atomic<UInt64>(0)
    private let draining = Atomic<Bool>(false)
    private let connections = Atomic<Int>(0)

    /// Stored settings are kept for at most so many models: clients name them.
    static let maxModelSettings = 1000

    package init(
        _ configuration: GatewayConfiguration, logger: Logger, logSink: LogSink
    ) throws(GatewayError) {
        self.configuration = configuration
        self.logger = logger
        self.logSink = logSink
        var endpoints: [UpstreamEndpoint] = []
        for upstream in configuration.upstreams { endpoints.append(try UpstreamEndpoint(upstream)) }
        self.endpoints = endpoints
        models = ModelMap(models: configuration.models, upstreams: configuration.upstreams)
        table = Mutex(UpstreamTable(upstreams: configuration.upstreams, routing: configuration.routing))
        store = MemoryStore(capacity: configuration.history.maxEntries)
        webllmLimits = WebLLMLimits(
            maxPromptCharacters: configuration.webllm.maxPromptCharacters, maxBatch: configuration.webllm.maxBatch)
        var engineConfiguration = CurlEngineConfiguration()
        engineConfiguration.loops = configuration.server.curlLoops
        do {
            engine = try CurlEngine(engineConfiguration)
        } catch {
            throw GatewayError(error.description)
        }
    }

    // MARK: Choice and admission: compute under the lock, act after it

    func makeWaiterID() -> WaiterID {
        WaiterID(rawValue: nextWaiter.add(1, ordering: .relaxed).newValue)
    }

    func select(_ request: SelectionRequest, for generation: Generation) -> Selection {
        table.withLock { table in
            let selection = table.select(request, now: .now)
            if case .wait = selection { waiting.withLock { $0[request.waiter] = generation } }
            return selection
        }
    }

    func leaveQueue(_ waiter: WaiterID) {
        table.withLock { $0.cancelWait(waiter) }
        waiting.withLock { $0[waiter] = nil }
    }

    func settle(_ upstream: UpstreamID, rest: Duration?, heldFor: Duration) {
        grant(table.withLock { $0.settle(upstream, rest: rest, heldFor: heldFor, now: .now) })
    }

    private func grant(_ grants: [Grant]) {
        for grant in grants {
            let generation = waiting.withLock { $0.removeValue(forKey: grant.waiter) }
            generation?.grant(grant.choice)
        }
    }

    /// Items of one batch that run at once.
    var batchWidth: Int { table.withLock { $0.totalSlots } }

    // MARK: Health

    func probeFinished(_ id: UpstreamID, success: Bool, reason: String) {
        let (change, grants) = table.withLock { $0.probeFinished(id, success: success, now: .now) }
        grant(grants)
        guard let change else { return }
        let metadata: Logger.Metadata = ["upstream": .string(endpoints[id.index].configuration.name)]
        switch change {
        case .up: logger.notice("upstream is up", metadata: metadata)
        case .down:
            logger.warning(
                "upstream is down", metadata: metadata.merging(["reason": .string(reason)]) { _, new in new })
        case .unknown: break
        }
    }

    func setModels(_ id: UpstreamID, _ models: [String]) { table.withLock { $0.setModels(id, models) } }

    func upstreamStatuses() -> [UpstreamStatus] { table.withLock { $0.statuses(now: .now) } }

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

    var isDraining: Bool { draining.load(ordering: .relaxed) }

    func startDraining() { draining.store(true, ordering: .relaxed) }

    /// - Returns: whether the connection may be served: no more than `max_connections` at once.
    func connectionOpened() -> Bool {
        if connections.add(1, ordering: .relaxed).newValue <= configuration.server.maxConnections { return true }
        connectionClosed()
        return false
    }

    func connectionClosed() { connections.subtract(1, ordering: .relaxed) }

    package var openConnections: Int { connections.load(ordering: .relaxed) }

    // MARK: Logs

    func logAccess(_ record: AccessRecord, loop: LoopContext) {
        guard configuration.log.access else { return }
        logSink.write { lines in
            var line = LogLine(configuration.log.format, into: &lines)
            record.write(&line)
            line.end(&lines)
        }
    }

    func logRefused(_ refusal: RequestRefusal, loop: LoopContext) {
        logAccess(
            AccessRecord(
                requestID: "", route: "none", method: "", status: refusal.status, outcome: .refused, duration: .zero),
            loop: loop)
    }

    func logFailure(
        _ failure: AttemptFailure, upstream: UpstreamConfiguration, elapsed: Duration, _ decision: FallbackDecision
    ) {
        var metadata: Logger.Metadata = [
            "upstream": .string(upstream.name), "failure": .string(failure.label),
            "elapsed_ms": .stringConvertible(Int(elapsed.milliseconds)),
        ]
        let timer: Duration? =
            switch failure {
            case .connectTimer: upstream.timeouts.connect
            case .firstTokenTimer: upstream.timeouts.firstToken
            case .idleTimer: upstream.timeouts.idle
            default: nil
            }
        if let timer { metadata["timer"] = .string("\(timer)") }
        logger.log(level: decision.isConfigurationFault ? .warning : .info, "attempt failed", metadata: metadata)
    }
}
