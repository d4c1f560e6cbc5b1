import ArgumentParser
import GatewayServer

/// Makes a token for operators.
struct TokenCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "token", abstract: "Make a new random admin token, and its line for gateway.conf.")

    @Flag(help: "Print JSON.")
    var json = false

    private struct Output: Encodable {
        var token: String
        var tokenHash: String
    }

    func run() throws {
        let token = AdminToken()
        if json { return try printJSON(Output(token: token.text, tokenHash: token.hash)) }
        printLine(
            """
            The token, for WEBLLM_GATEWAY_ADMIN_TOKEN or the file of --token-file:
            \(token.text)

            Its line in gateway.conf, below [admin]:
            token_hash = "\(token.hash)"
            """)
    }
}
