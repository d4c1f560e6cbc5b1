import CurlMulti
import GatewayCore
import Synchronization

/// Asks a running gateway over its admin listener; for the command line.
package final class AdminClient: Sendable {
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
            throw GatewayError("\(address) is not accepted; expected an address such as 127.0.0.1:8001")
        }
        engine = try CurlEngine()
    }

    package func get(_ path: String) async throws -> Reply { try await send(.get, path, body: nil) }

    package func post(_ path: String, _ body: String = "{}") async throws -> Reply {
        try await send(.post, path, body: body)
    }

    package func shutdown() { engine.shutdown() }

    private func send(_ method: TransferRequest.Method, _ path: String, body: String?) async throws -> Reply {
        guard let headers = HeaderList([("Content-Type", "application/json")]) else { throw GatewayError("no headers") }
        let bytes = body.map { text in Array(text.utf8).withUnsafeBytes { RequestBody(copying: $0) } }
        let request = TransferRequest(
            method: method, target: url.target(url.basePath + path), headers: headers, body: bytes,
            timers: TransferTimers(connect: .seconds(2), total: .seconds(30)))
        return try await withCheckedThrowingContinuation { continuation in
            let gatherer = Gatherer(continuation, address: url.origin)
            _ = engine.start(request, receiver: gatherer, on: gatherer)
        }
    }
}

/// Takes the events where they are made: nothing else runs on that engine.
private final class Gatherer: TransferReceiver, DeliveryQueue {
    private let reply = Mutex(AdminClient.Reply(status: 0, body: []))
    private let continuation: CheckedContinuation<AdminClient.Reply, any Error>
    private let address: String

    init(_ continuation: CheckedContinuation<AdminClient.Reply, any Error>, address: String) {
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
