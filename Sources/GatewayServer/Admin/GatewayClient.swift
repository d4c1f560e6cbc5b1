import CurlMulti
import GatewayCore
import Synchronization

/// Asks a running gateway over one of its listeners; for the command line. Any number of requests may run at once.
package final class GatewayClient: Sendable {
    package struct Reply: Sendable {
        package var status = 0
        package var body: [UInt8] = []
    }

    /// A part of a reply: its head, without bytes, or some of its body.
    package struct Piece: Sendable {
        package var status: Int
        package var bytes: [UInt8]
        package var received: MonotonicTime
    }

    /// No whole reply came.
    package struct Failure: Error, CustomStringConvertible {
        package var address: String
        /// One of the engine's closed set, such as `connect`.
        package var reason: String
        /// Whether a part of the reply had come.
        package var isCutOff: Bool

        package var description: String {
            isCutOff
                ? "the reply of \(address) was cut off (\(reason))" : "no gateway answers at \(address) (\(reason))"
        }
    }

    private let engine: CurlEngine
    private let delivery = DirectDelivery()
    private let address: Address
    private let headers: HeaderList

    private enum Address: Sendable {
        case url(UpstreamURL)
        case unixSocket(path: String)

        init(_ text: String) throws {
            if text.hasPrefix("unix:"), text.utf8.count > 5 {
                self = .unixSocket(path: String(text.dropFirst(5)))
            } else {
                self = .url(try UpstreamURL.parse(text.contains("://") ? text : "http://\(text)"))
            }
        }

        func target(_ path: String) -> TransferTarget {
            switch self {
            case .url(let url): url.target(url.basePath + path)
            case .unixSocket(let socket): TransferTarget(unixSocket: socket, path: path)
            }
        }

        /// As messages name it.
        var name: String {
            switch self {
            case .url(let url): url.origin
            case .unixSocket(let path): "unix:\(path)"
            }
        }
    }

    /// - Parameter token: proves an operator to an admin listener.
    /// - Throws: ``GatewayError`` where the address or the token cannot be one.
    package init(_ address: String, token: String? = nil) throws {
        do {
            self.address = try Address(address)
        } catch {
            throw GatewayError(
                "\(address) is not accepted; expected an address such as 127.0.0.1:8000 or unix:/run/gateway.sock")
        }
        var fields = [("Content-Type", "application/json"), ("Accept", "application/x-ndjson, application/json")]
        if let token { fields.append(("Authorization", "Bearer \(token)")) }
        guard let headers = HeaderList(fields) else { throw GatewayError("the token holds control characters") }
        self.headers = headers
        var configuration = CurlEngineConfiguration()
        // Replies are read to their end: nothing holds one back.
        configuration.window = .max
        engine = try CurlEngine(configuration)
    }

    /// Whether the gateway is on this machine.
    package var isLoopback: Bool {
        guard case .url(let url) = address else { return true }
        // A host that ends in a digit is an address, of four numbers.
        return ["localhost", "::1"].contains(url.host)
            || (url.host.hasPrefix("127.") && url.host.last?.isNumber == true)
    }

    package func get(_ path: String) async throws -> Reply { try await send(.get, path, body: nil) }

    package func post(_ path: String, _ body: String = "{}") async throws -> Reply {
        try await send(.post, path, body: body)
    }

    /// Posts and gives the reply's parts as they come. A cancelled task ends the request.
    package func stream(
        _ path: String, _ body: String, timeout: Duration? = nil
    ) -> AsyncThrowingStream<Piece, any Error> {
        stream(.post, path, body, timeout: timeout)
    }

    package func shutdown() { engine.shutdown() }

    private func send(_ method: TransferRequest.Method, _ path: String, body: String?) async throws -> Reply {
        var reply = Reply()
        for try await piece in stream(method, path, body, timeout: .seconds(30)) {
            reply.status = piece.status
            reply.body += piece.bytes
        }
        try Task.checkCancellation()
        return reply
    }

    private func stream(
        _ method: TransferRequest.Method, _ path: String, _ body: String?, timeout: Duration?
    ) -> AsyncThrowingStream<Piece, any Error> {
        let request = TransferRequest(
            method: method, target: address.target(path), headers: headers,
            body: body.map { text in Array(text.utf8).withUnsafeBytes { RequestBody(copying: $0) } },
            timers: TransferTimers(connect: .seconds(2), total: timeout))
        return AsyncThrowingStream { continuation in
            let receiver = PieceReceiver(continuation, address: address.name)
            let transfer = engine.start(request, receiver: receiver, on: delivery)
            continuation.onTermination = { _ in transfer.cancel() }
        }
    }
}

/// Hands events over where they are made: nothing else runs on that engine, and the time is the true one.
private final class DirectDelivery: DeliveryQueue {
    func deliver(_ batch: [Delivery]) { for delivery in batch { delivery.receiver.receive(delivery.update) } }
}

private final class PieceReceiver: TransferReceiver {
    private let status = Mutex(0)
    private let continuation: AsyncThrowingStream<GatewayClient.Piece, any Error>.Continuation
    private let address: String

    init(_ continuation: AsyncThrowingStream<GatewayClient.Piece, any Error>.Continuation, address: String) {
        self.continuation = continuation
        self.address = address
    }

    func receive(_ update: TransferUpdate) {
        if let head = update.head {
            status.withLock { $0 = head.status }
            pass([])
        }
        if !update.body.isEmpty { pass(update.body) }
        if let result = update.end {
            let failure = result.failure.map { failure in
                GatewayClient.Failure(
                    address: address, reason: failure.reason.rawValue, isCutOff: status.withLock { $0 } != 0)
            }
            continuation.finish(throwing: failure)
        }
    }

    private func pass(_ bytes: [UInt8]) {
        continuation.yield(.init(status: status.withLock { $0 }, bytes: bytes, received: .now))
    }
}
