import ArgumentParser
import Foundation
import GatewayServer
import Glibc

/// Asks the gateway one question, as its clients do, and prints the answer as it comes.
struct ChatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chat", abstract: "Ask a running gateway and print the answer as it comes.")

    @Argument(help: "The prompt.")
    var prompt: String

    @Option(help: "The gateway's address.")
    var gateway = "127.0.0.1:8000"

    @Option(help: "The model, as clients call it. Default: the gateway's default model.")
    var model: String?

    @Option(help: "Most tokens of the answer.")
    var maxTokens: Int?

    private struct Request: Encodable {
        var prompt: String
        var stream = true
        var modelID: String?
        var maxTokens: Int?

        enum CodingKeys: String, CodingKey {
            case prompt, stream
            case modelID = "model_id"
            case maxTokens = "max_tokens"
        }
    }

    /// A line of the NDJSON stream; or the object of a reply that was refused, which has no type.
    private struct Line: Decodable {
        var type: String?
        var text: String?
        var error: String?
        var tokensGenerated: Int?
        var inferenceTimeMs: Double?
    }

    func run() async throws {
        let body = try JSONEncoder().encode(Request(prompt: prompt, modelID: model, maxTokens: maxTokens))
        try await GatewayClient.use(gateway) { client in
            var rest: [UInt8] = []
            var isOver = false
            for try await piece in try client.stream("/webllm/api/infer", String(decoding: body, as: UTF8.self)) {
                rest += piece.body
                while let end = rest.firstIndex(of: 0x0A) {
                    isOver = try show(Array(rest[..<end])) || isOver
                    rest.removeFirst(end + 1)
                }
            }
            if !rest.isEmpty { isOver = try show(rest) || isOver }
            guard isOver else {
                printError("the answer was cut off")
                throw ExitCode.failure
            }
        }
    }

    /// - Returns: whether the line was the stream's end.
    private func show(_ bytes: [UInt8]) throws -> Bool {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        guard let line = try? decoder.decode(Line.self, from: Data(bytes)) else {
            printError("\(gateway) does not answer like a webllm-gateway")
            throw ExitCode.failure
        }
        if let error = line.error {
            printError(error)
            throw ExitCode.failure
        }
        guard line.type == "done" else {
            print(line.text ?? "", terminator: "")
            fflush(nil)
            return false
        }
        print()
        if isatty(STDOUT_FILENO) == 1, let tokens = line.tokensGenerated, let time = line.inferenceTimeMs {
            print(Paint.faint("\(tokens) tokens in \(Int(time)) ms"))
        }
        return true
    }
}
