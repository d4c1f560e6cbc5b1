import CurlMulti
import Dispatch
import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// The routes for operators.
enum AdminReplies {
    /// On every listener: for load balancers and service managers.
    static let healthRoutes: [Routes.Route] = [
        Routes.Route(method: .GET, path: "/healthz", name: "healthz", action: .reply(healthz)),
        Routes.Route(method: .GET, path: "/readyz", name: "readyz", action: .reply(readyz)),
    ]

    static let routes: [Routes.Route] = [
        Routes.Route(method: .GET, path: "/admin/status", name: "admin_status", action: .reply(status)),
        Routes.Route(method: .GET, path: "/admin/explain", name: "admin_explain", action: .reply(explain)),
        Routes.Route(
            method: .POST, path: "/admin/reload", name: "admin_reload", needsJSON: true, action: .later(reload)),
        Routes.Route(
            method: .POST, path: "/admin/upstreams/*", name: "admin_upstream", needsJSON: true,
            action: .reply(setMode)),
    ]

    private static func healthz(_ call: Routes.Call) -> Reply { .object { $0.field("status", "ok") } }

    private static func readyz(_ call: Routes.Call) -> Reply {
        let isReady = call.gateway.isReady
        let reason = call.gateway.isDraining ? "draining" : "no upstream is available"
        return .object(isReady ? 200 : 503) { writer in
            writer.field("status", isReady ? "ready" : "not_ready")
            if !isReady { writer.field("reason", reason) }
        }
    }

    // MARK: State

    private static func status(_ call: Routes.Call) -> Reply {
        .object { writeStatus(call.gateway, call.snapshot, &$0) }
    }

    /// The fields of the gateway's state.
    static func writeStatus(_ gateway: Gateway, _ snapshot: Snapshot, _ writer: inout JSONWriter) {
        let engine = gateway.engine.statistics
        let upstreams = gateway.upstreamStatuses()
        writer.field("timestamp", Timestamp.now)
        writer.field("uptime_s", Int((MonotonicTime.now - gateway.started).components.seconds))
        writer.field("draining", gateway.isDraining)
        writer.field("version", GatewayVersion.current)
        writer.field("health", gateway.healthSummary(upstreams).health)
        writer.field("policy", snapshot.configuration.routing.policy.rawValue)
        writer.field("connections", gateway.openConnections)
        writer.field("running", gateway.runningCount)
        writer.field("transfers", engine.activeTransfers)
        writer.field("retries_left", gateway.retriesLeft)
        writer.field("log_lines_dropped", gateway.droppedLogLines)
        writer.key("history")
        writer.history(gateway.history.status, path: gateway.history.path)
        writer.key("limits")
        writer.beginObject()
        for limit in LimitCounters.Limit.allCases {
            writer.key(limit.rawValue as String)
            writer.value(gateway.limits[limit])
        }
        writer.endObject()
        writer.key("upstreams")
        writer.beginArray()
        for upstream in upstreams { writer.upstream(upstream) }
        writer.endArray()
    }

    /// What would happen to a request for a model now: a dry run.
    private static func explain(_ call: Routes.Call) throws(RequestRefusal) -> Reply {
        let modelID =
            try call.request.query?.queryValue("model") ?? call.snapshot.configuration.webllm.defaultModel
        let plan = call.gateway.plan(modelID)
        return .object { writer in
            writer.field("model", modelID)
            writer.field("policy", call.snapshot.configuration.routing.policy.rawValue)
            writer.field("decision", decision(plan))
            writer.key("candidates")
            writer.beginArray()
            for candidate in plan.candidates { writer.candidate(candidate) }
            writer.endArray()
        }
    }

    /// In words.
    static func decision(_ plan: Gateway.Plan) -> String {
        let candidates = plan.candidates
        if let best = candidates.first(where: { $0.skip == nil }) ?? candidates.first(where: { $0.skip == .slowStart })
        {
            return "asks \(best.name) first"
        }
        let isFull = candidates.contains { $0.skip == .full }
        if !isFull, let open = candidates.first(where: { $0.upstream == plan.lastResort }) {
            return "nothing is available: tries \(open.name) all the same"
        }
        guard let full = candidates.first(where: { $0.upstream == plan.usable }) else {
            return "no upstream may be asked"
        }
        return plan.isQueueFull ? "is refused: the queue at \(full.name) is full" : "waits for a slot at \(full.name)"
    }

    // MARK: Changes

    private static let reloads = DispatchQueue(label: "reload")

    /// The file may be on a disk that hangs: no event loop waits for it.
    private static func reload(_ call: Routes.Call, _ done: @escaping @Sendable (Reply) -> Void) {
        guard let operations = call.gateway.operations else { return done(.error(503, "The gateway is stopping")) }
        reloads.async { done(reload(operations)) }
    }

    private static func reload(_ operations: any GatewayOperations) -> Reply {
        do {
            let needsRestart = try operations.reload()
            return .object { writer in
                writer.field("status", "reloaded")
                writer.field("needs_restart", needsRestart)
            }
        } catch {
            return .object(409) { writer in
                writer.field("error", "The configuration was not reloaded; the old one stays")
                writer.field("reason", "\(error)")
            }
        }
    }

    /// `POST /admin/upstreams/NAME/drain`, `/enable` or `/disable`.
    private static func setMode(_ call: Routes.Call) -> Reply {
        let parts = call.rest.split(separator: "/", omittingEmptySubsequences: false)
        let modes: [Substring: OperatorMode] = ["drain": .draining, "enable": .enabled, "disable": .disabled]
        guard parts.count == 2, let mode = modes[parts[1]] else {
            return .error(404, "Not found; accepted: /admin/upstreams/NAME/drain, /enable and /disable")
        }
        guard let id = call.gateway.setMode(String(parts[0]), mode) else {
            return .error(404, "No upstream is called \(parts[0])")
        }
        if mode == .disabled { call.gateway.operations?.interrupt(id) }
        return .object { writer in
            writer.field("upstream", String(parts[0]))
            writer.field("mode", mode.rawValue)
        }
    }
}

extension JSONWriter {
    fileprivate mutating func history(_ status: HistoryStore.Status, path: String?) {
        beginObject()
        field("state", status.state.rawValue)
        field("reason", status.reason)
        field("path", path)
        field("rows", status.rows)
        field("pending", status.pending)
        field("dropped", status.dropped)
        endObject()
    }

    mutating func upstream(_ status: UpstreamStatus) {
        beginObject()
        field("name", status.name)
        field("kind", status.kind.rawValue)
        field("mode", status.mode.rawValue)
        field("available", status.isAvailable)
        field("reason", status.reason)
        field("probe", status.probe.rawValue)
        field("breaker", status.breaker.rawValue)
        if let probesIn = status.probesIn { field("breaker_open_s", Int(probesIn.components.seconds) + 1) }
        field("in_flight", status.inFlight)
        field("slots", status.slots)
        field("queued", status.queued)
        field("failures_in_row", status.failuresInRow)
        if let failure = status.lastFailure { field("last_failure", failure) }
        if let time = status.firstToken {
            field("first_token_ms", time)
        }
        if let rate = status.tokensPerSecond { field("tokens_per_second", .double((rate * 10).rounded() / 10)) }
        field("models_installed", status.installed)
        switch status.loaded {
        case .models(let models): field("models_loaded", models)
        case .unknown, .hanging: nullField("models_loaded")
        }
        endObject()
    }

    /// An upstream of a plan, with what speaks against it.
    mutating func candidate(_ candidate: Candidate) {
        beginObject()
        field("upstream", candidate.name)
        field("model", candidate.model)
        field("score", .double(candidate.score))
        field("skipped", candidate.skip?.rawValue)
        field("model_installed", candidate.isInstalled)
        field("model_loaded", candidate.isLoaded)
        endObject()
    }
}
