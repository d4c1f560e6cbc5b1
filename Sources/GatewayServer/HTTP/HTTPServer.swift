import CurlMulti
import GatewayCore
import Logging
import NIOCore
import NIOPosix
import Synchronization

/// The listeners and the event loops behind them; runs a ``Gateway``.
package final class HTTPServer: Sendable {
    /// Reads the configuration again, for a reload.
    package typealias ConfigurationSource = @Sendable () throws -> LoadedConfiguration

    package let gateway: Gateway
    private let group: MultiThreadedEventLoopGroup
    private let listeners: Listeners
    private let loops: [NIOLoopBound<LoopContext>]
    private let probers: NIOLoopBound<ProberSet>
    private let source: ConfigurationSource?
    /// As the process started: what takes effect only then is compared with it.
    private let started: GatewayConfiguration
    private let isStopped = Atomic<Bool>(false)
    private let reloading = Mutex(())

    /// The addresses that clients are served on: the ports the system chose, where 0 was asked for.
    package var addresses: [SocketAddress] { listeners.client.compactMap(\.address) }
    package var adminAddresses: [SocketAddress] { listeners.admin.compactMap(\.address) }

    /// Binds every address, starts the probes and serves.
    /// - Parameters:
    ///   - source: where a reload reads the configuration; nil where it cannot be read again.
    ///   - handover: what an earlier process of the gateway leaves to this one.
    /// - Throws: ``GatewayError`` with one clear line, for example for an address in use.
    package static func start(
        _ gateway: Gateway, source: ConfigurationSource? = nil, handover: Handover = Handover()
    ) async throws -> HTTPServer {
        let configured = gateway.configuration.server.threads
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configured == 0 ? System.coreCount : configured)
        var loops: [NIOLoopBound<LoopContext>] = []
        for eventLoop in group.makeIterator() {
            loops.append(
                try await eventLoop.submit {
                    NIOLoopBound(LoopContext(eventLoop: eventLoop, gateway: gateway), eventLoop: eventLoop)
                }.get())
        }
        let listeners: Listeners
        do {
            listeners = try await Listeners.bind(gateway, handover: handover, loops: loops, group: group)
        } catch {
            gateway.engine.shutdown()
            try? await group.shutdownGracefully()
            gateway.history.close()
            throw error
        }
        let first = loops[0]
        let snapshot = gateway.snapshot
        let probers = try await first.eventLoop.submit {
            let set = ProberSet(gateway: gateway, loop: first.value)
            set.update(snapshot)
            return NIOLoopBound(set, eventLoop: first.eventLoop)
        }.get()
        let server = HTTPServer(
            gateway: gateway, group: group, listeners: listeners, loops: loops, probers: probers, source: source)
        gateway.setOperations(server)
        return server
    }

    private init(
        gateway: Gateway, group: MultiThreadedEventLoopGroup, listeners: Listeners,
        loops: [NIOLoopBound<LoopContext>], probers: NIOLoopBound<ProberSet>, source: ConfigurationSource?
    ) {
        self.gateway = gateway
        self.group = group
        self.listeners = listeners
        self.loops = loops
        self.probers = probers
        self.source = source
        started = gateway.configuration
    }

    /// Ends as policy says: no new clients, idle connections closed, running requests for at most the drain time.
    /// Operators and load balancers can ask how it goes until the end.
    package func drain() async {
        gateway.startDraining()
        await listeners.closeToClients()
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
        gateway.setOperations(nil)
        await listeners.close()
        let probers = probers
        try? await probers.eventLoop.submit { probers.value.stop() }.get()
        gateway.engine.shutdown()
        try? await group.shutdownGracefully()
        gateway.history.close()
    }

    private func forEachConnection(_ body: @escaping @Sendable (HTTPConnection) -> Void) {
        for loop in loops {
            loop.eventLoop.execute { for connection in loop.value.openConnections { body(connection) } }
        }
    }
}

extension HTTPServer: GatewayOperations {
    /// Reads the configuration again: the whole new one, or the old one with the reason in the log.
    @discardableResult
    package func reload() throws -> [String] {
        guard let source else { throw GatewayError("this gateway has no configuration to read again") }
        // Two at once, by signal and by request, would leave parts of both.
        return try reloading.withLock { _ in try reload(from: source) }
    }

    private func reload(from source: ConfigurationSource) throws -> [String] {
        do {
            let loaded = try source()
            guard !isStopped.load(ordering: .relaxed) else { throw GatewayError("the gateway has stopped") }
            let configuration = loaded.configuration
            let snapshot = try gateway.apply(configuration)
            OpenFiles.makeRoom(for: configuration.server, gateway.logger)
            let probers = probers
            probers.eventLoop.execute { probers.value.update(snapshot) }
            gateway.metrics.reload(success: true)
            let needsRestart = configuration.settingsThatNeedRestart(from: started)
            gateway.logger.info(
                "configuration reloaded",
                metadata: needsRestart.isEmpty ? nil : ["needs_restart": "\(needsRestart.joined(separator: ","))"])
            for warning in loaded.warnings {
                gateway.logger.warning("configuration", metadata: ["reason": .string(warning)])
            }
            return needsRestart
        } catch {
            gateway.metrics.reload(success: false)
            gateway.logger.error("configuration not reloaded; the old one stays", metadata: ["reason": "\(error)"])
            throw error
        }
    }

    func interrupt(_ upstream: UpstreamID) {
        for loop in loops {
            loop.eventLoop.execute {
                for generation in loop.value.runningGenerations {
                    generation.onEventLoop { $0.interrupt(upstream) }
                }
            }
        }
    }
}

extension HTTPServer {
    /// Each loop is asked for its own, as only it may look at them.
    func running(_ limit: Int, _ done: @escaping @Sendable ([RunningRequest], Int) -> Void) {
        let asked = loops.map { loop in
            loop.eventLoop.submit {
                let all = loop.value.runningGenerations.map { $0.onEventLoop { $0.running } }.sorted {
                    $0.id < $1.id
                }
                return (Array(all.prefix(limit)), all.count)
            }
        }
        EventLoopFuture.whenAllSucceed(asked, on: loops[0].eventLoop).whenSuccess { parts in
            let all = parts.flatMap(\.0).sorted { $0.id < $1.id }
            done(Array(all.prefix(limit)), parts.reduce(0) { $0 + $1.1 })
        }
    }

    func cancel(_ id: UInt64, _ done: @escaping @Sendable (Bool) -> Void) {
        let asked = loops.map { loop in
            loop.eventLoop.submit {
                loop.value.runningGenerations.contains { generation in
                    generation.onEventLoop { generation in
                        guard generation.running.id == id else { return false }
                        generation.abandon(.cancelled)
                        return true
                    }
                }
            }
        }
        EventLoopFuture.whenAllSucceed(asked, on: loops[0].eventLoop).whenSuccess { done($0.contains(true)) }
    }
}

extension SocketAddress {
    /// As gateway.conf has it: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/gateway.sock`.
    package var plainText: String {
        guard let host = ipAddress, let port else { return "unix:\(pathname ?? "")" }
        return ListenAddress.tcp(host: host, port: port).description
    }
}
