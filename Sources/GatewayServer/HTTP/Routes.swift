import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// The routes of one listener, in one table.
struct Routes: Sendable {
    /// What a handler is given beside the request.
    struct Call {
        let gateway: Gateway
        let snapshot: Snapshot
        let loop: LoopContext
        let request: Shared<RequestHead>
        let body: ByteBuffer
        /// The rest of the path where the route ends in `*`, percent-decoded.
        var rest = ""
        let started = MonotonicTime.now
    }

    enum Action: Sendable {
        /// Answered at once, on the event loop.
        case reply(@Sendable (Call) throws(RequestRefusal) -> Reply)
        /// Answered later, from another thread's work; the promise is kept on the event loop.
        case later(@Sendable (Call, @escaping @Sendable (Reply) -> Void) -> Void)
        /// Answered by the dashboard's feed, which has no end.
        case feed
        /// Answered by an exchange, which the body is handed to.
        case exchange(@Sendable (isolated Exchange, ByteBuffer) -> Void)
    }

    struct Route: Sendable {
        var method: HTTPMethod
        /// Literal, or a prefix that ends in `*`.
        var path: String
        /// Short name for logs and metrics.
        var name: String
        var needsJSON = false
        var action: Action
    }

    /// What becomes of a request, as far as its head tells.
    enum Verdict: Sendable {
        /// Whatever its body is.
        case answered(Reply, route: String)
        /// - rest: what follows the route's prefix, percent-decoded.
        case accepted(Route, rest: String)

        /// For the access log.
        var routeName: String {
            switch self {
            case .answered(_, let name): name
            case .accepted(let route, _): route.name
            }
        }
    }

    /// Whom a listener is for. Operators must get in when clients have used up all connections.
    enum Audience: Sendable { case clients, operators }
    let audience: Audience

    /// By literal path; a path has one route for each of its methods.
    let literal: [String: [Route]]
    /// Those that end in `*`.
    let prefixed: [Route]

    /// What is asked of a request before its route is looked at.
    typealias Check = @Sendable (RequestHead, Snapshot) -> RequestRefusal?
    private let check: Check
    /// Added to replies.
    private let headers: [(name: StaticString, value: String)]

    static let client = Routes(
        .clients,
        webLLM + ChatPage.routes + APIDescription.routes + AdminReplies.healthRoutes + [MetricsReply.clientRoute]
    ) {
        _, _ in nil
    }
    static let admin = Routes(
        .operators,
        AdminReplies.routes + AdminHistory.routes + AdminLive.routes + AdminReplies.healthRoutes + [MetricsReply.route],
        headers: AdminAccess.securityHeaders, check: AdminAccess.check)

    private init(
        _ audience: Audience, _ all: [Route], headers: [(name: StaticString, value: String)] = [],
        check: @escaping Check
    ) {
        self.audience = audience
        self.check = check
        self.headers = headers
        literal = Dictionary(grouping: all.filter { !$0.isPrefix }, by: \.path)
        prefixed = all.filter(\.isPrefix)
    }

    /// `/webllm/api`; the sources of their replies are in ``WebLLMReplies``.
    private static let webLLM: [Route] = [
        Route(
            method: .POST, path: "/webllm/api/infer", name: "infer", needsJSON: true,
            action: .exchange { exchange, body in exchange.infer(body) }),
        Route(
            method: .POST, path: "/webllm/api/infer/batch", name: "batch", needsJSON: true,
            action: .exchange { exchange, body in exchange.batch(body) }),
        Route(method: .GET, path: "/webllm/api/health", name: "health", action: .reply(WebLLMReplies.health)),
        Route(method: .GET, path: "/webllm/api/status", name: "status", action: .reply(WebLLMReplies.status)),
        Route(method: .GET, path: "/webllm/api/models", name: "models", action: .reply(WebLLMReplies.models)),
        Route(
            method: .GET, path: "/webllm/api/models/info", name: "model_info", action: .reply(WebLLMReplies.modelInfo)),
        Route(
            method: .POST, path: "/webllm/api/config/models", name: "set_model_settings", needsJSON: true,
            action: .reply(WebLLMReplies.setModelSettings)),
        Route(
            method: .GET, path: "/webllm/api/config/models/*", name: "model_settings",
            action: .reply(WebLLMReplies.modelSettings)),
        Route(method: .GET, path: "/webllm/api/metrics", name: "metrics", action: .reply(WebLLMReplies.metrics)),
        Route(method: .GET, path: "/webllm/api/history", name: "history", action: .reply(WebLLMReplies.history)),
        Route(method: .POST, path: "/webllm/api/clear", name: "clear", action: .reply(WebLLMReplies.clear)),
    ]

    /// Checks a request and finds its route, before its body is asked for.
    func judge(_ request: Shared<RequestHead>, _ snapshot: Snapshot) -> Verdict {
        if let refusal = check(request.value, snapshot) { return .answered(Reply(refusal), route: "none") }
        if request.method == .OPTIONS, request.path == "*" {
            var reply = Reply(ReplyHead(204), body: ByteBuffer())
            reply.head.fields = [("Allow", "GET, HEAD, POST, OPTIONS")]
            return .answered(reply, route: "options")
        }
        guard let path = String(request.path).percentDecodedPath else {
            return .answered(.error(400, "The path holds an invalid percent-encoding, or a NUL"), route: "none")
        }
        let (matches, rest) = find(path)
        guard !matches.isEmpty else { return .answered(.error(404, "Not found"), route: "none") }
        let wanted = request.method == .HEAD ? .GET : request.method
        guard let route = matches.first(where: { $0.method == wanted }) else {
            let allow = Self.allow(matches.map(\.method))
            var reply = Reply(ReplyHead(204), body: ByteBuffer())
            if request.method != .OPTIONS { reply = .error(405, "Method not allowed; accepted: \(allow)") }
            reply.head.fields = [("Allow", allow)]
            return .answered(reply, route: request.method == .OPTIONS ? "options" : matches[0].name)
        }
        if route.needsJSON {
            guard request.contentType == "application/json" else {
                return .answered(.error(415, "Content-Type must be application/json"), route: route.name)
            }
            guard request.isChunked || request.contentLength != nil else {
                return .answered(.error(411, "Content-Length or chunked encoding is required"), route: route.name)
            }
        }
        return .accepted(route, rest: rest)
    }

    /// Has a request answered whose verdict is known.
    func handle(
        _ request: Shared<RequestHead>, _ verdict: Verdict, body: ByteBuffer, gateway: Gateway,
        connection: HTTPConnection, loop: LoopContext
    ) {
        var call = Call(
            gateway: gateway, snapshot: connection.snapshot, loop: loop, request: request, body: body)
        let route: Route
        switch verdict {
        case .answered(let reply, let name): return answer(reply, name, call, connection)
        case .accepted(let found, let rest):
            route = found
            call.rest = rest
        }
        switch route.action {
        case .reply(let make):
            do throws(RequestRefusal) {
                answer(try make(call), route.name, call, connection)
            } catch {
                answer(Reply(error), route.name, call, connection)
            }
        case .later(let work):
            let bound = NIOLoopBound((call, connection), eventLoop: loop.eventLoop)
            work(call) { reply in
                bound.eventLoop.execute { self.answer(reply, route.name, bound.value.0, bound.value.1) }
            }
        case .feed:
            let feed = DashboardFeed(gateway: gateway, loop: loop, connection: connection, request: request)
            connection.attach(feed)
            feed.start()
        case .exchange(let begin):
            let exchange = Exchange(
                gateway: gateway, loop: NIOLoopBound(loop, eventLoop: loop.eventLoop),
                connection: NIOLoopBound(connection, eventLoop: loop.eventLoop), head: request)
            exchange.onEventLoop { begin($0, body) }
        }
    }

    private func answer(_ reply: Reply, _ name: String, _ call: Call, _ connection: HTTPConnection) {
        var reply = reply
        let id = call.request.requestID ?? call.loop.makeRequestID()
        reply.head.requestID = id
        for (name, value) in headers where !reply.head.fields.contains(where: { "\($0.name)" == "\(name)" }) {
            reply.head.fields.append((name, value))
        }
        connection.reply(reply)
        call.gateway.finished(
            AccessRecord(
                requestID: id, client: connection.clientAddress, route: name, method: call.request.method.rawValue,
                status: reply.head.status, outcome: reply.head.status < 400 ? .ok : .refused,
                duration: .now - call.started),
            call.snapshot.configuration.log)
    }

    /// The routes of a path, one for each method, and what follows the prefix.
    private func find(_ path: String) -> (routes: [Route], rest: String) {
        if let routes = literal[path] { return (routes, "") }
        for route in prefixed {
            let prefix = route.path.dropLast()
            guard path.utf8.count > prefix.utf8.count, path.utf8.starts(with: prefix.utf8) else { continue }
            // By bytes: a combining mark after the slash would be one character with it.
            return ([route], String(Substring(path.utf8.dropFirst(prefix.utf8.count))))
        }
        return ([], "")
    }

    private static func allow(_ methods: [HTTPMethod]) -> String {
        var names: [String] = []
        for method in methods where !names.contains(method.rawValue) {
            names.append(method.rawValue)
            if method == .GET { names.append("HEAD") }
        }
        return (names + ["OPTIONS"]).joined(separator: ", ")
    }
}

extension Routes.Route {
    fileprivate var isPrefix: Bool { path.utf8.last == UInt8(ascii: "*") }
}
