import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// The requests of the past, for operators.
enum AdminHistory {
    static let routes: [Routes.Route] = [
        Routes.Route(method: .GET, path: "/admin/requests", name: "admin_requests", action: .later(list)),
        Routes.Route(method: .GET, path: "/admin/requests/*", name: "admin_request", action: .later(one)),
    ]

    private static func list(_ call: Routes.Call, _ done: @escaping @Sendable (Reply) -> Void) {
        let filter: HistoryFilter
        do throws(RequestRefusal) {
            filter = try HistoryFilter(query: call.request.query, now: .now)
        } catch {
            return done(Reply(error))
        }
        call.gateway.history.requests(filter) { result in
            done(
                reply(result) { requests in
                    .object { writer in
                        writer.field("count", requests.count)
                        writer.key("next_before")
                        if requests.count == filter.limit, let last = requests.last {
                            writer.value(Int(last.id))
                        } else {
                            writer.null()
                        }
                        writer.key("requests")
                        writer.beginArray()
                        for request in requests { request.write(&writer, isWhole: false) }
                        writer.endArray()
                    }
                })
        }
    }

    /// By its key, or by its request id, which may be a number too.
    private static func one(_ call: Routes.Call, _ done: @escaping @Sendable (Reply) -> Void) {
        let rest = call.rest
        let history = call.gateway.history
        var byRequestID = HistoryFilter()
        byRequestID.limit = 1
        byRequestID.requestID = rest
        guard let id = Int64(rest) else { return history.requests(byRequestID) { done(one($0, rest)) } }
        var byKey = HistoryFilter()
        byKey.limit = 1
        byKey.id = id
        history.requests(byKey) { [byRequestID] result in
            guard case .success(let found) = result, found.isEmpty else { return done(one(result, rest)) }
            history.requests(byRequestID) { done(one($0, rest)) }
        }
    }

    private static func one(_ result: Result<[StoredRequest], any Error>, _ name: String) -> Reply {
        reply(result) { requests in
            guard let request = requests.first else {
                return .error(404, "The history has no request \(name.cut(toBytes: 100, characters: 100))")
            }
            var writer = JSONWriter()
            request.write(&writer, isWhole: true)
            return Reply(ReplyHead(200), body: writer.buffer)
        }
    }

    private static func reply(
        _ result: Result<[StoredRequest], any Error>, _ make: ([StoredRequest]) -> Reply
    ) -> Reply {
        switch result {
        case .success(let requests): make(requests)
        case .failure: .error(503, "The history cannot be read now; /admin/status says why")
        }
    }
}
