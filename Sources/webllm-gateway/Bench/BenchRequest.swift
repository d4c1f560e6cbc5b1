import Foundation
import GatewayCore
import GatewayServer

/// One request of a bench, measured.
struct BenchRequest {
    private let address: String
    private var sample = BenchTally.Sample()
    private let start = MonotonicTime.now
    private var lastToken: MonotonicTime?
    private var status = 0
    private var buffer = LineBuffer()
    private var isOver = false

    /// As the gateway writes each token; decoding every one would measure the decoder.
    private static let token = Array(#"{"type":"token","text":""#.utf8)
    private static let heartbeat = Array(#"{"type":"token","text":""}"#.utf8)

    private init(address: String) { self.address = address }

    /// - Parameter address: the gateway's, for messages.
    /// - Returns: nil where the task was cancelled before the end.
    static func send(
        _ client: GatewayClient, _ address: String, _ body: String, timeout: Duration
    ) async -> BenchTally.Sample? {
        var request = BenchRequest(address: address)
        do {
            for try await piece in client.stream(GenerationRequest.path, body, timeout: timeout) {
                request.status = piece.status
                for line in request.buffer.add(piece.bytes) { request.read(line, piece.received) }
            }
            request.end()
        } catch let failure as GatewayClient.Failure {
            request.sample.error = failure.reason
        } catch {
            request.sample.error = "unknown"
        }
        return Task.isCancelled ? nil : request.sample
    }

    private mutating func read(_ line: ArraySlice<UInt8>, _ time: MonotonicTime) {
        guard !line.starts(with: Self.token) else {
            guard !line.elementsEqual(Self.heartbeat) else { return }
            if let lastToken { sample.gaps.append(time - lastToken) } else { sample.firstToken = time - start }
            lastToken = time
            return
        }
        finish(line)
    }

    /// A plain reply has no line end.
    private mutating func end() {
        sample.total = .now - start
        if !buffer.rest.isEmpty { finish(buffer.rest[...]) }
        if !isOver { sample.error = "no_end" }
    }

    private mutating func finish(_ bytes: ArraySlice<UInt8>) {
        isOver = true
        guard let line = GenerationLine(bytes) else {
            sample.error = "unexpected_reply"
            return
        }
        sample.tokens = line.tokensGenerated ?? 0
        sample.message = line.refusal(status: status, from: address)
        if status != 200 {
            sample.error = "status_\(status)"
        } else if line.error != nil {
            sample.error = "error_event"
        } else if line.isFallback {
            sample.error = "fallback_message"
        }
    }
}
