import ArgumentParser
import GatewayCore
import GatewayServer
import Glibc
import Logging
import ServiceLifecycle
import UnixSignals

/// Runs the gateway until a signal.
struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "serve", abstract: "Run the gateway.")

    @OptionGroup var options: ConfigurationOptions

    @Flag(
        help: """
            Listen beside a gateway that still has the addresses, to take its place; then send that one SIGTERM. \
            No connection is lost.
            """)
    var takeOver = false

    func run() async throws {
        // Before any thread starts: a write to a connection that is gone is an error, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        let configuration = try options.load().configuration
        let sink = LogSink()
        let logger = Logger(label: "gateway") { label in
            GatewayLogHandler(label: label, configuration: configuration.log, sink: sink)
        }
        let server: HTTPServer
        do {
            // A reload reads the same file, wherever the process stands by then.
            let (file, listen) = (options.file, options.listen)
            server = try await HTTPServer.start(
                try Gateway(configuration, logger: logger, logSink: sink),
                source: {
                    try ConfigurationLoader.load(
                        file: file, environment: ConfigurationOptions.environment, listen: listen
                    ).configuration
                },
                handover: Handover(environment: ConfigurationOptions.environment, takesOver: takeOver))
        } catch let error as GatewayError {
            sink.flush()
            printError(error.description)
            throw ExitCode.failure
        }
        for address in server.addresses { logger.notice("listening", metadata: ["address": "\(address.plainText)"]) }
        for address in server.adminAddresses {
            logger.notice("listening for operators", metadata: ["address": "\(address.plainText)"])
        }
        ServiceManager.notify("READY=1")
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(
                        service: ServerService(server: server), successTerminationBehavior: .gracefullyShutdownGroup),
                    .init(service: ReloadService(server: server), successTerminationBehavior: .ignore),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: Logger(label: "lifecycle") { _ in SwiftLogNoOpLogHandler() }))
        try await group.run()
        logger.notice("stopped")
        sink.flush()
    }
}

/// Drains the server at the first signal; a second one ends the process at once.
private struct ServerService: Service {
    let server: HTTPServer

    func run() async throws {
        try await gracefulShutdown()
        exitAtNextSignal()
        ServiceManager.notify("STOPPING=1")
        await server.drain()
    }

    private func exitAtNextSignal() {
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in _exit(1) }
        }
    }
}

/// Reloads the configuration at each SIGHUP.
private struct ReloadService: Service {
    let server: HTTPServer

    func run() async throws {
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() {
            _ = try? server.reload()  // it says in the log what became of it
        }
    }
}
