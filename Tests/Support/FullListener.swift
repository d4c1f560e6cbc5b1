import NIOCore
import NIOPosix

/// A port whose queue of connections is full: who connects gets neither an answer nor a refusal.
package struct FullListener: Sendable {
    package let port: Int
    private let channels: [any Channel]

    package static func start(host: String = "127.0.0.1", port: Int = 0) async throws -> FullListener {
        let group = MultiThreadedEventLoopGroup.singleton
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 0)
            .serverChannelOption(.autoRead, value: false)
            .bind(host: host, port: port).get()
        let address = listener.localAddress!
        // The one that a queue of length zero holds.
        let only = try await ClientBootstrap(group: group).connect(to: address).get()
        return FullListener(port: address.port!, channels: [listener, only])
    }

    package func close() async { for channel in channels { try? await channel.close() } }
}
