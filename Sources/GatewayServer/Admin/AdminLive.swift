import GatewayCore
import GatewayWire
import Logging
import NIOCore
import NIOHTTP1

/// What happens now, for operators: running requests, the last hour in figures, alerts, and the dashboard's feed of all.
enum AdminLive {
    static let routes: [Routes.Route] =
        DashboardPage.routes + [
            Routes.Route(method: .GET, path: "/admin/running", name: "admin_running", action: .later(running)),
            Routes.Route(
                method: .POST, path: "/admin/running/*", name: "admin_cancel", needsJSON: true, action: .later(cancel)),
            Routes.Route(method: .GET, path: "/admin/series", name: "admin_series", action: .reply(series)),
            Routes.Route(method: .GET, path: "/admin/alerts", name: "admin_alerts", action: .reply(alerts)),
            Routes.Route(method: .GET, path: "/admin/events", name: "admin_events", action: .feed),
        ]

    static let maxRunning = 100

    private static func running(_ call: Routes.Call, _ done: @escaping @Sendable (Reply) -> Void) {
        guard let operations = call.gateway.operations else { return done(.error(503, "The gateway is stopping")) }
        operations.running(maxRunning) { requests, total in
            done(.object { $0.running(requests, total: total) })
        }
    }

    /// `POST /admin/running/ID/cancel`: by its id, or by its request id, which may be a number too.
    private static func cancel(_ call: Routes.Call, _ done: @escaping @Sendable (Reply) -> Void) {
        let verb = "/cancel"
        guard call.rest.hasSuffix(verb), call.rest != verb else {
            return done(.error(404, "Not found; accepted: /admin/running/ID/cancel"))
        }
        guard let operations = call.gateway.operations else { return done(.error(503, "The gateway is stopping")) }
        let name = String(call.rest.dropLast(verb.count))
        let gateway = call.gateway
        let answer: @Sendable (UInt64?) -> Void = { id in
            guard let id else {
                let shown = name.cut(toBytes: 100, characters: 100)
                return done(.error(404, "No request with the id \(shown) runs"))
            }
            gateway.logger.info("operator cancelled a request", metadata: ["id": .stringConvertible(id)])
            done(
                .object { writer in
                    writer.field("id", "\(id)")
                    writer.field("status", "cancelled")
                })
        }
        let byRequestID: @Sendable () -> Void = {
            operations.running(.max) { requests, _ in
                let ids = requests.filter { $0.requestID == name }.map(\.id)
                cancelAll(ids[...], operations, answer)
            }
        }
        guard let id = UInt64(name) else { return byRequestID() }
        operations.cancel(id) { found in
            if found { answer(id) } else { byRequestID() }
        }
    }

    /// A batch has several under one request id. They end one after the other.
    /// - Parameters:
    ///   - first: the first of those so far that ran.
    ///   - done: is told the first that ran; nil where none did.
    private static func cancelAll(
        _ ids: ArraySlice<UInt64>, _ operations: any GatewayOperations, first: UInt64? = nil,
        _ done: @escaping @Sendable (UInt64?) -> Void
    ) {
        guard let id = ids.first else { return done(first) }
        operations.cancel(id) { found in
            cancelAll(ids.dropFirst(), operations, first: first ?? (found ? id : nil), done)
        }
    }

    private static func series(_ call: Routes.Call) -> Reply {
        let names = call.snapshot.configuration.upstreams.map(\.name)
        return .object { $0.series(call.gateway.metrics.withSeries { $0.steps(.now) }, names) }
    }

    private static func alerts(_ call: Routes.Call) -> Reply {
        .object { writer in
            writer.key("alerts")
            writer.alerts(Alert.all(call.gateway, call.snapshot))
        }
    }
}

extension JSONWriter {
    /// The fields of `/admin/running`.
    mutating func running(_ requests: [RunningRequest], total: Int) {
        let now = MonotonicTime.now
        field("total", total)
        key("running")
        beginArray()
        for request in requests { request.write(&self, now: now) }
        endArray()
    }

    /// The fields of `/admin/series`.
    mutating func series(_ steps: [TimeSeries.Step], _ upstreams: [String]) {
        field("interval_s", Int(TimeSeries.stepSeconds))
        field("end", Timestamp.now)
        array("requests", steps) { $0.value($1.requests) }
        array("errors", steps) { $0.value($1.errors) }
        array("first_token_p50_ms", steps) { $0.millisecondsOrNull($1.firstToken.quantile(0.5)) }
        array("first_token_p95_ms", steps) { $0.millisecondsOrNull($1.firstToken.quantile(0.95)) }
        array("first_token_p99_ms", steps) { $0.millisecondsOrNull($1.firstToken.quantile(0.99)) }
        array("tokens_per_second", steps) { $0.perSecond($1.tokens) }
        key("upstreams")
        beginArray()
        for name in upstreams {
            beginObject()
            field("name", name)
            array("requests", steps) { $0.value($1.upstreams[name]?.requests ?? 0) }
            array("first_token_ms", steps) { $0.millisecondsOrNull($1.upstreams[name]?.firstTokenMean) }
            array("tokens_per_second", steps) { $0.perSecond($1.upstreams[name]?.tokens ?? 0) }
            endObject()
        }
        endArray()
    }

    /// One value of each series, with the same names.
    mutating func point(_ step: TimeSeries.Step, _ upstreams: [String]) {
        beginObject()
        field("requests", step.requests)
        field("errors", step.errors)
        field("first_token_p50_ms", step.firstToken.quantile(0.5))
        field("first_token_p95_ms", step.firstToken.quantile(0.95))
        field("first_token_p99_ms", step.firstToken.quantile(0.99))
        key("tokens_per_second")
        perSecond(step.tokens)
        key("upstreams")
        beginArray()
        for name in upstreams {
            beginObject()
            field("name", name)
            field("requests", step.upstreams[name]?.requests ?? 0)
            field("first_token_ms", step.upstreams[name]?.firstTokenMean)
            key("tokens_per_second")
            perSecond(step.upstreams[name]?.tokens ?? 0)
            endObject()
        }
        endArray()
        endObject()
    }

    mutating func alerts(_ alerts: [Alert]) {
        beginArray()
        for alert in alerts {
            beginObject()
            field("severity", alert.severity.rawValue)
            field("upstream", alert.upstream)
            field("since", alert.since)
            field("text", alert.text)
            endObject()
        }
        endArray()
    }

    private mutating func array(
        _ name: StaticString, _ steps: [TimeSeries.Step], _ write: (inout JSONWriter, TimeSeries.Step) -> Void
    ) {
        key(name)
        beginArray()
        for step in steps { write(&self, step) }
        endArray()
    }

    private mutating func perSecond(_ count: Int) {
        compactValue((Double(count) / Double(TimeSeries.stepSeconds) * 10).rounded() / 10)
    }
}
