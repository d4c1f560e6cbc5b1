import CurlMulti
import GatewayCore
import GatewayWire
import Glibc
import NIOHTTP1

/// `/metrics`, in Prometheus' text format. docs/metrics.md lists every family.
enum MetricsReply {
    static let route = Routes.Route(method: .GET, path: "/metrics", name: "metrics_text", action: .reply(reply))
    /// For clients, where `[server] metrics` says so.
    static let clientRoute = Routes.Route(
        method: .GET, path: "/metrics", name: "metrics_text",
        action: .reply { call in
            call.snapshot.configuration.server.metrics ? reply(call) : .error(404, "Not found")
        })

    private static func reply(_ call: Routes.Call) -> Reply {
        var writer = PrometheusWriter()
        let state = call.gateway.metrics.snapshot
        writeRequests(state, &writer)
        writeUpstreams(state, &writer)
        writeNow(call, state, &writer)
        writeProcess(call.gateway, &writer)
        return Reply(ReplyHead(200, contentType: PrometheusWriter.contentType), body: writer.buffer)
    }

    private static let prefix = "webllm_gateway_"

    private static func writeRequests(_ state: Metrics.State, _ writer: inout PrometheusWriter) {
        writer.family(prefix + "requests_total", .counter, "Requests by route, outcome and the upstream asked last.")
        let order: (Metrics.RequestKey) -> String = { "\($0.route) \($0.outcome.rawValue) \($0.upstream)" }
        for (key, count) in state.requests.sorted(by: { order($0.key) < order($1.key) }) {
            writer.sample(
                count, [("route", key.route), ("outcome", key.outcome.rawValue), ("upstream", key.upstream)])
        }
        writer.family(prefix + "request_duration_seconds", .histogram, "From accept to settle.")
        for (route, histogram) in state.durations.sorted(by: { $0.key < $1.key }) {
            writer.sample(histogram, [("route", route)])
        }
        writer.family(prefix + "queue_wait_seconds", .histogram, "Time requests waited for a slot.")
        writer.sample(state.queueWait)
        writer.family(prefix + "cancels_total", .counter, "Generations whose client left, by the phase they were in.")
        for phase in GenerationTrace.Phase.allCases {
            writer.sample(state.cancels[phase] ?? 0, [("phase", phase.rawValue)])
        }
        writer.family(
            prefix + "cancel_duration_seconds", .histogram,
            "From the client's leaving until the connection to its upstream was closed.")
        for phase in GenerationTrace.Phase.allCases {
            if let histogram = state.cancelDurations[phase] { writer.sample(histogram, [("phase", phase.rawValue)]) }
        }
        writer.family(prefix + "reloads_total", .counter, "Reloads of the configuration.")
        for success in [true, false] {
            writer.sample(state.reloads[success] ?? 0, [("result", success ? "ok" : "refused")])
        }
    }

    private static func writeUpstreams(_ state: Metrics.State, _ writer: inout PrometheusWriter) {
        let upstreams = state.upstreams.sorted { $0.key < $1.key }
        func histograms(_ name: String, _ help: String, _ path: KeyPath<Metrics.UpstreamSeries, Histogram>) {
            writer.family(prefix + name, .histogram, help)
            for (upstream, series) in upstreams { writer.sample(series[keyPath: path], [("upstream", upstream)]) }
        }
        histograms("time_to_first_token_seconds", "From the request to its first token.", \.firstToken)
        histograms("time_per_output_token_seconds", "Mean time between two tokens of an answer.", \.perToken)
        histograms("connect_seconds", "Time until a new connection was up.", \.connect)
        histograms("model_load_seconds", "Time requests waited for a model to be loaded.", \.load)
        func counts(
            _ name: String, _ help: String, _ label: StaticString,
            _ values: (Metrics.UpstreamSeries) -> [(String, Int)]
        ) {
            writer.family(prefix + name, .counter, help)
            for (upstream, series) in upstreams {
                for (value, count) in values(series) { writer.sample(count, [("upstream", upstream), (label, value)]) }
            }
        }
        counts("attempts_total", "Attempts by how they ended.", "result") { $0.attempts.sorted { $0.key < $1.key } }
        counts("fallbacks_total", "Attempts that another upstream took over, by the reason.", "reason") {
            $0.fallbacks.sorted { $0.key < $1.key }
        }
        counts("tokens_total", "Tokens as the upstreams count them.", "type") {
            [("input", $0.inputTokens), ("output", $0.outputTokens)]
        }
        writer.family(
            prefix + "late_tokens_total", .counter, "Pieces that still came after their client had left.")
        for (upstream, series) in upstreams { writer.sample(series.lateTokens, [("upstream", upstream)]) }
        counts("probes_total", "Health probes.", "result") {
            [("ok", $0.probes[true] ?? 0), ("failed", $0.probes[false] ?? 0)]
        }
        counts("breaker_transitions_total", "Changes of the breaker.", "to") {
            [("open", $0.breakerOpened), ("closed", $0.breakerClosed)]
        }
    }

    private static func writeNow(_ call: Routes.Call, _ state: Metrics.State, _ writer: inout PrometheusWriter) {
        let gateway = call.gateway
        let upstreams = gateway.upstreamStatuses()
        func gauges(_ name: String, _ help: String, _ value: (UpstreamStatus) -> Int) {
            writer.family(prefix + name, .gauge, help)
            for upstream in upstreams { writer.sample(value(upstream), [("upstream", upstream.name)]) }
        }
        gauges("upstream_available", "Whether requests may go there.") { $0.isAvailable ? 1 : 0 }
        gauges("upstream_in_flight", "Requests that run there.") { $0.inFlight }
        gauges("upstream_slots", "Requests that may run there at once.") { $0.slots }
        gauges("upstream_queued", "Requests that wait for it.") { $0.queued }
        writer.family(prefix + "breaker_state", .gauge, "1 for the state that the breaker is in.")
        for upstream in upstreams {
            for breaker in [Breaker.State.closed, .open, .halfOpen] {
                writer.sample(
                    upstream.breaker == breaker ? 1 : 0, [("upstream", upstream.name), ("state", breaker.rawValue)])
            }
        }
        writer.family(prefix + "connections", .gauge, "Open client connections.")
        writer.sample(gateway.openConnections)
        let engine = gateway.engine.statistics
        writer.family(prefix + "transfers", .gauge, "Transfers to upstreams that are under way.")
        writer.sample(engine.activeTransfers)
        writer.family(prefix + "transfer_loop_turns_total", .counter, "Turns of the transfer loops.")
        writer.sample(Int(engine.loopTurns))
        writer.family(prefix + "transfer_pauses_total", .counter, "Transfers stopped for clients that read slowly.")
        writer.sample(Int(engine.pauses))
        writer.family(prefix + "retry_budget_left", .gauge, "Generations that may be made a second time now.")
        writer.sample(gateway.retriesLeft)
        writer.family(prefix + "limits_total", .counter, "How often each limit has bitten.")
        for limit in LimitCounters.Limit.allCases { writer.sample(gateway.limits[limit], [("limit", limit.rawValue)]) }
        let history = gateway.history.status
        writer.family(prefix + "history_rows", .gauge, "Requests in the history.")
        writer.sample(history.rows)
        writer.family(prefix + "history_pending", .gauge, "Requests that wait to be written to the history.")
        writer.sample(history.pending)
        writer.family(prefix + "history_dropped_total", .counter, "Requests that the history lost.")
        writer.sample(history.dropped)
        writer.family(prefix + "log_lines_dropped_total", .counter, "Log lines that nobody took in time.")
        writer.sample(gateway.droppedLogLines)
    }

    /// The figures that every Prometheus client library has.
    private static func writeProcess(_ gateway: Gateway, _ writer: inout PrometheusWriter) {
        writer.family(prefix + "build_info", .gauge, "1; the version is its label.")
        writer.sample(1, [("version", GatewayVersion.current)])
        let age = (MonotonicTime.now - gateway.started).milliseconds / 1000
        writer.family("process_start_time_seconds", .gauge, "Since 1970.")
        writer.sample((Double(Timestamp.now.microseconds) / 1e6 - age).rounded())
        var usage = rusage()
        getrusage(Int32(RUSAGE_SELF.rawValue), &usage)
        func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
        writer.family("process_cpu_seconds_total", .counter, "User and system time.")
        writer.sample(seconds(usage.ru_utime) + seconds(usage.ru_stime))
        writer.family("process_resident_memory_bytes", .gauge, "Resident memory.")
        writer.sample(residentPages() * Int(sysconf(Int32(_SC_PAGESIZE))))
        writer.family("process_open_fds", .gauge, "Open descriptors.")
        writer.sample(openDescriptors())
        writer.family("process_max_fds", .gauge, "Most descriptors that may be open.")
        writer.sample(OpenFiles.limit)
    }

    private static func residentPages() -> Int {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 128)
        guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
        let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
    }

    private static func openDescriptors() -> Int {
        guard let folder = opendir("/proc/self/fd") else { return 0 }
        defer { closedir(folder) }
        var count = -3  // itself, and the two names that every folder has
        while readdir(folder) != nil { count += 1 }
        return max(0, count)
    }
}
