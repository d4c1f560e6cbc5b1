import GatewayCore
import Glibc
import NIOCore
import NIOPosix
import Support
import Synchronization
import Testing

@testable import GatewayServer

/// Replies go to the socket without its channel, as far as it takes them.
@Suite(.timeLimit(.minutes(1)))
struct ClientSocketTests {
    /// Both ends of a connection; the client's reads nothing.
    private static func connection() async throws -> (server: any Channel, client: any Channel) {
        let group = MultiThreadedEventLoopGroup.singleton
        let accepted = group.next().makePromise(of: (any Channel).self)
        let listener = try await ServerBootstrap(group: group).childChannelInitializer { channel in
            accepted.completeWith(channel.eventLoop.makeSucceededFuture(channel))
            return channel.eventLoop.makeSucceededVoidFuture()
        }.bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(listener.localAddress)
        let client = try await ClientBootstrap(group: group).channelOption(.autoRead, value: false)
            .connect(to: address).get()
        let server = try await accepted.futureResult.get()
        try await listener.close()
        return (server, client)
    }

    @Test func aFullSocketTakesAPart() async throws {
        let (server, client) = try await Self.connection()
        let (taken, offered) = try await server.eventLoop.submit {
            let socket = ClientSocket(server)
            let piece = ByteBuffer(repeating: 1, count: 1 << 20)
            var (taken, offered) = (0, 0)
            while taken == offered, offered < 1 << 30 {
                taken += socket.send(piece)
                offered += piece.readableBytes
            }
            return (taken, offered)
        }.get()
        #expect(taken > 0)
        #expect(taken < offered)
        try await server.close()
        try await client.close()
    }

    /// Its number is another connection's by then.
    @Test func aClosedOneTakesNothing() async throws {
        let (server, client) = try await Self.connection()
        let taken = try await server.eventLoop.submit {
            let socket = ClientSocket(server)
            let before = socket.send(ByteBuffer(string: "x"))
            server.close(promise: nil)
            var opened: [CInt] = []
            defer { for descriptor in opened { close(descriptor) } }
            while !opened.contains(socket.descriptor ?? -1), opened.count < 100 {
                var pair: [CInt] = [-1, -1]
                try #require(socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &pair) == 0)
                opened += pair
            }
            return [before, socket.send(ByteBuffer(string: "x"))]
        }.get()
        #expect(taken == [1, 0])
        client.close(promise: nil)
    }

    /// A part goes to the socket and the rest waits in the channel: what comes then must not overtake it.
    @Test func aClientThatReadsLateGetsAllOfItInOrder() async throws {
        let words = (0..<10_000).map { "\($0)-" + String(repeating: "x", count: 400) }
        let sent = Mutex(0)
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                for word in words {
                    try await connection.chunk(Scripts.token("\"\(word)\""))
                    sent.withLock { $0 += 1 }
                }
                try await connection.chunk(Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer",
                        headers: [("Content-Type", "application/json"), ("Connection", "close")],
                        body: #"{"prompt":"x","stream":true}"#))
                // Many times what the socket holds.
                while sent.withLock({ $0 }) < 4000 { await Task.yield() }
                let reply = Array(try await connection.readToEnd().utf8)
                var rest = reply[...]
                for word in words {
                    let event = Array("event: token\ndata: {\"text\":\"\(word)\"}\n\n".utf8)
                    // After the head, or the sizes of chunks.
                    let begin = try #require(rest.prefix(2000).firstRange(of: event.prefix(12))).lowerBound
                    let isNext = rest[begin...].starts(with: event)
                    try #require(isNext, "\(word.prefix(8)) comes next")
                    rest = rest[(begin + event.count)...]
                }
            }
        }
        await upstream.close()
    }
}
