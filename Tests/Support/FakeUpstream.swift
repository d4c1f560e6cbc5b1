import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// A server that does to each connection what a script says, byte for byte, over real sockets.
package final class FakeUpstream: Sendable {
    package typealias Script = @Sendable (FakeConnection) async throws -> Void

    package struct State: Sendable {
        package var opened = 0
        package var closed = 0
        /// Whole requests, in the order they were read.
        package var requests: [RecordedRequest] = []
    }

    private struct Watched {
        var state = State()
        var waiters: [(test: @Sendable (State) -> Bool, continuation: CheckedContinuation<Void, Never>)] = []
    }

    private let watched = Mutex(Watched())
    private let listener: any Channel
    package var port: Int { listener.localAddress?.port ?? 0 }
    package var state: State { watched.withLock { $0.state } }

    /// Listens on a free port of 127.0.0.1; the script runs once for each connection and its end closes it.
    package static func start(_ script: @escaping Script) async throws -> FakeUpstream {
        let box = Box()
        let listener = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .serverChannelOption(.backlog, value: 4096)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let connection = try NIOAsyncChannel<ByteBuffer, ByteBuffer>(
                        wrappingChannelSynchronously: channel)
                    box.serve(connection, script)
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let upstream = FakeUpstream(listener: listener)
        box.upstream.withLock { $0 = upstream }
        return upstream
    }

    private init(listener: any Channel) { self.listener = listener }

    /// Lets a connection reach the upstream that is made after its listener.
    private final class Box: Sendable {
        let upstream = Mutex<FakeUpstream?>(nil)

        func serve(_ channel: NIOAsyncChannel<ByteBuffer, ByteBuffer>, _ script: @escaping Script) {
            Task {
                let upstream = upstream.withLock { $0 }
                upstream?.change { $0.opened += 1 }
                try? await channel.executeThenClose { inbound, outbound in
                    let connection = FakeConnection(
                        upstream: upstream, channel: channel.channel, inbound: inbound.makeAsyncIterator(),
                        outbound: outbound)
                    try await script(connection)
                }
                upstream?.change { $0.closed += 1 }
            }
        }
    }

    fileprivate func record(_ request: RecordedRequest) { change { $0.requests.append(request) } }

    private func change(_ body: (inout State) -> Void) {
        let ready = watched.withLock { watched in
            body(&watched.state)
            let state = watched.state
            let ready = watched.waiters.filter { $0.test(state) }
            watched.waiters.removeAll { $0.test(state) }
            return ready
        }
        for waiter in ready { waiter.continuation.resume() }
    }

    /// Waits for the event itself, without a clock.
    package func until(_ test: @escaping @Sendable (State) -> Bool) async {
        await withCheckedContinuation { continuation in
            let isReady = watched.withLock { watched in
                if test(watched.state) { return true }
                watched.waiters.append((test, continuation))
                return false
            }
            if isReady { continuation.resume() }
        }
    }

    package func close() async { try? await listener.close() }
}

package struct RecordedRequest: Sendable {
    /// `POST /api/chat HTTP/1.1`.
    package var line: String
    /// Names in lower case.
    package var headers: [String: String]
    package var body: String
}

/// One connection in the hands of a script. Used by one task.
package final class FakeConnection {
    private let upstream: FakeUpstream?
    private let channel: any Channel
    private var inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator
    private let outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    private var received = ByteBuffer()

    fileprivate init(
        upstream: FakeUpstream?, channel: any Channel,
        inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator,
        outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) {
        self.upstream = upstream
        self.channel = channel
        self.inbound = inbound
        self.outbound = outbound
    }

    /// Reads one whole request with a Content-Length or without a body; nil where the peer closed.
    package func request() async throws -> RecordedRequest? {
        while true {
            if let request = parse() {
                upstream?.record(request)
                return request
            }
            guard let bytes = try await inbound.next() else { return nil }
            received.writeImmutableBuffer(bytes)
        }
    }

    private func parse() -> RecordedRequest? {
        let text = String(buffer: received)
        guard let end = text.utf8.firstRange(of: "\r\n\r\n".utf8) else { return nil }
        var lines = text[..<end.lowerBound].split(separator: "\r\n").map { String($0) }
        guard !lines.isEmpty else { return nil }
        let first = lines.removeFirst()
        var headers: [String: String] = [:]
        for line in lines {
            let parts = line.split(separator: ":", maxSplits: 1)
            headers[parts[0].lowercased()] = parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""
        }
        let headLength = text.utf8.distance(from: text.startIndex, to: end.upperBound)
        let bodyLength = Int(headers["content-length"] ?? "0") ?? 0
        guard received.readableBytes >= headLength + bodyLength else { return nil }
        received.moveReaderIndex(forwardBy: headLength)
        let body = received.readString(length: bodyLength) ?? ""
        return RecordedRequest(line: first, headers: headers, body: body)
    }

    package func send(_ text: String) async throws { try await outbound.write(ByteBuffer(string: text)) }

    package func send(bytes: [UInt8]) async throws { try await outbound.write(ByteBuffer(bytes: bytes)) }

    /// A whole reply.
    package func reply(_ status: String = "200 OK", _ headers: String = "", body: String) async throws {
        try await send("HTTP/1.1 \(status)\r\n\(headers)Content-Length: \(body.utf8.count)\r\n\r\n\(body)")
    }

    package func chunk(_ text: String) async throws {
        try await send("\(String(text.utf8.count, radix: 16))\r\n\(text)\r\n")
    }

    /// Waits until the peer closes, dropping what still comes.
    package func untilClosed() async { while let bytes = try? await inbound.next() { _ = bytes } }

    /// Closes its own half: the peer reads the end of what comes.
    package func endOutput() async throws { try await channel.close(mode: .output) }

    /// Closes with a TCP reset.
    package func reset() async throws {
        try await (channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: 1, l_linger: 0)).get()
        try? await channel.close()
    }
}
