import CurlMulti
import GatewayCore
import GatewayServer
import GatewayWire
import Logging
import NIOCore
import NIOEmbedded

/// What takes bytes from outside, each under one name: fuzzed by scripts/fuzz, and replayed on the corpora as a test.
/// A target traps where an invariant does not hold.
package enum FuzzTarget: String, CaseIterable, Sendable {
    /// Ollama's NDJSON, cut anywhere.
    case ndjson
    /// An OpenAI-shaped server's SSE, cut anywhere.
    case sse
    /// The backend's JSON document.
    case query
    /// Request bodies of the WebLLM API.
    case json
    /// gateway.conf.
    case config
    /// The header lines of an upstream's reply.
    case headers
    /// A client's connection.
    case http

    package func run(_ bytes: [UInt8]) {
        switch self {
        case .ndjson: Self.decode(bytes, .ollama)
        case .sse: Self.decode(bytes, .openai)
        case .query: Self.decode(bytes, .query)
        case .json: Self.parse(bytes)
        case .config: Self.configure(bytes)
        case .headers: Self.readHeaders(bytes)
        case .http: Self.serve(bytes)
        }
    }

    /// The events are the same whether the bytes come at once or one by one, and nothing comes after an end.
    private static func decode(_ bytes: [UInt8], _ kind: UpstreamKind) {
        func events(_ pieces: [[UInt8]]) -> [UpstreamEvent] {
            var decoder = UpstreamReplyDecoder(kind: kind, maxLine: 4096)
            let parser = JSONParser()
            var events: [UpstreamEvent] = []
            for piece in pieces { decoder.feed(piece, parser: parser, into: &events) }
            decoder.end(parser: parser, into: &events)
            return events
        }
        let whole = events([bytes])
        precondition(whole == events(bytes.map { [$0] }), "the cut changes the meaning")
        for event in whole.dropLast() {
            switch event {
            case .finished, .failed: preconditionFailure("something comes after the end")
            case .content(let text): precondition(!text.isEmpty)
            case .thinking, .progress: break
            }
        }
    }

    private static func parse(_ bytes: [UInt8]) {
        let limits = WebLLMLimits(maxPromptCharacters: 2000, maxBatch: 100)
        let body = ByteBuffer(bytes: bytes)
        let parser = JSONParser()
        if let request = try? WebLLMReader.infer(body, limits: limits, parser: parser) {
            // What was taken can be written again and be read as the same.
            var again = JSONWriter()
            again.beginObject()
            again.field("prompt", request.prompt)
            again.endObject()
            let second = try? WebLLMReader.infer(again.buffer, limits: limits, parser: parser)
            precondition(second.map { $0.prompt.utf8.elementsEqual(request.prompt.utf8) } == true, "a prompt changed")
        }
        _ = try? WebLLMReader.batch(body, limits: limits, parser: parser)
        _ = try? WebLLMReader.modelSettings(body, parser: parser)
    }

    private static func configure(_ bytes: [UInt8]) {
        guard let text = String(validating: bytes, as: UTF8.self) else { return }
        do {
            let loaded = try ConfigurationLoader.read(text: text, path: "gateway.conf")
            precondition(!loaded.configuration.upstreams.isEmpty)
        } catch {
            precondition(!"\(error)".isEmpty)
        }
    }

    private static func readHeaders(_ bytes: [UInt8]) {
        var reader = ResponseHeadReader(limit: 1024)
        for line in bytes.split(separator: 0x0A, omittingEmptySubsequences: false) {
            guard case .head(let head) = (line + [0x0A]).withUnsafeBytes({ reader.read($0) }) else { continue }
            precondition((0...999).contains(head.status))
            if let value = head.retryAfter {
                precondition(value.utf8.count <= 256 && value.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F })
            }
        }
    }

    private static let gateway: Gateway = {
        var configuration = GatewayConfiguration()
        configuration.log.access = false
        configuration.webllm.fallbackMessage = "none"
        do {
            return try Gateway(
                configuration, logger: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() },
                logSink: LogSink(descriptor: -1))
        } catch {
            preconditionFailure("\(error)")
        }
    }()

    /// Whatever is sent, what comes back starts like HTTP, and the connection can be closed.
    private static func serve(_ bytes: [UInt8]) {
        let channel = EmbeddedChannel()
        do {
            try Listeners.serve(channel, by: gateway)
            try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            // The first byte says how large the pieces are.
            let size = max(1, Int(bytes.first ?? 1))
            var rest = bytes.dropFirst()
            while !rest.isEmpty {
                _ = try? channel.writeInbound(ByteBuffer(bytes: rest.prefix(size)))
                rest = rest.dropFirst(size)
                channel.embeddedEventLoop.run()
            }
            channel.embeddedEventLoop.run()
            var reply = ByteBuffer()
            while let part = try channel.readOutbound(as: ByteBuffer.self) { reply.writeImmutableBuffer(part) }
            precondition(
                reply.readableBytes == 0 || reply.readableBytesView.starts(with: "HTTP/1.1 ".utf8), "not a reply")
        } catch {
            preconditionFailure("\(error)")
        }
        _ = try? channel.finish(acceptAlreadyClosed: true)
    }
}
