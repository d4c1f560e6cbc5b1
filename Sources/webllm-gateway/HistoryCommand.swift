import ArgumentParser
import Foundation
import GatewayServer

/// The last requests of a running gateway.
struct HistoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "Show the last requests of a running gateway.")

    @Option(help: "The gateway's address.")
    var gateway = "127.0.0.1:8000"

    @Option(help: "How many requests, 1 to 100.")
    var limit = 20

    @Flag(help: "Only requests that were not answered.")
    var errors = false

    @Flag(help: "Print the gateway's JSON as it is.")
    var json = false

    private struct History: Decodable {
        var history: [Entry]
    }

    private struct Entry: Decodable {
        var text: String
        var tokensGenerated: Int
        var inferenceTimeMs: Double
        var modelId: String
        var success: Bool
        var error: String?
        var timestamp: String
    }

    func validate() throws {
        guard (1...100).contains(limit) else { throw ValidationError("--limit must be 1 to 100") }
    }

    func run() async throws {
        try await GatewayClient.use(gateway) { client in
            let reply = try await client.get("/webllm/api/history?limit=\(limit)")
            let decoder = JSONDecoder()
            decoder.keyDecodingStrategy = .convertFromSnakeCase
            guard reply.status == 200, let history = try? decoder.decode(History.self, from: Data(reply.body)) else {
                throw GatewayError("\(gateway) does not answer like a webllm-gateway")
            }
            if json {
                print(String(decoding: reply.body, as: UTF8.self))
            } else {
                show(history.history.filter { !errors || !$0.success })
            }
        }
    }

    private func show(_ entries: [Entry]) {
        var table = TextTable(["TIME (UTC)", "MODEL", "TOKENS", "MS", "ANSWER"])
        for entry in entries {
            // Model output goes to a terminal: nothing that steers one.
            let answer = (entry.error ?? entry.text).unicodeScalars.map { scalar in
                scalar.properties.generalCategory == .control ? " " : String(scalar)
            }.joined()
            table.add([
                String(entry.timestamp.prefix(19)), entry.modelId, "\(entry.tokensGenerated)",
                "\(Int(entry.inferenceTimeMs))", String(answer.prefix(60)),
            ])
        }
        for (index, line) in table.lines.enumerated() {
            print(index > 0 && !entries[index - 1].success ? Paint.bad(line) : line)
        }
    }
}
