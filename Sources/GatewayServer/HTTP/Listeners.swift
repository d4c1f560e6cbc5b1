import GatewayCore
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix

/// The listening sockets: those for clients and those for operators.
package struct Listeners: Sendable {
    /// One socket, and its file where it has one.
    struct Listener: Sendable {
        let channel: any Channel
        var file: UnixSocketFile?

        /// With the port the system chose, where 0 was asked for.
        var address: SocketAddress? { file?.address ?? channel.localAddress }

        func close() async {
            file?.remove()
            try? await channel.close()
        }
    }

    let client: [Listener]
    let admin: [Listener]

    /// Binds the configured addresses, or takes over sockets that are bound already.
    static func bind(
        _ gateway: Gateway, handover: Handover, loops: [NIOLoopBound<LoopContext>], group: MultiThreadedEventLoopGroup
    ) async throws -> Listeners {
        // Two event loops that make their first parser at the same moment may crash in Swift's runtime: it looks for the
        // superclass of a generic class that the other one has not finished (6.3.1, swift_conformsToProtocol).
        withExtendedLifetime(parser()) {}
        let configuration = gateway.configuration
        var client: [Listener] = []
        var admin: [Listener] = []
        do {
            for socket in handover.sockets {
                client.append(try await takeOver(socket, gateway, loops, group))
            }
            if handover.sockets.isEmpty {
                for address in configuration.server.listen {
                    client.append(try await bind(address, Routes.client, handover, gateway, loops, group))
                }
            }
            for address in configuration.admin.listen {
                admin.append(try await bind(address, Routes.admin, handover, gateway, loops, group))
            }
            for listener in client + admin { try listener.file?.publish() }
        } catch {
            for listener in client + admin { await listener.close() }
            throw error
        }
        return Listeners(client: client, admin: admin)
    }

    /// Lets no more clients in. Another process may have taken the addresses over: connections that wait to be accepted
    /// must not be lost with the sockets.
    func closeToClients() async {
        for listener in client { listener.file?.remove() }
        for listener in client + admin { await Handover.sendNewConnectionsToTheNewest(listener.channel) }
        for listener in client { await Handover.waitUntilAllAreAccepted(listener.channel) }
        for listener in client { await listener.close() }
    }

    func close() async {
        for listener in client + admin { await listener.close() }
    }

    private static func bootstrap(
        _ routes: Routes, _ gateway: Gateway, _ loops: [NIOLoopBound<LoopContext>], _ group: MultiThreadedEventLoopGroup
    ) -> ServerBootstrap {
        let contexts = Dictionary(uniqueKeysWithValues: loops.map { (ObjectIdentifier($0.eventLoop), $0) })
        return ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.maxMessagesPerRead, value: 16)
            // The kernel would take megabytes for a client that does not read. TCP connections inherit it from their
            // listener, and TCP_NODELAY, which NIO sets there.
            .serverChannelOption(.socketOption(.so_sndbuf), value: 128 << 10)
            // Each connection keeps such a buffer; most requests fit into the half of what NIO begins with.
            .childChannelOption(
                .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 64, initial: 1024, maximum: 65536)
            )
            .childChannelInitializer { channel in
                let address = address(of: channel)
                let client = ClientID(address)
                guard let context = contexts[ObjectIdentifier(channel.eventLoop)],
                    gateway.connectionOpened(client, of: routes.audience)
                else { return channel.close() }
                return channel.eventLoop.makeCompletedFuture {
                    try serve(channel, gateway, context.value, routes, client, address)
                }
            }
    }

    private static func serve(
        _ channel: any Channel, _ gateway: Gateway, _ loop: LoopContext, _ routes: Routes, _ client: ClientID,
        _ address: String
    ) throws {
        let connection = HTTPConnection(
            gateway: gateway, loop: loop, routes: routes, client: client, address: address)
        try channel.pipeline.syncOperations.addHandlers([
            ByteMeter(connection),
            parser(),
            connection,
        ])
    }

    /// Of its client. Written out once: each time takes a microsecond.
    private static func address(of channel: any Channel) -> String { channel.remoteAddress?.ipAddress ?? "unix" }

    private static func parser() -> ByteToMessageHandler<HTTPRequestDecoder> {
        ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .dropBytes))
    }

    /// Serves a client on a channel that no listener accepted, such as one without a socket. Call on its event loop.
    package static func serve(_ channel: any Channel, by gateway: Gateway) throws {
        let address = address(of: channel)
        let client = ClientID(address)
        _ = gateway.connectionOpened(client, of: .clients)
        let loop = LoopContext(eventLoop: channel.eventLoop, gateway: gateway)
        try serve(channel, gateway, loop, Routes.client, client, address)
    }

    private static func takeOver(
        _ socket: Int32, _ gateway: Gateway, _ loops: [NIOLoopBound<LoopContext>], _ group: MultiThreadedEventLoopGroup
    ) async throws -> Listener {
        do {
            return Listener(
                channel: try await bootstrap(Routes.client, gateway, loops, group).withBoundSocket(socket).get())
        } catch {
            throw GatewayError(
                "cannot listen on the socket that was handed over as descriptor \(socket): \(reason(error))")
        }
    }

    private static func bind(
        _ address: ListenAddress, _ routes: Routes, _ handover: Handover, _ gateway: Gateway,
        _ loops: [NIOLoopBound<LoopContext>], _ group: MultiThreadedEventLoopGroup
    ) async throws -> Listener {
        let bootstrap = bootstrap(routes, gateway, loops, group)
        do {
            switch address {
            case .tcp(let host, let port):
                if !handover.takesOver && port != 0 { try checkFree(host, port) }
                let channel = try await bootstrap.serverChannelOption(
                    .socketOption(.init(rawValue: SO_REUSEPORT)), value: 1
                ).bind(host: host, port: port).get()
                return Listener(channel: channel)
            case .unix(let path):
                let (descriptor, file) = try UnixSocketFile.listen(at: path, takesOver: handover.takesOver)
                return Listener(channel: try await bootstrap.withBoundSocket(descriptor).get(), file: file)
            }
        } catch {
            throw GatewayError("cannot listen on \(address): \(reason(error))")
        }
    }

    /// A socket that shares its port can be bound beside another one: only one that does not share tells whether the
    /// port is free. It does not listen: nobody would answer a client that connects just then.
    private static func checkFree(_ host: String, _ port: Int) throws {
        let address = try SocketAddress(ipAddress: host, port: port)
        let descriptor = socket(
            address.protocol.rawValue, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "socket") }
        defer { Glibc.close(descriptor) }
        var reuse: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuse, socklen_t(MemoryLayout.size(ofValue: reuse)))
        let result = address.withSockAddr { Glibc.bind(descriptor, $0, socklen_t($1)) }
        guard result == 0 else { throw IOError(errnoCode: errno, reason: "bind") }
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? IOError else { return "\(error)" }
        switch error.errnoCode {
        case EADDRINUSE: return "the address is in use"
        case EACCES: return "permission denied"
        case ENOTSOCK: return "it is no socket"
        case EADDRNOTAVAIL: return "this machine has no such address"
        default: return String(cString: strerror(error.errnoCode))
        }
    }
}

extension ClientID {
    /// One for each address; all clients of a Unix socket, which have none, are one.
    init(_ address: String) {
        var hasher = Hasher()
        hasher.combine(address)
        self.init(rawValue: UInt64(bitPattern: Int64(hasher.finalize())))
    }
}
