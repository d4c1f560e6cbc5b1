import CurlMulti
import GatewayCore
import GatewayWire
import Logging
import NIOCore

/// The probers of all upstreams of the present snapshot. Lives on one event loop.
final class ProberSet {
    private let gateway: Gateway
    private let loop: LoopContext
    private var probers: [UpstreamID: HealthProber] = [:]

    init(gateway: Gateway, loop: LoopContext) {
        self.gateway = gateway
        self.loop = loop
    }

    /// Starts, stops and replaces probers so that they are those of a snapshot.
    func update(_ snapshot: Snapshot) {
        for (id, prober) in probers where snapshot.endpoints[id]?.configuration != prober.configuration {
            prober.stop()
            probers[id] = nil
        }
        for (id, endpoint) in snapshot.endpoints where probers[id] == nil {
            let prober = HealthProber(gateway: gateway, loop: loop, id: id, endpoint: endpoint)
            probers[id] = prober
            prober.start()
        }
    }

    func stop() {
        for prober in probers.values { prober.stop() }
        probers = [:]
    }
}

/// Probes one upstream on its own timer, with at most one probe outstanding. Runs on one event loop.
final class HealthProber {
    private let gateway: Gateway
    private let loop: LoopContext
    private let id: UpstreamID
    private let endpoint: UpstreamEndpoint
    private var timer: Scheduled<Void>?
    private var transfer: Transfer?
    private var modelsFreshUntil = MonotonicTime(nanoseconds: 0)
    private var evidence = Evidence.unknown
    /// A prober that a reload made finds its upstream up already, and has models of its own to load.
    private var hasWarmed = false
    private var isStopped = false

    /// What tells most of an OpenAI-shaped server and costs it nothing.
    private enum Evidence {
        /// Its list of models is asked for first.
        case unknown
        case list
        case health
    }

    private static let modelListInterval: Duration = .seconds(30)
    private static let loadedTimeout: Duration = .seconds(1)
    private static let maxBody = 4 << 20

    init(gateway: Gateway, loop: LoopContext, id: UpstreamID, endpoint: UpstreamEndpoint) {
        self.gateway = gateway
        self.loop = loop
        self.id = id
        self.endpoint = endpoint
    }

    var configuration: UpstreamConfiguration { endpoint.configuration }

    func start() { probe() }

    func stop() {
        isStopped = true
        timer?.cancel()
        transfer?.cancel()
    }

    // MARK: One probe

    private func probe() {
        guard !isStopped else { return }
        guard gateway.mode(id) != .disabled else {
            schedule()
            return
        }
        let health = evidence == .health ? UpstreamPaths.health(configuration) : nil
        get(health ?? UpstreamPaths.liveness(configuration)) { [self] reply in
            if learn(from: reply) { return probe() }
            let status = reply.status
            let isAlive = reply.failure == nil && (configuration.kind == .query ? status < 500 : status == 200)
            // Another server may come in its place.
            if !isAlive { evidence = .unknown }
            if isAlive, evidence == .list { noteInstalled(reply) }
            finished(
                isAlive, reason: reply.failure?.reason.rawValue ?? "status \(status)", detail: reply.failure?.detail)
        }
    }

    /// - Returns: whether something else tells more, and must be asked now. At most twice in a row.
    private func learn(from reply: ReplyCollector.Collected) -> Bool {
        guard configuration.kind == .openai, reply.failure == nil else { return false }
        let isMissing = reply.status == 404 || reply.status == 405
        switch evidence {
        case .unknown where isMissing:
            evidence = .health
            return true
        case .unknown where reply.status == 200:
            evidence = UpstreamPaths.hasFreeHealth(reply.body, parser: loop.parser) ? .health : .list
            return evidence == .health
        // What stands in front may let nothing else through.
        case .health where (400...499).contains(reply.status):
            evidence = .list
            return true
        default:
            return false
        }
    }

    private func finished(_ isAlive: Bool, reason: String, detail: String?) {
        let transition = gateway.probeFinished(id, success: isAlive, reason: reason, detail: detail)
        if isAlive, !hasWarmed || transition == .probedUp { warm() }
        guard isAlive else {
            modelsFreshUntil = MonotonicTime(nanoseconds: 0)
            schedule()
            return
        }
        listLoaded()
    }

    /// Loads the configured models after the start, after a reload that changed the upstream, and after a recovery.
    private func warm() {
        hasWarmed = true
        guard endpoint.configuration.kind == .ollama else { return }
        for model in endpoint.configuration.warm.models {
            gateway.loader.load(model, on: id, endpoint, gateway, loop: loop, for: nil)
        }
    }

    /// Which models the upstream has in memory, where it tells. A server that is loading one may not answer: that is evidence too.
    private func listLoaded() {
        guard let path = UpstreamPaths.loadedModels(endpoint.configuration) else { return listInstalled() }
        let asked = MonotonicTime.now
        get(path, timeout: Self.loadedTimeout) { [self] reply in
            if reply.failure?.reason == .totalTimer {
                gateway.setLoaded(id, .hanging, asked: asked)
            } else if let models = models(in: reply) {
                gateway.setLoaded(id, .models(models), asked: asked)
            } else {
                gateway.setLoaded(id, .unknown, asked: asked)  // an old Ollama without the list
            }
            listInstalled()
        }
    }

    private func listInstalled() {
        guard .now >= modelsFreshUntil, let path = UpstreamPaths.installedModels(endpoint.configuration) else {
            return schedule()
        }
        get(path) { [self] reply in
            noteInstalled(reply)
            // Another server may have come in its place between two probes.
            if evidence == .health, reply.failure == nil, reply.status == 200,
                !UpstreamPaths.hasFreeHealth(reply.body, parser: loop.parser)
            {
                evidence = .list
            }
            schedule()
        }
    }

    private func noteInstalled(_ reply: ReplyCollector.Collected) {
        guard .now >= modelsFreshUntil else { return }
        modelsFreshUntil = .now + Self.modelListInterval
        if let models = models(in: reply) { gateway.setInstalled(id, models) }
    }

    private func models(in reply: ReplyCollector.Collected) -> [String]? {
        guard reply.failure == nil, reply.status == 200 else { return nil }
        return ModelListReader.models(reply.body, kind: endpoint.configuration.kind, parser: loop.parser)
    }

    /// The next probe after the interval ±10 %, so that probes of many gateways do not fall together.
    private func schedule() {
        guard !isStopped else { return }
        let interval = endpoint.configuration.health.interval.nanoseconds
        let delay = interval + Int64.random(in: -interval / 10...interval / 10, using: &loop.random)
        let bound = NIOLoopBound(self, eventLoop: loop.eventLoop)
        timer = loop.eventLoop.scheduleTask(in: .nanoseconds(delay)) { bound.value.probe() }
    }

    private func get(
        _ path: String, timeout: Duration? = nil, _ done: @escaping (ReplyCollector.Collected) -> Void
    ) {
        let request = TransferRequest(
            method: .get, target: endpoint.configuration.url.target(path), headers: endpoint.getHeaders,
            timers: TransferTimers(total: timeout ?? endpoint.configuration.health.timeout))
        transfer = ReplyCollector.send(request, by: gateway.engine, on: loop, maxBody: Self.maxBody) { [self] reply in
            if !isStopped { done(reply) }
        }
    }
}
