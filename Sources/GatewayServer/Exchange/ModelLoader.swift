import CurlMulti
import GatewayCore
import GatewayWire
import Logging
import NIOCore
import Synchronization

/// Loads models on Ollama servers. A load belongs to the gateway and not to the request that asked for it: Ollama aborts
/// a load when its client leaves, for everyone who waits.
final class ModelLoader: Sendable {
    enum Result: Sendable {
        case loaded
        /// - isFirst: whether this waiter is the one whose failure counts against the upstream.
        case failed(AttemptFailure, isFirst: Bool)
    }

    private struct Key: Hashable {
        var upstream: UpstreamID
        /// Another server may come under the same name.
        var url: UpstreamURL
        var model: String
    }

    private struct Load {
        let began = MonotonicTime.now
        var waiters: [Generation] = []
        /// A waiter's patience ended before the load did.
        var hasTimedOut = false
    }

    private let loads = Mutex<[Key: Load]>([:])

    /// Longest load. Far beyond the waiters' patience: to end it would abort it, and the next one would begin anew.
    private static let maxDuration: Duration = .seconds(3600)
    /// Longest reply that is looked at, in bytes.
    private static let maxBody = 64 << 10

    /// Starts a load, or joins the one that is under way; the generation is told its end.
    /// - Returns: when the load began.
    @discardableResult
    func load(
        _ model: String, on id: UpstreamID, _ endpoint: UpstreamEndpoint, _ gateway: Gateway, loop: LoopContext,
        for waiter: Generation?
    ) -> MonotonicTime {
        let key = Key(upstream: id, url: endpoint.configuration.url, model: model)
        enum Found { case underWay(since: MonotonicTime), ended, nothing }
        let found: Found = loads.withLock { loads in
            guard let began = loads[key]?.began else {
                // The load that this waiter wanted to join may have ended since it looked.
                if waiter != nil, !gateway.isCold(id, model: model) { return .ended }
                loads[key] = Load(waiters: waiter.map { [$0] } ?? [])
                return .nothing
            }
            loads[key]?.waiters += waiter.map { [$0] } ?? []
            return .underWay(since: began)
        }
        switch found {
        case .underWay(let began): return began
        case .ended:
            waiter?.loadEnded(id, .loaded)
            return .now
        case .nothing: break
        }
        gateway.logger.info(
            "loading a model", metadata: ["upstream": .string(endpoint.configuration.name), "model": .string(model)])
        let body = UpstreamRequestWriter.load(
            model: model, keepAlive: endpoint.configuration.warm.keepAlive.map(Self.duration)
        )
        .withUnsafeReadableBytes { RequestBody(copying: $0) }
        let timeouts = endpoint.configuration.timeouts
        let started = MonotonicTime.now
        let request = TransferRequest(
            method: .post, target: endpoint.target, headers: endpoint.postHeaders, body: body,
            timers: TransferTimers(connect: timeouts.connect, total: Self.maxDuration))
        ReplyCollector.send(request, by: gateway.engine, on: loop, maxBody: Self.maxBody) {
            [self, parser = loop.parser] in
            finished(key, endpoint, gateway, Self.failure($0, parser), $0.failure?.detail, took: .now - started)
        }
        return started
    }

    /// A client that leaves does not end the load.
    func leave(_ generation: Generation) {
        loads.withLock { loads in
            for key in loads.keys { loads[key]?.waiters.removeAll { $0 === generation } }
        }
    }

    /// A waiter's patience is over, and the load goes on.
    /// - Returns: whether it is the first whose is: the failure counts once.
    func timedOut(_ model: String, on id: UpstreamID, _ endpoint: UpstreamEndpoint) -> Bool {
        loads.withLock { loads in
            let key = Key(upstream: id, url: endpoint.configuration.url, model: model)
            defer { loads[key]?.hasTimedOut = true }
            return loads[key]?.hasTimedOut == false
        }
    }

    /// As Ollama reads it: it knows no days (Go's `time.ParseDuration`). What is no duration goes as it is.
    private static func duration(_ text: String) -> String {
        (try? DurationText.parse(text)).map { "\(Int($0.milliseconds))ms" } ?? text
    }

    private static func failure(_ reply: ReplyCollector.Collected, _ parser: JSONParser) -> AttemptFailure? {
        if let failure = reply.failure, reply.status == 0 || reply.status == 200 {
            return failure.reason == .totalTimer ? .firstTokenTimer : AttemptFailure(failure.reason)
        }
        guard reply.status != 200 else { return nil }
        return UpstreamErrorReader.classify(
            status: reply.status, retryAfter: reply.retryAfter, body: reply.body, now: .now, parser: parser)
    }

    private func finished(
        _ key: Key, _ endpoint: UpstreamEndpoint, _ gateway: Gateway, _ failure: AttemptFailure?, _ detail: String?,
        took: Duration
    ) {
        // Noted first: who finds no load under way must find the model loaded.
        let isConfigured = gateway.snapshot.endpoints[key.upstream]?.configuration.url == key.url
        if failure == nil, isConfigured { gateway.noteLoaded(key.upstream, key.model) }
        let load = loads.withLock { $0.removeValue(forKey: key) } ?? Load()
        var metadata: Logger.Metadata = [
            "upstream": .string(endpoint.configuration.name), "model": .string(key.model),
            "elapsed_ms": .stringConvertible(Int(took.milliseconds)),
        ]
        if let failure {
            metadata["failure"] = .string(failure.label)
            if let detail { metadata["detail"] = .string(detail) }
            gateway.logger.warning("a model did not load", metadata: metadata)
        } else {
            gateway.logger.info("model loaded", metadata: metadata)
        }
        for (index, waiter) in load.waiters.enumerated() {
            waiter.loadEnded(
                key.upstream, failure.map { .failed($0, isFirst: index == 0 && !load.hasTimedOut) } ?? .loaded)
        }
    }
}
