import NIOCore
import NIOPosix

/// A client that sends raw bytes and reads raw bytes.
package struct RawClient: Sendable {
    package struct Connection {
        fileprivate var inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator
        fileprivate let outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
        private var buffered: [UInt8] = []

        fileprivate init(
            inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator,
            outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
        ) {
            self.inbound = inbound
            self.outbound = outbound
        }

        package func send(_ text: String) async throws { try await outbound.write(ByteBuffer(string: text)) }

        package func send(bytes: [UInt8]) async throws { try await outbound.write(ByteBuffer(bytes: bytes)) }

        /// The next bytes; nil at the end of the connection.
        private mutating func read() async throws -> ByteBuffer? {
            do {
                return try await inbound.next()
            } catch is IOError {
                return nil  // a reset is an end too
            }
        }

        package mutating func readToEnd() async throws -> String {
            while let more = try await read() { buffered += more.readableBytesView }
            return take(buffered.count)
        }

        /// Everything up to and with a text, or to the end; what follows stays for the next call.
        package mutating func read(through text: String) async throws -> String {
            while true {
                if let range = buffered.firstRange(of: Array(text.utf8)) { return take(range.upperBound) }
                guard let more = try await read() else { return take(buffered.count) }
                buffered += more.readableBytesView
            }
        }

        private mutating func take(_ count: Int) -> String {
            defer { buffered.removeFirst(count) }
            return String(decoding: buffered.prefix(count), as: UTF8.self)
        }

        /// One reply with a Content-Length or chunks.
        package mutating func reply(toHead: Bool = false) async throws -> RawReply {
            let head = try await read(through: "\r\n\r\n")
            var reply = RawReply(head: head)
            if toHead || reply.status == 204 { return reply }
            if reply.headers["transfer-encoding"] == "chunked" {
                while true {
                    let line = try await read(through: "\r\n")
                    guard let size = Int(line.dropLast(), radix: 16) else { return reply }
                    let piece = try await read(count: size + 2)
                    if size == 0 {
                        reply.isWhole = true
                        return reply
                    }
                    reply.body += piece.dropLast()
                }
            }
            let length = Int(reply.headers["content-length"] ?? "0") ?? 0
            reply.body = try await read(count: length)
            reply.isWhole = reply.body.utf8.count == length
            return reply
        }

        private mutating func read(count: Int) async throws -> String {
            while buffered.count < count {
                guard let more = try await read() else { break }
                buffered += more.readableBytesView
            }
            return take(min(count, buffered.count))
        }
    }

    private let address: @Sendable () throws -> SocketAddress
    package init(port: Int) { address = { try SocketAddress(ipAddress: "127.0.0.1", port: port) } }
    package init(_ address: SocketAddress) { self.address = { address } }

    package func connect<R: Sendable>(
        _ body: @escaping @Sendable (inout Connection) async throws -> R
    ) async throws -> R {
        let channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .connect(to: address()) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        return try await channel.executeThenClose { inbound, outbound in
            var connection = Connection(inbound: inbound.makeAsyncIterator(), outbound: outbound)
            return try await body(&connection)
        }
    }

    /// Sends bytes and reads to the end of the connection.
    package func exchange(_ text: String) async throws -> String {
        try await connect { connection in
            try await connection.send(text)
            return try await connection.readToEnd()
        }
    }

    /// One request on a connection of its own.
    package func request(
        _ method: String, _ path: String, headers: [(String, String)] = [], body: String? = nil
    ) async throws -> RawReply {
        let text = Self.text(method, path, headers: headers, body: body)
        return try await connect { connection in
            try await connection.send(text)
            return try await connection.reply(toHead: method == "HEAD")
        }
    }

    package func postJSON(
        _ path: String, _ body: String, headers: [(String, String)] = []
    ) async throws -> RawReply {
        try await request("POST", path, headers: [("Content-Type", "application/json")] + headers, body: body)
    }

    package static func text(
        _ method: String, _ path: String, headers: [(String, String)] = [], body: String? = nil
    ) -> String {
        var text = "\(method) \(path) HTTP/1.1\r\nHost: test\r\n"
        for (name, value) in headers { text += "\(name): \(value)\r\n" }
        if let body { text += "Content-Length: \(body.utf8.count)\r\n" }
        return text + "\r\n" + (body ?? "")
    }
}

package struct RawReply: Sendable {
    package var status = 0
    /// Names in lower case.
    package var headers: [String: String] = [:]
    package var body = ""
    /// Whether the body came to the end that its framing promises.
    package var isWhole = false

    package init(head: String) {
        let lines = head.split(separator: "\r\n")
        guard let first = lines.first else { return }
        status = Int(first.split(separator: " ").dropFirst().first ?? "") ?? 0
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            headers[parts[0].lowercased()] = parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""
        }
    }
}
