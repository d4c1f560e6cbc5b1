import CurlMulti
import GatewayCore
import Glibc
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// The listeners and the event loops behind them; owns a ``Gateway`` while it runs.
package final class HTTPServer: Sendable {
    package let gateway: Gateway
    private let group: MultiThreadedEventLoopGroup
    private let listeners: [any Channel]
    private let loops: [NIOLoopBound<LoopContext>]
    private let probers: NIOLoopBound<[HealthProber]>
    private let isStopped = Atomic<Bool>(false)

    /// The addresses that are listened on: the ports the system chose, where 0 was asked for.
    package var addresses: [SocketAddress] { listeners.compactMap(\.localAddress) }

    /// Binds every address, starts the probes and serves.
    /// - Throws: ``GatewayError`` with one clear line, for example for an address in use.
    package static func start(_ gateway: Gateway) async throws -> HTTPServer {
        let configured = gateway.configuration.server.threads
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configured == 0 ? System.coreCount : configured)
        var loops: [NIOLoopBound<LoopContext>] = []
        for eventLoop in group.makeIterator() {
            loops.append(
                try await eventLoop.submit {
                    NIOLoopBound(LoopContext(eventLoop: eventLoop), eventLoop: eventLoop)
                }.get())
        }
        var listeners: [any Channel] = []
        do {
            for address in gateway.configuration.server.listen {
                listeners.append(try await bind(address, gateway: gateway, loops: loops, group: group))
            }
        } catch {
            for listener in listeners { try? await listener.close() }
            gateway.engine.shutdown()
            try? await group.shutdownGracefully()
            throw error
        }
        let first = loops[0]
        let probers = try await startProbers(gateway, on: first)
        return HTTPServer(gateway: gateway, group: group, listeners: listeners, loops: loops, probers: probers)
    }

    /// Starts a prober for each upstream, all on one loop.
    private static func startProbers(
        _ gateway: Gateway, on loop: NIOLoopBound<LoopContext>
    ) async throws -> NIOLoopBound<[HealthProber]> {
        try await loop.eventLoop.submit {
            let probers = gateway.endpoints.indices.map { index in
                HealthProber(gateway: gateway, loop: loop.value, id: UpstreamID(index: index))
            }
            for prober in probers { prober.start() }
            return NIOLoopBound(probers, eventLoop: loop.eventLoop)
        }.get()
    }

    private init(
        gateway: Gateway, group: MultiThreadedEventLoopGroup, listeners: [any Channel],
        loops: [NIOLoopBound<LoopContext>], probers: NIOLoopBound<[HealthProber]>
    ) {
        self.gateway = gateway
        self.group = group
        self.listeners = listeners
        self.loops = loops
        self.probers = probers
    }

    private static func bind(
        _ address: ListenAddress, gateway: Gateway, loops: [NIOLoopBound<LoopContext>],
        group: MultiThreadedEventLoopGroup
    ) async throws -> any Channel {
        let contexts = Dictionary(uniqueKeysWithValues: loops.map { (ObjectIdentifier($0.eventLoop), $0) })
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: 4)
            .childChannelInitializer { channel in
                guard gateway.connectionOpened(), let context = contexts[ObjectIdentifier(channel.eventLoop)] else {
                    return channel.close()
                }
                return channel.eventLoop.makeCompletedFuture {
                    let connection = HTTPConnection(gateway: gateway, loop: context.value)
                    try channel.pipeline.syncOperations.addHandlers([
                        ByteMeter(connection),
                        ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .dropBytes)),
                        connection,
                    ])
                }
            }
        do {
            switch address {
            case .tcp(let host, let port):
                return try await bootstrap.childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
                    .bind(host: host, port: port).get()
            case .unix(let path):
                return try await bootstrap.bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
            }
        } catch {
            throw GatewayError("cannot listen on \(address): \(reason(error))")
        }
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? IOError else { return "\(error)" }
        switch error.errnoCode {
        case EADDRINUSE: return "the address is in use"
        case EACCES: return "permission denied"
        case EADDRNOTAVAIL: return "this machine has no such address"
        default: return String(cString: strerror(error.errnoCode))
        }
    }

    /// Ends as policy says: no new connections, idle ones closed, running requests for at most the drain time.
    package func drain() async {
        gateway.startDraining()
        for listener in listeners { try? await listener.close() }
        forEachConnection { $0.drain() }
        let end = MonotonicTime.now + gateway.configuration.server.drainTimeout
        while gateway.openConnections > 0, MonotonicTime.now < end {
            try? await Task.sleep(for: .milliseconds(20))
        }
        if gateway.openConnections > 0 {
            gateway.logger.warning(
                "drain time is over", metadata: ["connections": .stringConvertible(gateway.openConnections)])
            forEachConnection { $0.endNow() }
            try? await Task.sleep(for: .milliseconds(600))
        }
        await stop()
    }

    /// Stops at once; a second call does nothing.
    package func stop() async {
        guard !isStopped.exchange(true, ordering: .relaxed) else { return }
        for listener in listeners { try? await listener.close() }
        let probers = probers
        try? await probers.eventLoop.submit { for prober in probers.value { prober.stop() } }.get()
        gateway.engine.shutdown()
        try? await group.shutdownGracefully()
    }

    private func forEachConnection(_ body: @escaping @Sendable (HTTPConnection) -> Void) {
        for loop in loops {
            loop.eventLoop.execute { for connection in loop.value.openConnections { body(connection) } }
        }
    }
}

extension SocketAddress {
    /// As gateway.conf has it: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/gateway.sock`.
    package var plainText: String {
        guard let host = ipAddress, let port else { return "unix:\(pathname ?? "")" }
        return ListenAddress.tcp(host: host, port: port).description
    }
}

extension ListenAddress: CustomStringConvertible {
    package var description: String {
        switch self {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): "unix:\(path)"
        }
    }
}
