import CurlMulti
import GatewayCore
import Synchronization

/// Asks a running gateway over one of its listeners; for the command line.
package final class GatewayClient: Sendable {
    package struct Reply: Sendable {
        package var status: Int
        package var body: [UInt8]
    }

    private let engine: CurlEngine
    private let url: UpstreamURL

    /// - Throws: ``GatewayError`` where the address is not one.
    package init(_ address: String) throws {
        do {
            url = try UpstreamURL.parse(address.contains("://") ? address : "http://\(address)")
        } catch {
            throw GatewayError("\(address) is not accepted; expected an address such as 127.0.0.1:8000")
        }
        engine = try CurlEngine()
    }

    package func get(_ path: String) async throws -> Reply { try await send(.get, path, body: nil) }

    package func post(_ path: String, _ body: String = "{}") async throws -> Reply {
        try await send(.post, path, body: body)
    }

    /// Posts and gives the reply's bytes as they come.
    package func stream(_ path: String, _ body: String) throws -> AsyncThrowingStream<Reply, any Error> {
        let (stream, continuation) = AsyncThrowingStream<Reply, any Error>.makeStream()
        let passer = Passer(continuation, address: url.origin)
        let transfer = engine.start(
            try request(.post, path, body, total: nil), receiver: passer, on: passer)
        continuation.onTermination = { _ in transfer.cancel() }
        return stream
    }

    package func shutdown() { engine.shutdown() }

    private func request(
        _ method: TransferRequest.Method, _ path: String, _ body: String?, total: Duration?
    ) throws -> TransferRequest {
        let fields = [("Content-Type", "application/json"), ("Accept", "application/x-ndjson, application/json")]
        guard let headers = HeaderList(fields) else { throw GatewayError("no headers") }
        let bytes = body.map { text in Array(text.utf8).withUnsafeBytes { RequestBody(copying: $0) } }
        return TransferRequest(
            method: method, target: url.target(url.basePath + path), headers: headers, body: bytes,
            timers: TransferTimers(connect: .seconds(2), total: total))
    }

    private func send(_ method: TransferRequest.Method, _ path: String, body: String?) async throws -> Reply {
        let request = try request(method, path, body, total: .seconds(30))
        return try await withCheckedThrowingContinuation { continuation in
            let gatherer = Gatherer(continuation, address: url.origin)
            _ = engine.start(request, receiver: gatherer, on: gatherer)
        }
    }
}

/// Passes a stream's pieces on, each with the reply's status.
private final class Passer: TransferReceiver, DeliveryQueue {
    private let status = Mutex(0)
    private let continuation: AsyncThrowingStream<GatewayClient.Reply, any Error>.Continuation
    private let address: String

    init(_ continuation: AsyncThrowingStream<GatewayClient.Reply, any Error>.Continuation, address: String) {
        self.continuation = continuation
        self.address = address
    }

    func deliver(_ batch: [Delivery]) { for delivery in batch { receive(delivery.event) } }

    func receive(_ event: TransferEvent) {
        switch event {
        case .head(let head): status.withLock { $0 = head.status }
        case .body(let bytes): continuation.yield(.init(status: status.withLock { $0 }, body: bytes))
        case .end(let result):
            continuation.finish(
                throwing: result.failure.map {
                    GatewayError("no gateway answers at \(address) (\($0.reason.rawValue))")
                })
        }
    }
}

/// Takes the events where they are made: nothing else runs on that engine.
private final class Gatherer: TransferReceiver, DeliveryQueue {
    private let reply = Mutex(GatewayClient.Reply(status: 0, body: []))
    private let continuation: CheckedContinuation<GatewayClient.Reply, any Error>
    private let address: String

    init(_ continuation: CheckedContinuation<GatewayClient.Reply, any Error>, address: String) {
        self.continuation = continuation
        self.address = address
    }

    func deliver(_ batch: [Delivery]) { for delivery in batch { receive(delivery.event) } }

    func receive(_ event: TransferEvent) {
        switch event {
        case .head(let head): reply.withLock { $0.status = head.status }
        case .body(let bytes): reply.withLock { $0.body += bytes }
        case .end(let result):
            if let failure = result.failure {
                continuation.resume(
                    throwing: GatewayError("no gateway answers at \(address) (\(failure.reason.rawValue))"))
            } else {
                continuation.resume(returning: reply.withLock { $0 })
            }
        }
    }
}
