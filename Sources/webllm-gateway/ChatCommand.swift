import ArgumentParser
import Foundation
import GatewayServer
import Glibc

/// Asks the gateway one question, as its clients do, and prints the answer as it comes. Ctrl-C ends the process, and its
/// connection: the gateway stops the generation.
struct ChatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chat", abstract: "Ask a running gateway and print the answer as it comes.",
        discussion: "With --json: the stream's NDJSON lines as they are.")

    @Argument(help: "The prompt; - or none takes it from standard input.")
    var prompt: String?

    @OptionGroup var options: GatewayOptions

    @Option(help: "Most tokens of the answer.")
    var maxTokens: Int?

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let body = try GenerationRequest(prompt: try question(), modelID: options.model, maxTokens: maxTokens).body()
        try await GatewayClient.use(options.gateway) { client in
            var buffer = LineBuffer()
            var isOver = false
            for try await piece in client.stream(GenerationRequest.path, body) {
                for line in buffer.add(piece.bytes) { isOver = try show(line) || isOver }
            }
            if !buffer.rest.isEmpty { isOver = try show(buffer.rest[...]) || isOver }
            guard isOver else {
                printError("the answer was cut off")
                throw ExitCode.failure
            }
        }
    }

    private func question() throws -> String {
        if let prompt, prompt != "-" { return prompt }
        guard prompt == "-" || isatty(STDIN_FILENO) == 0 else {
            throw ValidationError("Give a prompt, or - to take it from standard input")
        }
        guard let text = String(data: FileHandle.standardInput.readDataToEndOfFile(), encoding: .utf8) else {
            throw ValidationError("Standard input is not UTF-8 text")
        }
        return text.trimmingCharacters(in: .newlines)
    }

    /// - Returns: whether the line was the stream's end.
    private func show(_ bytes: ArraySlice<UInt8>) throws -> Bool {
        guard let line = GenerationLine(bytes) else {
            printError("\(options.gateway) does not answer like a webllm-gateway")
            throw ExitCode.failure
        }
        if json { printRaw(bytes) }
        if let error = line.error {
            printError(error)
            throw ExitCode.failure
        }
        guard !json else { return line.type == "done" }
        guard line.type == "done" else {
            printText((line.text ?? "").printable(keeping: "\n\t"))
            return false
        }
        printLine()
        if isatty(STDOUT_FILENO) == 1, let tokens = line.tokensGenerated, let time = line.inferenceTimeMs {
            printLine(Style.faint.paint("\(tokens) tokens in \(Words.milliseconds(time))"))
        }
        return true
    }
}
