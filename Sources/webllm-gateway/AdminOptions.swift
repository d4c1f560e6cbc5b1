import ArgumentParser
import Foundation
import GatewayServer

/// What the commands share that ask a running gateway's admin listener.
struct AdminOptions: ParsableArguments {
    @Option(help: "The gateway's admin address, or unix:PATH; WEBLLM_GATEWAY_ADMIN_ADDRESS changes the default.")
    var admin = Self.defaultAddress

    // An argument would show the token to every user of the machine.
    @Option(
        help: "A file with the admin token. Default: what WEBLLM_GATEWAY_ADMIN_TOKEN holds.", completion: .file())
    var tokenFile: String?

    @Flag(help: "Print JSON.")
    var json = false

    static var defaultAddress: String { variable("WEBLLM_GATEWAY_ADMIN_ADDRESS") ?? "127.0.0.1:8001" }

    static var defaultToken: String? { variable("WEBLLM_GATEWAY_ADMIN_TOKEN") }

    private func token() throws -> String? {
        guard let tokenFile else { return Self.defaultToken }
        // A pipe of the shell's is one too. An empty file has an end, and no data.
        guard let file = FileHandle(forReadingAtPath: tokenFile), let bytes = try? file.readToEnd() ?? Data() else {
            printError("\(tokenFile) cannot be read")
            throw ExitCode.noPermission
        }
        let text = String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        guard !text.isEmpty else {
            printError("\(tokenFile) is empty")
            throw ExitCode.noPermission
        }
        return text
    }

    func withClient<Value>(_ body: (GatewayClient) async throws -> Value) async throws -> Value {
        try await GatewayClient.use(admin, token: try token(), body)
    }

    /// Asks, and gives the decoded reply; prints it in place where JSON is wanted.
    func get<Value: Decodable>(_ path: String, as type: Value.Type) async throws -> Value? {
        try await show(withClient { try await $0.get(path) }, as: type)
    }

    func post<Value: Decodable>(_ path: String, as type: Value.Type) async throws -> Value? {
        try await show(withClient { try await $0.post(path) }, as: type)
    }

    private func show<Value: Decodable>(_ reply: GatewayClient.Reply, as type: Value.Type) throws -> Value? {
        try reply.check(from: admin)
        guard json else { return try reply.decoded(as: type) }
        printRaw(reply.body)
        return nil
    }
}

extension GatewayClient.Reply {
    private struct Refusal: Decodable {
        var error: String
        var reason: String?
    }

    /// Ends the command with what the gateway says where that is not a success.
    /// - Parameter address: of the admin listener that was asked.
    func check(from address: String) throws {
        guard status != 200 else { return }
        let refusal = try? JSONDecoder().decode(Refusal.self, from: Data(body))
        // As a gateway answers for paths that it does not have; where one has the path, it says more.
        if status == 404, refusal?.error ?? "Not found" == "Not found" {
            printError("\(address) is not the admin listener of a gateway")
            throw ExitCode.failure
        }
        printError(
            [refusal?.error ?? "the gateway answered \(status)", refusal?.reason].compactMap { $0 }
                .joined(separator: ": "))
        switch status {
        case 400: throw ExitCode.validationFailure
        case 401: throw ExitCode.noPermission
        case 409: throw ExitCode.configuration  // of a reload
        default: throw ExitCode.failure
        }
    }

    func decoded<Value: Decodable>(as type: Value.Type) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            return try decoder.decode(type, from: Data(body))
        } catch {
            printError("the answer is not one of this version's gateway")
            throw ExitCode.failure
        }
    }
}
