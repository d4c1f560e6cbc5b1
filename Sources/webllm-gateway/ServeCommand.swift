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
            server = try await HTTPServer.start(try Gateway(configuration, logger: logger, logSink: sink))
        } catch let error as GatewayError {
            sink.flush()
            printError(error.description)
            throw ExitCode.failure
        }
        for address in server.addresses { logger.notice("listening", metadata: ["address": "\(address.plainText)"]) }
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(
                        service: ServerService(server: server), successTerminationBehavior: .gracefullyShutdownGroup)
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
        await server.drain()
    }

    private func exitAtNextSignal() {
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in _exit(1) }
        }
    }
}
