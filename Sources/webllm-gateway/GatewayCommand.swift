import ArgumentParser
import GatewayServer

@main
struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "webllm-gateway",
        abstract: "A reverse-proxy gateway for people who run their own language models.",
        discussion: """
            Exit codes: 0 ended as asked, 1 could not start or was ended by a second signal, 64 wrong usage, \
            78 wrong configuration.
            """,
        subcommands: [
            ServeCommand.self, CheckCommand.self, ChatCommand.self, HistoryCommand.self, StatusCommand.self,
            ExplainCommand.self, DrainCommand.self,
            EnableCommand.self, DisableCommand.self, ReloadCommand.self,
        ])
}

/// What `serve` and `check` share.
struct ConfigurationOptions: ParsableArguments {
    @Option(name: [.short, .long], help: "The configuration file. Default: ./gateway.conf where there is one.")
    var config: String?

    @Option(help: "An address to listen on in place of the configured ones; may be given several times.")
    var listen: [String] = []
}

/// EX_CONFIG of sysexits.h.
let configurationExitCode: Int32 = 78
