import ArgumentParser
import GatewayServer

@main
struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "webllm-gateway",
        abstract: "A reverse-proxy gateway for people who run their own language models.",
        discussion: """
            Exit codes:
              0    done as asked
              1    failed: refused, not answered, or a second signal ended `serve`
              64   wrong usage
              69   no gateway answers at the address
              77   the admin token is missing or wrong
              78   the configuration is wrong
              130  ended by Ctrl-C before it was done

            With --json standard output holds JSON and nothing else; what went wrong is told on standard error.
            Colours are for terminals, and NO_COLOR turns them off.

            Environment of the commands that ask a running gateway:
              WEBLLM_GATEWAY_ADDRESS        its address, for --gateway
              WEBLLM_GATEWAY_ADMIN_ADDRESS  its admin address, for --admin
              WEBLLM_GATEWAY_ADMIN_TOKEN    the admin token, where there is no --token-file
            """,
        version: GatewayVersion.current,
        groupedSubcommands: [
            CommandGroup(name: "Run", subcommands: [ServeCommand.self, CheckCommand.self, TokenCommand.self]),
            CommandGroup(name: "Ask", subcommands: [ChatCommand.self, BenchCommand.self]),
            CommandGroup(
                name: "See",
                subcommands: [
                    StatusCommand.self, RunningCommand.self, HistoryCommand.self, ExplainCommand.self,
                ]),
            CommandGroup(
                name: "Operate",
                subcommands: [
                    CancelCommand.self, DrainCommand.self, EnableCommand.self, DisableCommand.self, ReloadCommand.self,
                ]),
        ])
}

extension ExitCode {
    /// EX_UNAVAILABLE of sysexits.h.
    static let noGateway = ExitCode(69)
    /// EX_NOPERM.
    static let noPermission = ExitCode(77)
    /// EX_CONFIG.
    static let configuration = ExitCode(78)
    /// As a shell has it of a process that SIGINT ended.
    static let interrupted = ExitCode(130)
}
