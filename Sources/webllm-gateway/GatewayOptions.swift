import ArgumentParser
import GatewayServer

/// What the commands share that ask a gateway as its clients do.
struct GatewayOptions: ParsableArguments {
    @Option(help: "The gateway's address, or unix:PATH; WEBLLM_GATEWAY_ADDRESS changes the default.")
    var gateway = Self.defaultAddress

    @Option(
        help: "The model, as clients call it. Default: the gateway's default model.",
        completion: .models)
    var model: String?

    static var defaultAddress: String { variable("WEBLLM_GATEWAY_ADDRESS") ?? "127.0.0.1:8000" }
}

extension GatewayClient {
    /// A client for one piece of work; what goes wrong is told in one line, and ends the command.
    static func use<Value>(
        _ address: String, token: String? = nil, _ body: (GatewayClient) async throws -> Value
    ) async throws -> Value {
        do {
            let client = try GatewayClient(address, token: token)
            defer { client.shutdown() }
            return try await body(client)
        } catch let failure as Failure {
            printError(failure.description)
            throw failure.isCutOff ? ExitCode.failure : ExitCode.noGateway
        } catch let error as GatewayError {
            printError(error.description)
            throw ExitCode.validationFailure
        }
    }
}
