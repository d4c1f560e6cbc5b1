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
        // A SIGHUP that comes before anything can be reloaded does not end the process.
        let hangups = await UnixSignalsSequence(trapping: .sighup)
        let loaded = try options.load()
        let configuration = loaded.configuration
        let sink = LogSink()
        let logger = Logger(label: "gateway") { _ in GatewayLogHandler(configuration: configuration.log, sink: sink) }
        for warning in loaded.warnings { logger.warning("configuration", metadata: ["reason": .string(warning)]) }
        OpenFiles.makeRoom(for: configuration.server, logger)
        // A reload reads the same file, wherever the process stands by then.
        let (file, listen) = (options.file, options.listen)
        let service = GatewayService(
            configuration: configuration, logger: logger, sink: sink,
            source: {
                try ConfigurationLoader.load(file: file, environment: environment, listen: listen)
            },
            hangups: hangups,
            handover: Handover(environment: environment, takesOver: takeOver))
        let group = ServiceGroup(
            configuration: .init(
                services: [.init(service: service, successTerminationBehavior: .gracefullyShutdownGroup)],
                logger: Logger(label: "lifecycle") { _ in SwiftLogNoOpLogHandler() }))
        // One reader of both signals, before anything listens: the first drains, the second ends.
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        let stopper = Task {
            var count = 0
            for await _ in signals {
                count += 1
                if count > 1 { _exit(1) }
                await group.triggerGracefulShutdown()
            }
        }
        defer { stopper.cancel() }
        do {
            try await group.run()
        } catch let error as GatewayError {
            sink.flush()
            printError(error.description)
            throw ExitCode.failure
        }
        logger.info("stopped")
        sink.flush()
    }
}

/// Starts the gateway, reloads it at each SIGHUP, and drains it when the group shuts down.
private struct GatewayService: Service {
    let configuration: GatewayConfiguration
    let logger: Logger
    let sink: LogSink
    let source: HTTPServer.ConfigurationSource
    let hangups: UnixSignalsSequence
    let handover: Handover

    func run() async throws {
        let server = try await HTTPServer.start(
            try Gateway(configuration, logger: logger, logSink: sink), source: source, handover: handover)
        for address in server.addresses { logger.info("listening", metadata: ["address": "\(address.plainText)"]) }
        for address in server.adminAddresses {
            logger.info("listening for operators", metadata: ["address": "\(address.plainText)"])
        }
        ServiceManager.notify("READY=1")
        for await _ in hangups.cancelOnGracefulShutdown() {
            _ = try? server.reload()  // it says in the log what became of it
        }
        ServiceManager.notify("STOPPING=1")
        await server.drain()
    }
}
